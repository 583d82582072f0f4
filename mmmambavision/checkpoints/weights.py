"""Weights of a checkpoint: whether they fit a model, and loading them into a `MambaVision`."""
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
    """Load a `MambaVision` from a released checkpoint in any form, leaving out what is not the backbone's.

    Args:
        model: the backbone.
        source: path, URL or hf:// name.

    Raises:
        UserError: the checkpoint cannot be had or read, holds no MambaVision, or one of other sizes.
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
    logger.info('backbone: loaded %d of its %d tensors from %s; left out %s; new %s', loaded, len(own),
                source, group_names([*rest, *result.unexpected_keys]), group_names(result.missing_keys))


def describe(weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    """The sizes of the network that a backbone's weights belong to, as `MambaVision(arch=...)` takes them, without
    the numbers of heads."""
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
    """A phrase that names the preset that a backbone's weights belong to, or else their sizes."""
    sizes = describe(weights)
    for name, preset in PRESETS.items():
        if sizes == {**{key: preset[key] for key in ('dim', 'in_dim', 'depths')},
                     'layer_scale': preset['layer_scale'] is not None}:
            return f"'{name}'"
    return f'none of the presets ({sizes})'


def fit(weights: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """A backbone's weights for a model of the same sizes, the stem adapted where it takes other images than
    of 3 channels.

    Weights may lack parts of the model or have more than it; no more is asked than that what both have is one network.

    Args:
        weights: tensors by name, as `backbone_weights` gives them.
        model: the `MambaVision`.

    Returns:
        The weights, the given ones unchanged.

    Raises:
        UserError: they belong to another network; says which preset they look like.
    """
    own = model.state_dict()
    if weights and own.keys().isdisjoint(weights):
        raise UserError(f'the checkpoint is of another network: its backbone has {group_names(weights)}, that of the '
                        f'model {group_names(own)}')
    if STEM not in weights:
        return weights  # a part of a network, on purpose
    given, wanted = weights[STEM].shape[1], own[STEM].shape[1]
    if given == 3 != wanted:
        weights = {**weights, STEM: adapt_to_channels(weights[STEM], wanted)}
        logger.info('backbone: the stem for 3 channels was adapted to %d', wanted)
    elif given != wanted:
        raise UserError(f"the checkpoint's stem takes images of {given} channels, the model's of {wanted}: set "
                        f'in_channels={given}')
    difference = _first_difference(weights, own)
    if difference:
        names, keys = [looks_like(state) for state in (weights, own)], 'arch'
        if names[0] == names[1] and '.mixer.' in difference:  # of one size, and the switches of models/variants.py
            keys = 'arch.mixer and arch.pattern'
        raise UserError(f'the checkpoint is of another network: it looks like {names[0]}, the model is {names[1]}; set '
                        f'{keys} to fit (first difference: {difference})')
    return weights


def _first_difference(weights: dict[str, torch.Tensor], own: dict[str, torch.Tensor]) -> str | None:
    """What shows that two state dicts are of different networks, or None."""
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
    """A convolution's weight (out, 3, h, w) for images of another number of channels: their sum for one, else
    repeated in turn and scaled by 3 / channels, so that equal channels give what they gave."""
    if channels == 1:
        return weight.sum(1, keepdim=True)
    repeated = weight.repeat(1, -(-channels // 3), 1, 1)[:, :channels]
    return repeated * (3 / channels)


def check_there(weights: Mapping[str, Any]) -> None:
    """See that tensors have values.

    Raises:
        UserError: a tensor was saved without its values, on the device `meta`.
    """
    empty = [name for name, value in weights.items() if torch.is_tensor(value) and value.is_meta]
    if empty:
        raise UserError(f"the checkpoint has {len(empty)} tensors without values (on the device 'meta'), the first "
                        f'{empty[0]}: save the weights where they are in memory')


def check_values(weights: Mapping[str, Any]) -> None:
    """See that tensors have values, see `check_there`; warn of such as are not finite."""
    check_there(weights)
    broken = [name for name, value in weights.items() if torch.is_tensor(value) and value.is_floating_point()
              and value.element_size() > 1 and not value.isfinite().all()]
    if broken:
        logger.warning('checkpoint: %d of its %d tensors are not finite (NaN or infinite), the first %s', len(broken),
                       len(weights), broken[0])


def check_share(weights: dict[str, torch.Tensor], own: dict[str, torch.Tensor]) -> None:
    """Warn of tensors of a backbone that a checkpoint does not fill; its norms and head are often new.

    Raises:
        UserError: most of them.
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
