"""The MambaVision network. `import mmmambavision.openmmlab` registers it with OpenMMLab's mmengine."""
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
    from .models.classifier import MambaVisionClassifier
    from .models.mambavision import MambaVision

__all__ = ['MambaVision', 'MambaVisionClassifier', '__version__']

MODULES = {'MambaVision': '.models.mambavision', 'MambaVisionClassifier': '.models.classifier'}


def __getattr__(name: str) -> Any:
    """Import the network when it is asked for (PEP 562): torch takes seconds, and `--help` of a command needs none."""
    if name not in MODULES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(MODULES[name], __name__), name)


def __dir__() -> list[str]:
    return sorted(globals().keys() | MODULES.keys())
