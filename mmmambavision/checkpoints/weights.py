"""Check that checkpoint weights fit a model, and load them into a `MambaVision`."""
import logging
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..errors import UserError
from ..presets import PRESETS
from .files import load_checkpoint
from .names import STEM, backbone_weights, group_names

logger = logging.getLogger(__name__)


def load_weights(model: nn.Module, source: str) -> None:
    """Load the backbone weights of any checkpoint into a `MambaVision`. Other weights are ignored.

    Args:
        model: the backbone.
        source: path, URL or hf:// name.

    Raises:
        UserError: the checkpoint cannot be downloaded or read, has no MambaVision, or has one with other sizes.
    """
    checkpoint, own = load_checkpoint(source), model.state_dict()
    try:
        weights, rest = backbone_weights(checkpoint, own)
        weights = fit(weights, model)
        check_values(weights)
        check_share(weights, own)
    except UserError as error:
        raise UserError(f'{source}: {error}') from None
    result = model.load_state_dict(weights, strict=False)
    loaded = len(weights) - len(result.unexpected_keys)
    logger.info('backbone: loaded %d of its %d tensors from %s; ignored %s; new %s', loaded, len(own),
                source, group_names([*rest, *result.unexpected_keys]), group_names(result.missing_keys))


def describe(weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    """The network sizes of backbone weights, as in `MambaVision(arch=...)`. Weights do not show the number of heads."""
    stem_out = weights.get('patch_embed.conv_down.3.weight')
    return dict(dim=None if stem_out is None else stem_out.shape[0], in_dim=weights[STEM].shape[0],
                depths=tuple(len(_blocks(weights, level)) for level in range(4)),
                layer_scale=_has_layer_scale(weights))


def _blocks(weights: dict[str, torch.Tensor], level: int) -> set[str]:
    matches = (re.match(rf'levels\.{level}\.blocks\.(\d+)\.', name) for name in weights)
    return {match[1] for match in matches if match}


def _mixer(weights: dict[str, torch.Tensor], level: int, block: str) -> set[str]:
    return {name for name in weights if name.startswith(f'levels.{level}.blocks.{block}.mixer.')}


def _has_layer_scale(weights: dict[str, torch.Tensor]) -> bool:
    return any(name.endswith('.gamma_1') for name in weights)


def looks_like(weights: dict[str, torch.Tensor]) -> str:
    """The name of the preset with these sizes, or the sizes if no preset has them."""
    sizes = describe(weights)
    for name, preset in PRESETS.items():
        if sizes == {**{key: preset[key] for key in ('dim', 'in_dim', 'depths')},
                     'layer_scale': preset['layer_scale'] is not None}:
            return f"'{name}'"
    return f'none of the presets ({sizes})'


def fit(weights: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """Check that backbone weights fit a model, and adapt the stem if the model does not take 3 channels.

    The weights can lack parts of the model or have extra parts. Only the shared parts must match.

    Args:
        weights: tensors by name, as `backbone_weights` returns them. They are not changed.
        model: the `MambaVision`.

    Returns:
        The weights, with an adapted stem if necessary.

    Raises:
        UserError: the weights belong to another network. The message names the preset that they look like.
    """
    own = model.state_dict()
    if weights and own.keys().isdisjoint(weights):
        raise UserError(f'the checkpoint is of another network: its backbone has {group_names(weights)}, but the '
                        f'model has {group_names(own)}')
    for name in own.keys() & weights.keys():
        if own[name].is_floating_point() and not (
                weights[name].is_floating_point() and weights[name].layout == torch.strided):
            raise UserError(f'{name} in the checkpoint is quantised or sparse (type {weights[name].dtype}, layout '
                            f'{weights[name].layout}), which cannot be loaded. Save dense floating point weights')
    if STEM not in weights:
        return weights  # partial weights are allowed
    given, wanted = weights[STEM].shape[1], own[STEM].shape[1]
    if given == 3 != wanted:
        weights = {**weights, STEM: adapt_to_channels(weights[STEM], wanted)}
        logger.info('backbone: the stem for 3 channels was adapted to %d', wanted)
    elif given != wanted:
        raise UserError(f"the checkpoint's stem takes {given} channels, but the model's stem takes {wanted} channels. "
                        f'Set in_channels={given}')
    difference = _first_difference(weights, own)
    if difference:
        names, keys = [looks_like(state) for state in (weights, own)], 'arch'
        if names[0] == names[1] and '.mixer.' in difference:  # same sizes, other options of models/variants.py
            keys = 'arch.mixer and arch.pattern'
        raise UserError(f'the checkpoint is of another network: it looks like {names[0]}, but the model is {names[1]} '
                        f'(first difference: {difference}). Set {keys} to the values of the checkpoint')
    return weights


def _first_difference(weights: dict[str, torch.Tensor], own: dict[str, torch.Tensor]) -> str | None:
    """The first difference between the networks of two state dicts, or None."""
    for name in sorted(own.keys() & weights.keys()):
        if own[name].shape != weights[name].shape:
            return name
    for level in range(4):
        theirs, ours = _blocks(weights, level), _blocks(own, level)
        if theirs and ours and theirs != ours:
            return f'level {level} has {len(theirs)} blocks, not {len(ours)}'
        for block in sorted(theirs & ours):
            given, wanted = (_mixer(state, level, block) for state in (weights, own))
            if given and wanted and given.isdisjoint(wanted):
                return f'{min(given)}, where the model has {min(wanted)}'
    if _blocks(weights, 2) and _blocks(own, 2) and _has_layer_scale(weights) != _has_layer_scale(own):
        return 'layer scale'
    return None


def adapt_to_channels(weight: torch.Tensor, channels: int) -> torch.Tensor:
    """Adapt a convolution weight (out, 3, h, w) to another number of input channels.

    One channel: the sum over the 3 channels. Otherwise: repeat the 3 channels and scale by 3 / channels, which keeps
    the scale of the output.
    """
    if channels == 1:
        return weight.sum(1, keepdim=True)
    repeated = weight.repeat(1, -(-channels // 3), 1, 1)[:, :channels]
    return repeated * (3 / channels)


def check_there(weights: Mapping[str, Any]) -> None:
    """Check that tensors have values.

    Raises:
        UserError: a tensor was saved without values, on the device `meta`.
    """
    empty = [name for name, value in weights.items() if torch.is_tensor(value) and value.is_meta]
    if empty:
        raise UserError(f"the checkpoint has {len(empty)} tensors without values (on the device 'meta'), the first is "
                        f'{empty[0]}. Save the checkpoint again after the weights are loaded into memory')


def check_values(weights: Mapping[str, Any]) -> None:
    """Check that tensors have values (see `check_there`), and warn if some are not finite."""
    check_there(weights)
    broken = [name for name, value in weights.items() if torch.is_tensor(value) and value.is_floating_point()
              and value.element_size() > 1 and not value.isfinite().all()]
    if broken:
        logger.warning('checkpoint: %d of its %d tensors are not finite (NaN or infinite); first: %s', len(broken),
                       len(weights), broken[0])


def check_share(weights: dict[str, torch.Tensor], own: dict[str, torch.Tensor]) -> None:
    """Warn if a checkpoint does not fill all tensors of a backbone. Output norms and the head do not count.

    Raises:
        UserError: more than half of the tensors are missing.
    """
    wanted = [name for name in own if not re.search(r'^(outnorm\d|head)\.|\.num_batches_tracked$', name)]
    missing = [name for name in wanted if getattr(weights.get(name), 'shape', None) != own[name].shape]
    if not missing:
        return
    share = (f'the checkpoint fills {len(wanted) - len(missing)} of the {len(wanted)} tensors of the backbone; '
             f"missing: {', '.join(missing[:3])}{', ...' * (len(missing) > 3)}")
    if 2 * len(missing) > len(wanted):
        raise UserError(share)
    logger.warning('%s', share)
