"""Integration with mmengine, mmcv, mmdet and mmseg.

Importing this package registers `MambaVision` in mmengine, provides operators for mmcv-lite, makes mmengine read
checkpoints safely, and forwards the package's log to mmengine's log.
"""
import logging

from mmengine.config.utils import MODULE2PACKAGE
from mmengine.logging import print_log
from mmengine.registry import MODELS

from ..models.mambavision import MambaVision
from . import datasets, loading, mmcv_ops, training
from .layer_decay import LayerDecayOptimWrapperConstructor
from .machine import BFloat16OptimWrapper
from .released import MMMambaVision

__all__ = ['BFloat16OptimWrapper', 'LayerDecayOptimWrapperConstructor', 'MMMambaVision', 'datasets', 'training']


class _ToMMEngine(logging.Handler):
    """Forward log records to mmengine's log."""

    def emit(self, record: logging.LogRecord) -> None:
        print_log(record.getMessage(), logger='current', level=record.levelno)


mmcv_ops.install()
loading.install()
MODELS.register_module(module=MambaVision)
MODULE2PACKAGE['mmmambavision'] = 'mmmambavision'  # for _base_ = 'mmmambavision::...', see docs/reproduce.md
logging.getLogger('mmmambavision').addHandler(_ToMMEngine())
logging.getLogger('mmmambavision').setLevel(logging.INFO)
