"""Estimate the memory of a training step. Nothing is computed: tensors are fake, and only their sizes are counted."""
import copy
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import MODELS, OPTIMIZERS, init_default_scope
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from ..errors import UserError
from ..ops import attn, registry, scan
from .configs import replace_type
from .training.sharded import units_of


@dataclass(frozen=True)
class Memory:
    """Bytes of a training step in one process.

    Args:
        parameters, gradients: of the model.
        states: of the optimizer.
        activations: what the forward pass keeps for the backward pass.
        peak: the maximum at any time. Not the sum of the others: gradients grow while activations are freed.
    """
    parameters: float
    gradients: float
    states: float
    activations: float
    peak: float


class Allocations(TorchDispatchMode):
    """Count the bytes of all tensors that operations return: `now`, and `peak`."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known = WeakIdKeyDictionary()

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        results = function(*arguments, **(options or {}))
        for tensor in tree_leaves(results):
            if isinstance(tensor, torch.Tensor) and (storage := tensor.untyped_storage()) not in self.known:
                self.known[storage] = weakref.finalize(storage, self._free, storage.nbytes())
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
        return results

    def _free(self, size: int) -> None:
        self.now -= size


def estimate(cfg: Config, batch: int, size: tuple[int, int], dtype: torch.dtype | None = None, processes: int = 1,
             on_gpu: bool = True) -> Memory:
    """The memory of a training step, without data, data preprocessor and, for detectors, targets of the losses.

    Detectors train on the full number of sampled regions. CUDA's context, the workspaces of libraries and the
    fragmentation of memory come on top.

    Args:
        cfg: config of a segmentor or a detector whose heads have no transformer.
        batch: images of a process, 2 or more for batch norms on maps of 1x1.
        size: height and width of the images in pixels.
        dtype: the type of mixed precision, or None for float32.
        processes: number of processes that share the parameters (`ShardedRunner`). With 1 or DDP, each has them all.
        on_gpu: whether scans and attention keep what their implementations on a GPU keep, or those on a CPU. Mixed
            precision has the types of autocast on a CPU, which resizes maps in float32.

    Raises:
        UserError: the model is of another kind.
    """
    model_cfg = copy.deepcopy(cfg.model)
    heads = [model_cfg.get('decode_head'), model_cfg.get('bbox_head'), model_cfg.get('roi_head')]
    if not any(heads) or 'decoder' in model_cfg or any('transformer_decoder' in head for head in heads if head):
        raise UserError(f'the memory of {model_cfg.type} cannot be estimated. Supported: segmentors and detectors '
                        'without a transformer head')
    replace_type(model_cfg, 'SyncBN', 'BN')
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    states_per_byte = _states_per_byte(cfg)
    counted = Allocations()
    with FakeTensorMode(), counted:
        model = MODELS.build(model_cfg).train()
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        parameters = _bytes(model.parameters())
        gradients = _bytes(trained)
        if processes > 1:  # gradients are sharded as soon as they are there
            for parameter in trained:
                parameter.register_post_accumulate_grad_hook(lambda parameter: setattr(parameter, 'grad', None))
        images = torch.empty(batch, 3, *size)
        before = counted.peak = counted.now
        with _kept_as_on_a_gpu() if on_gpu else nullcontext():
            with torch.autocast('cpu', dtype) if dtype else nullcontext():
                loss = _loss(model, images)
            activations = counted.now - before
            loss.backward()
    states = states_per_byte * gradients
    if processes == 1:
        return Memory(parameters, gradients, states, activations, max(
            counted.peak + states, parameters + gradients + states + _temporaries(cfg, trained, on_gpu)))
    units = [_bytes(unit.parameters()) for unit in units_of(model)]
    # Whole parameters and gradients outside of units, and of the unit at work; parameters of the next unit.
    whole = 2 * (parameters - sum(units)) + 3 * max(units, default=0)
    shares = (parameters + gradients + states) / processes
    return Memory(parameters / processes, gradients / processes, states / processes, activations,
                  counted.peak - parameters + shares + whole)


def _bytes(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _states_per_byte(cfg: Config) -> float:
    """Bytes of the config's optimizer for each byte of a parameter, from a step on a small parameter."""
    parameter = nn.Parameter(torch.zeros(64, 64))
    parameter.grad = torch.zeros_like(parameter)
    optimizer = OPTIMIZERS.build(dict(cfg.optim_wrapper.optimizer, params=[parameter]))
    optimizer.step()
    return round(_bytes(tree_leaves(list(optimizer.state.values()))) / _bytes([parameter]))


def _temporaries(cfg: Config, trained: list[nn.Parameter], on_gpu: bool) -> int:
    """Temporary tensors of the optimizer's step. On a GPU, torch computes all parameters of a group together."""
    together = on_gpu and not cfg.optim_wrapper.get('paramwise_cfg')
    return (sum if together else max)(_bytes([parameter]) for parameter in trained)


@contextmanager
def _kept_as_on_a_gpu() -> Iterator[None]:
    """Count scans as Triton's kernels keep them. Fused attention on a GPU keeps the same tensors as ours on a CPU."""
    replaced = [(scan.interface.BACKENDS, 'triton'), (attn.interface.BACKENDS, 'cpu')]
    before = [backends[name] for backends, name in replaced]
    for (backends, name), entry in zip(replaced, before):
        backends[name] = registry.Backend(entry.run)  # without checks that this machine could run it
    try:
        with registry.backend(scan='triton', attention='cpu'):
            yield
    finally:
        for (backends, name), entry in zip(replaced, before):
            backends[name] = entry


def _loss(model: Any, images: torch.Tensor) -> torch.Tensor:
    """A loss that keeps about as much as the model's own, which depends on the values of its inputs."""
    features = model.extract_feat(images)
    if hasattr(model, 'decode_head'):
        labels = torch.zeros(len(images), *images.shape[2:], dtype=torch.long)
        heads = [model.decode_head, *_as_list(getattr(model, 'auxiliary_head', None))]
        return sum((F.cross_entropy(F.interpolate(head(features), labels.shape[1:], mode='bilinear'), labels)
                    for head in heads), torch.zeros(()))
    if not hasattr(model, 'roi_head'):
        return _sum_of_losses(model.bbox_head(features))
    roi_head, stages = model.roi_head, _as_list(model.train_cfg.rcnn)
    regions = [(cfg, 1., *parts) for cfg, *parts in zip(
        stages, _as_list(roi_head.bbox_roi_extractor), _as_list(roi_head.bbox_head))]
    if roi_head.with_mask:
        regions += [(cfg, cfg.sampler.pos_fraction, *parts) for cfg, *parts in zip(
            stages, _as_list(roi_head.mask_roi_extractor), _as_list(roi_head.mask_head))]
    loss = _sum_of_losses(model.rpn_head(features))
    for cfg, share, extractor, head in regions:
        boxes = torch.zeros(int(share * cfg.sampler.num) * len(images), 5)
        loss = loss + _sum_of_losses(head(extractor.roi_layers[0](features[0], boxes)))
    return loss


def _sum_of_losses(outputs: Any) -> torch.Tensor:
    return sum((F.binary_cross_entropy_with_logits(value, torch.zeros_like(value)) for value in tree_leaves(outputs)
                if isinstance(value, torch.Tensor)), torch.zeros(()))


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, (list, tuple, nn.ModuleList)) else [value]
