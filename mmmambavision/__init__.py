"""The MambaVision backbone; where OpenMMLab's mmengine is installed, importing this registers it there."""
from .models.mambavision import MambaVision
from .version import __version__

try:
    from . import openmmlab
except ModuleNotFoundError as error:
    if error.name.split('.')[0] != 'mmengine':
        raise
    __all__ = ['MambaVision', '__version__']
else:
    __all__ = ['MambaVision', '__version__', 'openmmlab']
