"""Operators for mmcv-lite: a replacement for mmcv._ext, made with torchvision and plain torch.

`install()` makes them available to mmcv-lite, or to an mmcv that was built without operators. A compiled mmcv keeps
its own operators. The environment variable MMMAMBAVISION_MMCV_OPS=off disables this module. The list of operators is
in docs/openmmlab_operators.md.
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
    """Add the operators to `namespace`, the dict of the module mmcv._ext.

    Raises ModuleNotFoundError if they are switched off, as an mmcv without operators does.
    """
    if switched_off():
        raise ModuleNotFoundError(f'No module named {EXTENSION!r}: {SWITCH}=off', name=EXTENSION)
    from . import operators
    namespace.update(operators.OPERATORS, __getattr__=operators.missing)


class Finder(MetaPathFinder, Loader):
    """Import finder for the module mmcv._ext. It is the last finder, so a compiled mmcv._ext has priority."""

    def find_spec(self, name: str, path: Sequence[str] | None = None,
                  target: ModuleType | None = None) -> ModuleSpec | None:
        return spec_from_loader(name, self) if name == EXTENSION and not switched_off() else None

    def exec_module(self, module: ModuleType) -> None:
        provide(module.__dict__)


FINDER = Finder()


def install() -> None:
    """Provide these operators to an mmcv without its own operators.

    Call this before the first import of mmcv.ops: see `python -m mmmambavision.openmmlab.mmcv_ops --help`. The
    operators are imported only when mmcv.ops needs them. A second call, or a call without mmcv, does nothing.
    """
    if FINDER not in sys.meta_path:
        sys.meta_path.append(FINDER)
