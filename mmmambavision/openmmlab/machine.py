"""Fit a config to this machine: processes, devices and mixed precision."""
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from mmengine.runner.amp import autocast
from torch import nn

from .configs import replace_type


def fit_to_machine(cfg: Config) -> None:
    """Without a GPU, replace mixed precision by float32, SyncBN by BN, and NCCL by gloo. `use_amp` enables bfloat16."""
    if torch.cuda.is_available():
        return
    if cfg.get('optim_wrapper', {}).get('type') == 'AmpOptimWrapper':
        leave_amp(cfg, 'OptimWrapper')
        print_log('no GPU: training in float32 instead of mixed precision. bfloat16 is optional')
    if replace_type(cfg.get('model', {}), 'SyncBN', 'BN'):
        print_log('no GPU: BN instead of SyncBN')
    if cfg.get('launcher') == 'pytorch' and not torch.distributed.is_initialized():
        # mmengine would require a GPU here and when it wraps the model. It accepts an existing process group.
        torch.distributed.init_process_group('gloo')
        cfg.model_wrapper_cfg = dict(
            type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False,
            find_unused_parameters=cfg.get('find_unused_parameters', False))


def world_size(cfg: Config) -> int:
    """Number of training processes, also before mmengine starts the process group."""
    if torch.distributed.is_initialized():
        return torch.distributed.get_world_size()
    return _from_launcher(cfg, 1, pytorch='WORLD_SIZE', slurm='SLURM_NTASKS', mpi='OMPI_COMM_WORLD_SIZE')


def process_rank(cfg: Config) -> int:
    """Rank of this process, from 0, also before mmengine starts the process group."""
    return _from_launcher(cfg, 0, pytorch='RANK', slurm='SLURM_PROCID', mpi='OMPI_COMM_WORLD_RANK')


def _from_launcher(cfg: Config, alone: int, **variables: str) -> int:
    variable = variables.get(cfg.launcher)
    return int(os.environ.get(variable, alone)) if variable else alone


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """Training with autocast in bfloat16. It has the range of float32, so it needs no loss scaling."""

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        with super().optim_context(model), autocast(dtype=torch.bfloat16):
            yield


def use_amp(cfg: Config) -> None:
    """Switch a config to mixed precision: float16 on a GPU, bfloat16 on a CPU."""
    if torch.cuda.is_available():
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
        return
    leave_amp(cfg, 'BFloat16OptimWrapper')


def leave_amp(cfg: Config, wrapper: str) -> None:
    """Replace AmpOptimWrapper by another optimizer wrapper, and remove its special arguments."""
    cfg.optim_wrapper.type = wrapper
    for key in ('loss_scale', 'dtype', 'use_fsdp'):
        cfg.optim_wrapper.pop(key, None)
