"""Layer-wise learning rate decay (Clark et al. 2020, ELECTRA, section 3; Bao et al. 2022, BEiT)."""
import logging
from typing import Any

from mmengine.logging import MMLogger, print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from ..errors import UserError


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """mmengine's constructor with a learning rate factor `layer_decay_rate ** (layers above)` on the backbone.

    It works for detectors, segmentors and classifiers. The model's `backbone` must have a method
    `get_layer_depth(name)` that returns (depth from the input, number of depths), as mmpretrain's backbones do. Heads
    and necks keep the full rate.

        optim_wrapper = dict(constructor='LayerDecayOptimWrapperConstructor', paramwise_cfg=dict(layer_decay_rate=0.9))

    All other options of paramwise_cfg still work, and their factors multiply.
    """

    def __init__(self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, Any] | None = None) -> None:
        self.rate = (paramwise_cfg or {}).get('layer_decay_rate')
        if not isinstance(self.rate, (int, float)) or not 0 < self.rate <= 1:
            raise UserError('LayerDecayOptimWrapperConstructor needs paramwise_cfg.layer_decay_rate greater than 0 and '
                            f'at most 1, got {self.rate!r}')
        super().__init__(optim_wrapper_cfg, paramwise_cfg)

    def add_params(self, params: list[dict[str, Any]], module: nn.Module, prefix: str = '', **kwargs: Any) -> None:
        if prefix:
            super().add_params(params, module, prefix=prefix, **kwargs)  # recursive call from the base class
            return
        logger = MMLogger.get_current_instance()
        logger.addFilter(_before_decay)
        try:
            super().add_params(params, module, **kwargs)
        finally:
            logger.removeFilter(_before_decay)
        backbone: Any = getattr(module, 'backbone', None)
        if not hasattr(backbone, 'get_layer_depth'):
            raise UserError(f'{type(backbone or module).__name__} has no method get_layer_depth, '
                            'which layer decay needs')
        depths = {parameter: backbone.get_layer_depth(name) for name, parameter in backbone.named_parameters()}
        names = {parameter: name for name, parameter in module.named_parameters()}
        print_log(f'layer decay {self.rate}: options of each parameter', logger='current')
        for group in params:
            parameter, = group['params']
            depth, count = depths.get(parameter, (None, None))
            rate: Any = group.get('lr', self.base_lr)
            group['lr'] = rate * (1. if depth is None else self.rate ** (count - 1 - depth))
            where = 'not of the backbone' if depth is None else f'depth {depth} of {count - 1}'
            options = ', '.join(f'{key}={value:.6g}' if isinstance(value, float) else f'{key}={value}'
                                for key, value in group.items() if key != 'params')
            print_log(f'layer decay -- {names[parameter]}: {options} ({where})', logger='current')


def _before_decay(record: logging.LogRecord) -> bool:
    """Filter out the base class's log lines, because they show the learning rates before decay."""
    return not record.getMessage().startswith('paramwise_options')
