"""Imports inside the package go one way, see CONTRIBUTING.md."""
import ast

import pytest

from .helpers.process import ROOT

PACKAGE = ROOT / 'mmmambavision'
# Each part of the package, and the parts that it may import. No part imports another one that imports it.
MAY_IMPORT = dict(
    errors='', version='', presets='',
    recipes='errors',
    ops='errors',
    checkpoints='errors presets',
    models='errors presets checkpoints ops',
    interpret='errors checkpoints models timm_models',
    timm_models='errors presets checkpoints models',
    export='errors ops',
    interrupts='terminal',
    terminal='errors cli.hints',
    openmmlab='errors recipes terminal interrupts checkpoints models interpret ops',
    cli='errors version recipes terminal interrupts checkpoints models interpret timm_models ops export openmmlab',
)


def imported(file):
    """The parts of the package that a module imports, as names below `mmmambavision`."""
    parts = file.relative_to(PACKAGE).with_suffix('').parts
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = parts[:len(parts) - node.level]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            yield from ('.'.join((*base, name)) for name in names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith('mmmambavision.'):
            yield node.module.removeprefix('mmmambavision.')
        elif isinstance(node, ast.Import):
            yield from (alias.name.removeprefix('mmmambavision.') for alias in node.names
                        if alias.name.startswith('mmmambavision.'))


def test_every_part_is_known():
    parts = {path.stem for path in PACKAGE.iterdir() if path.suffix == '.py' or (path / '__init__.py').is_file()}
    assert parts - {'__init__'} == MAY_IMPORT.keys()


@pytest.mark.parametrize('part', MAY_IMPORT)
def test_a_part_imports_no_other_than_those_below_it(part):
    files = sorted((PACKAGE / part).rglob('*.py')) or [PACKAGE / f'{part}.py']
    allowed = [part, *MAY_IMPORT[part].split()]
    for file in files:
        for name in imported(file):
            assert any(name == own or name.startswith(f'{own}.') for own in allowed), f'{file.name} imports {name}'


def test_no_cycle():
    done = []
    while waiting := MAY_IMPORT.keys() - set(done):
        ready = [part for part in waiting if all(name.split('.')[0] in done or name == 'cli.hints'
                                                 for name in MAY_IMPORT[part].split())]
        assert ready, f'a cycle among {sorted(waiting)}'
        done += ready
