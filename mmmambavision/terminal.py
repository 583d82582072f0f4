"""Terminal output of commands: tables, and short error messages without a traceback."""
import sys
from collections.abc import Callable, Iterable, Sequence

from .cli.hints import with_hint
from .errors import UserError

# Packages of the extra `openmmlab`, by the names under which they are imported.
EXTRA = {'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'timm', 'torchvision', 'matplotlib', 'rich', 'tqdm',
         'yaml', 'cv2', 'pycocotools'}
BY_HAND = 130  # exit status of shells after Ctrl-C; scripts with retries must stop at this status


def show(columns: Sequence[str], rows: Iterable[Sequence[str]], markdown: bool = False, left: int = 1) -> None:
    """Print a table of strings on the terminal or as Markdown. The first `left` columns are left-aligned."""
    if markdown:
        print('| ' + ' | '.join(columns) + ' |\n' + '|---' * left + '|---:' * (len(columns) - left) + '|')
        for row in rows:
            print('| ' + ' | '.join(row) + ' |')
        return
    from rich.console import Console
    from rich.table import Table
    table = Table(*columns)
    table.columns[0].no_wrap = True
    for column in table.columns[left:]:
        column.justify = 'right'
    for row in rows:
        table.add_row(*row)
    Console(width=max(180, Console().width)).print(table)


def run(main: Callable[[], object]) -> None:
    """Run a command's `main`. Ctrl-C exits with 130.

    A UserError, and a package of the extra `openmmlab` that is not installed, exit with status 1 and one message.
    """
    try:
        main()
    except UserError as error:
        sys.exit(f'error: {with_hint(error)}')
    except ModuleNotFoundError as error:
        if error.name not in EXTRA:
            raise
        sys.exit(f"error: this command needs {error.name}: pip install 'mmmambavision[openmmlab]'")
    except KeyboardInterrupt as error:
        print(str(error) or 'interrupted', file=sys.stderr)
        sys.exit(BY_HAND)
