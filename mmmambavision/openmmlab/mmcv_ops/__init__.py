"""Operators for an mmcv that has none of its own: what mmcv.ops looks for in mmcv._ext, on torchvision and plain torch.

`install()` lets mmcv-lite, or an mmcv built without operators, find them; a compiled mmcv keeps its own. With the
environment variable MMMAMBAVISION_MMCV_OPS=off mmcv stays as it is. What is here: docs/openmmlab_operators.md.
"""
import os
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType
from typing import Any

__all__ = ['install', 'provide']

EXTENSION = 'mmcv._ext'
SWITCH = 'MMMAMBAVISION_MMCV_OPS'


def switched_off() -> bool:
    return os.environ.get(SWITCH, '').lower() == 'off'


def provide(namespace: dict[str, Any]) -> None:
    """Put the operators into `namespace`, that of the module mmcv._ext.

    Raises ModuleNotFoundError where they are switched off, as an mmcv without operators does.
    """
    if switched_off():
        raise ModuleNotFoundError(f'No module named {EXTENSION!r}: {SWITCH}=off', name=EXTENSION)
    from . import operators
    namespace.update(operators.OPERATORS, __getattr__=operators.missing)


class Finder(MetaPathFinder, Loader):
    """Asked for a module that nothing else has found; it knows one."""

    def find_spec(self, name: str, path: Sequence[str] | None = None,
                  target: ModuleType | None = None) -> ModuleSpec | None:
        return spec_from_loader(name, self) if name == EXTENSION and not switched_off() else None

    def exec_module(self, module: ModuleType) -> None:
        provide(module.__dict__)


FINDER = Finder()


def install() -> None:
    """Let mmcv find these operators when it has none itself; nothing is imported before mmcv.ops asks.

    The finder comes last, so whatever is in mmcv's own folder goes before it. Calling this again, or without mmcv, does
    nothing. mmcv.ops must not have been imported before: see `python -m mmmambavision.openmmlab.mmcv_ops --help`.
    """
    if FINDER not in sys.meta_path:
        sys.meta_path.append(FINDER)
