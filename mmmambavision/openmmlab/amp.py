"""Mixed precision on every machine: mmengine's AmpOptimWrapper has it on accelerators alone."""
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from mmengine.runner.amp import autocast


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """Training under autocast in bfloat16, which has float32's range, so that no loss has to be scaled."""

    @contextmanager
    def optim_context(self, model):
        with super().optim_context(model), autocast(dtype=torch.bfloat16):
            yield


def use_amp(cfg):
    """Train in mixed precision, whatever the config does: float16 on a GPU, bfloat16 on a CPU."""
    if torch.cuda.is_available():
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
        return
    leave_amp(cfg, 'BFloat16OptimWrapper')


def leave_amp(cfg, wrapper):
    """Put another optimizer wrapper in the place of AmpOptimWrapper, without the arguments that it alone takes."""
    cfg.optim_wrapper.type = wrapper
    for key in ('loss_scale', 'dtype', 'use_fsdp'):
        cfg.optim_wrapper.pop(key, None)
