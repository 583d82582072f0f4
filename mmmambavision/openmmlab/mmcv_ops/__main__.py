"""python -m mmmambavision.openmmlab.mmcv_ops --install: write operators into the folder of mmcv-lite."""
import argparse
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path

from . import EXTENSION
from . import __name__ as PACKAGE

# If the operators are switched off, the import fails as in mmcv-lite, and programs can continue without operators.
FILE = (
    f'try: from {PACKAGE} import provide; provide(globals())\n'
    "except ModuleNotFoundError as e: raise e if e.name == __name__ else ImportError(f\"{e}: {__file__} takes mmcv's "
    'operators from mmmambavision. Either pip install mmmambavision torchvision, or delete that file")\n')


def compiled(folder):
    """The path of the compiled operators in mmcv's folder, or None."""
    spec = PathFinder.find_spec(EXTENSION, [str(folder)])
    return spec.origin if spec and Path(spec.origin).suffix != '.py' else None


def ours(file):
    return file.exists() and PACKAGE in file.read_text(errors='replace')


def put(folder):
    """Write _ext.py into mmcv's folder and return a message. Raises SystemExit if the folder has other operators."""
    file = folder / '_ext.py'
    if compiled(folder):
        raise SystemExit(f'mmcv has its own compiled operators in {compiled(folder)}: nothing is written.')
    if file.exists() and not ours(file):
        raise SystemExit(f'{file} exists and is not from mmmambavision: nothing is written.')
    file.write_text(FILE)
    return f'{file} is written: mmcv.ops works in every program now. --remove deletes it.'


def remove(folder):
    """Delete the _ext.py from `put` and return a message. Raises SystemExit if the file is not from this package."""
    file = folder / '_ext.py'
    if ours(file):
        file.unlink()
        return f'{file} is removed.'
    if compiled(folder):
        raise SystemExit(f'mmcv has its own compiled operators in {compiled(folder)}: nothing is removed.')
    if file.exists():
        raise SystemExit(f'{file} is not from mmmambavision: nothing is removed.')
    return f'{file} does not exist: nothing to remove.'


def main(arguments=None):
    parser = argparse.ArgumentParser(
        prog=f'python -m {PACKAGE}',
        description='Importing mmmambavision.openmmlab provides operators for mmcv-lite. Some programs import mmdet, '
                    'mmseg or mmcv.ops before mmmambavision.openmmlab, or without it. For them, this command writes '
                    "the operators into mmcv's folder.")
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument('--install', dest='action', action='store_const', const=put,
                        help="write a two-line _ext.py into mmcv's folder; a compiled mmcv is not changed")
    action.add_argument('--remove', dest='action', action='store_const', const=remove, help='delete that file')
    action = parser.parse_args(arguments).action
    mmcv = find_spec('mmcv')
    if mmcv is None:
        raise SystemExit('mmcv is not installed: pip install mmcv-lite==2.1.0')
    try:
        print(action(Path(mmcv.submodule_search_locations[0])))
    except OSError as error:
        raise SystemExit(f"mmcv's folder cannot be changed: {error}. Without the file, import "
                         'mmmambavision.openmmlab before mmdet, mmseg or mmcv.ops') from None


if __name__ == '__main__':
    main()
