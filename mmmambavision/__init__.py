"""MambaVision as a backbone for OpenMMLab: importing this registers it with mmengine."""
try:
    import mmengine  # noqa: F401
except ImportError:
    raise ImportError('mmmambavision needs mmengine: pip install mmengine (or its maintained fork: pip install '
                      'onedl-mmengine)') from None

from . import safe_loading
from .layer_decay import LayerDecayOptimWrapperConstructor
from .models import MambaVision
from .version import __version__

__all__ = ['LayerDecayOptimWrapperConstructor', 'MambaVision', '__version__']

safe_loading.install()
