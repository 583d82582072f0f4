"""Train with fully sharded data parallelism (FSDP2, torch's `fully_shard`)."""
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import broadcast, get_rank, get_world_size
from mmengine.model import convert_sync_batchnorm
from mmengine.optim import OptimWrapperDict
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map_only

from ...errors import UserError
from ...models.levels import Level

OTHERS = dict(runner_type='uses its own runner', model_wrapper_cfg='wraps the model in its own way',
              compile='compiles the model, which is not tested with shards')


@RUNNERS.register_module()
class ShardedRunner(Runner):
    """mmengine's Runner whose processes each hold a part of all parameters, gradients and optimizer states.

    Checkpoints have the same format as without shards: all processes gather whole tensors, and the first one writes
    them. So another number of processes, or one without shards, can resume from them.
    """

    def wrap_model(self, model_wrapper_cfg: dict[str, Any] | None, model: nn.Module) -> nn.Module:
        model = model.to(get_device())
        return convert_sync_batchnorm(model, self.cfg.sync_bn) if self.cfg.get('sync_bn') else model

    def build_optim_wrapper(self, optim_wrapper: Any) -> Any:
        """Initialise and shard the model, and then build its optimizer.

        mmengine builds the train loop first, so the initial weights use the same random numbers as without shards.
        """
        if not isinstance(self.model, FSDPModule):
            if hasattr(self.model, 'init_weights'):
                self.model.init_weights()
            for value in self.model.state_dict().values():
                broadcast(value)
            shard(self.model)
        wrapper = super().build_optim_wrapper(optim_wrapper)
        for part in wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]:
            part.optimizer.register_load_state_dict_pre_hook(_shard_states)
        return wrapper

    def _init_model_weights(self) -> None:
        pass  # `build_optim_wrapper` did it

    def save_checkpoint(self, *args: Any, save_optimizer: bool = True, **options: Any) -> None:
        """Write a checkpoint of whole tensors. All processes must call this together."""
        weights = self.model.state_dict()
        weights.update(whole(dict(weights)))  # the same object, because it has the versions of the layers, too
        states = whole(self.optim_wrapper.state_dict()) if save_optimizer else None
        with _returning(self.model, weights), _returning(self.optim_wrapper, states):
            super().save_checkpoint(*args, save_optimizer=save_optimizer, **options)

    def resume(self, filename: str, resume_optimizer: bool = True, resume_param_scheduler: bool = True,
               map_location: Any = 'cpu') -> None:
        """As in mmengine, but reads whole tensors to the CPU: a GPU may have no room for them."""
        super().resume(filename, resume_optimizer, resume_param_scheduler, map_location)


def shard(model: nn.Module) -> nn.Module:
    """Shard a model over all processes, in place. Each block of a MambaVision is a unit, and the rest is another one.

    Processes gather the parameters of a unit before its forward and its backward pass, and free them afterwards.
    `load_state_dict` takes whole tensors.

    Raises:
        UserError: the model has a parameter without dimensions, which torch cannot shard.
    """
    for name, parameter in model.named_parameters():
        if parameter.dim() == 0:
            raise UserError(f'{name} is a parameter without dimensions, which torch cannot shard. Train this model '
                            'without shards')
    mesh = init_device_mesh(get_device(), (get_world_size(),))
    for unit in units_of(model):
        fully_shard(unit, mesh=mesh)
    # With the default, parameters outside of blocks would stay whole after an evaluation.
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    for module in model.modules():
        module.register_load_state_dict_pre_hook(_shard_weights)
    return model


def units_of(model: nn.Module) -> list[nn.Module]:
    """The parts of a model that are sharded as one each: blocks and downsampling layers of MambaVision."""
    levels = [module for module in model.modules() if isinstance(module, Level)]
    return [part for level in levels for part in (*level.blocks, level.downsample) if part is not None]


def whole(state: Any) -> Any:
    """Replace the sharded tensors of nested dicts and lists: CPU tensors in the first process, None in the others.

    All processes must call this together.
    """
    def gather(value: DTensor) -> torch.Tensor | None:
        full = value.full_tensor()
        return full.cpu() if get_rank() == 0 else None

    return tree_map_only(DTensor, gather, state)


def part_of(value: Any, like: torch.Tensor) -> Any:
    """This process's part of a whole tensor, sharded as `like`. Anything else is returned unchanged."""
    if not isinstance(like, DTensor) or isinstance(value, DTensor) or getattr(value, 'shape', None) != like.shape:
        return value
    # All processes have the value. A copy, because a part would keep the whole tensor in memory.
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None).clone()


def _shard_weights(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    for name, parameter in module.named_parameters(recurse=False):
        if prefix + name in state_dict:
            state_dict[prefix + name] = part_of(state_dict[prefix + name], parameter)


def _shard_states(optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    indices, parameters = (chain.from_iterable(group['params'] for group in groups)
                           for groups in (state_dict['param_groups'], optimizer.param_groups))
    like = dict(zip(indices, parameters))
    return {**state_dict, 'state': {
        index: {key: part_of(value, like[index]) for key, value in values.items()}
        for index, values in state_dict['state'].items()}}


@contextmanager
def _returning(owner: Any, state: Any) -> Iterator[None]:
    """Context in which `owner.state_dict()` returns `state`."""
    owner.state_dict = lambda: state
    try:
        yield
    finally:
        del owner.state_dict


def use_shards(cfg: Config) -> None:
    """Make a config train with `ShardedRunner`.

    Raises:
        UserError: the config has no launcher, or uses a feature that does not work with shards.
    """
    if cfg.get('launcher', 'none') == 'none':
        raise UserError('sharded training needs several processes, started by a launcher', 'launcher')
    for key, does in OTHERS.items():
        if cfg.get(key):
            raise UserError(f'the config {does} ({key}), so its parameters cannot be sharded. Remove {key}')
    if any('EMAHook' in str(hook.get('type')) for hook in cfg.get('custom_hooks') or []):
        raise UserError('EMAHook keeps a copy of the whole model, so the parameters cannot be sharded. Remove the hook '
                        'from custom_hooks, or train without shards')
    cfg.runner_type = 'ShardedRunner'
