"""The program `mmmambavision`, its subcommands and what they share."""
import ast
import re
from importlib.metadata import version
from pathlib import Path

import pytest

from mmmambavision import __version__, recipes
from mmmambavision.cli.hints import HINTS, with_hint
from mmmambavision.cli.main import COMMANDS, main
from mmmambavision.errors import UserError

from ..helpers.process import ROOT, TOOLS


def said(capsys, *arguments):
    """What the program prints."""
    try:
        main([*map(str, arguments)])
    except SystemExit as ended:
        assert ended.code == 0
    return capsys.readouterr().out


def test_version_and_subcommands(capsys):
    assert said(capsys, '--version') == f'mmmambavision {__version__}\n'
    helped = said(capsys, '--help')
    assert all(name in helped for name in COMMANDS)
    for name in COMMANDS:
        assert said(capsys, name, '--help').startswith(f'usage: mmmambavision {name} ')


def test_every_command_of_a_tool_is_a_subcommand():
    modules = {command.__name__.rpartition('.')[2] for command in COMMANDS.values()}
    assert {path.stem for path in TOOLS.glob('*.py')} - {'predict_onnx'} <= modules


@pytest.mark.parametrize('arguments', [['train'], ['tran', 'x.py'], []])
def test_wrong_arguments(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2 and 'usage: mmmambavision' in capsys.readouterr().err


def test_recipes_by_name(tmp_path, monkeypatch):
    path = ROOT / 'configs' / 'cascade_mask_rcnn_mambavision_t.py'
    for name in ('cascade_mask_rcnn_mambavision_t', 'cascade_mask_rcnn_mambavision_t.py', path):
        assert Path(recipes.find(str(name))).samefile(path)
    assert Path(recipes.find('classification/mambavision_demo')).is_file()
    monkeypatch.chdir(tmp_path)
    Path('upernet_mambavision_t.py').write_text('')  # a file of the user comes first
    assert recipes.find('upernet_mambavision_t.py') == 'upernet_mambavision_t.py'
    with pytest.raises(UserError, match='cascade_mask_rcnn_mambavision_t'):
        recipes.find('cascade_mask_rcnn_mambavison_t')


def test_recipes_are_all_listed(capsys):
    listed = said(capsys, 'recipes')
    assert all(name in listed for name in recipes.names())
    assert len(recipes.names()) == len([p for p in (ROOT / 'configs').rglob('*.py') if '_base_' not in p.parts])
    row, = [line for line in said(capsys, 'recipes', 't_lvis', '--markdown').splitlines() if 'mask_rcnn' in line]
    assert row.split('|')[1].strip() == 'mask_rcnn_mambavision_t_lvis'
    rows = said(capsys, 'recipes', 'cascade_mask_rcnn_mambavision_t', '--markdown')
    assert 'box AP 51.2, mask AP 44.4' in rows


def test_doctor_names_versions_and_backends(capsys):
    rows = dict(line.split('  ', 1) for line in said(capsys, 'doctor').splitlines())
    rows = {name: value.strip() for name, value in rows.items()}
    assert rows['torch'] == version('torch') and rows['scan: reference'] == 'available'
    assert {'CPU', 'python', 'attention: torch', "mmcv's operators"} <= rows.keys()


def test_hints_are_those_that_errors_name():
    named, found = set(), set()
    for file in (ROOT / 'mmmambavision').rglob('*.py'):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'UserError':
                named |= {part.value for part in node.args[1:] if isinstance(part, ast.Constant)}
                found |= {part for part in HINTS for arg in node.args[1:] if isinstance(arg, ast.JoinedStr)
                          and part.endswith(arg.values[-1].value)}
            if isinstance(node, ast.Constant) and node.value in HINTS and file.name != 'hints.py':
                found.add(node.value)
    assert named <= HINTS.keys() == found


def test_hints_follow_the_message():
    assert with_hint(UserError('no folder')) == 'no folder'
    assert with_hint(UserError('no folder', 'out')) == f"no folder. {HINTS['out']}"


def test_the_library_names_no_option_of_a_command():
    """Options are named in cli/ only: a library's user has none."""
    for file in (ROOT / 'mmmambavision').rglob('*.py'):
        if 'cli' in file.parts or file.name == '__main__.py':
            continue
        for number, line in enumerate(file.read_text().splitlines(), 1):
            found = re.search(r"(?<![\w-])--(?!no-cache|no-build|no-deps|shm|help)[a-z][a-z-]+", line)
            assert not found, f'{file.name}:{number}: {found[0]}'
