"""All that knows mmengine, mmcv, mmdet or mmseg; importing it registers the package there."""
import logging

from mmengine.logging import print_log
from mmengine.registry import MODELS

from ..models.mambavision import MambaVision
from . import loading
from .layer_decay import LayerDecayOptimWrapperConstructor
from .released import MMMambaVision

__all__ = ['LayerDecayOptimWrapperConstructor', 'MMMambaVision']


class _ToMMEngine(logging.Handler):
    """Passes on what the package logs to mmengine's log."""

    def emit(self, record):
        print_log(record.getMessage(), logger='current', level=record.levelno)


MODELS.register_module(module=MambaVision)
loading.install()
logging.getLogger('mmmambavision').addHandler(_ToMMEngine())
logging.getLogger('mmmambavision').setLevel(logging.INFO)
