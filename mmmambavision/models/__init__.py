from .mambavision import MambaVision
from .released import MMMambaVision

__all__ = ['MMMambaVision', 'MambaVision']
