"""Any released checkpoint's dict to the names of `MambaVision`, into a model that it fits."""
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from ..errors import UserError
from ..presets import PRESETS
from .files import load_checkpoint, tensors_of, without_wrappers

STEM = 'patch_embed.conv_down.0.weight'
MOST_PARTS = 32  # of a name, behind which no prefix is looked for
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


def backbone_weights(checkpoint: dict[str, Any],
                     own: dict[str, torch.Tensor] | None = None) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Split any released checkpoint into the backbone's weights, by the names that `MambaVision` uses, and the rest.

    Knows training checkpoints with a `state_dict` among other objects, bare state dicts, dicts of dicts, and backbones
    behind any prefix: `module.`, `model.`, `backbone.` of a detector or segmentor, or several of them.

    Args:
        checkpoint: the contents of a checkpoint file, a dict. It is not changed.
        own: the state dict of the model to fill; of several backbones in the checkpoint, the one that fits it best.

    Returns:
        The backbone's tensors by name, and the sorted names of the other tensors.

    Raises:
        UserError: there is no MambaVision in it.
    """
    state = tensors_of(checkpoint)
    prefix = _prefix_of(state, own)
    weights, rest = {}, []
    for key, value in state.items():
        name = key[len(prefix):]
        if key.startswith(prefix) and re.match(r'(patch_embed|levels|outnorm\d)\.', name):
            weights[name] = value
        else:
            rest.append(key)
    return weights, sorted(rest)


def classifier_weights(checkpoint: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The weights of a released classifier by the names that `MambaVisionClassifier` uses, from any form of file.

    Raises:
        UserError: there is no MambaVision in it.
    """
    state = tensors_of(checkpoint)
    prefix = _prefix_of(state)
    names = re.compile(re.escape(prefix) + r'(patch_embed|levels|norm|head)\.')
    return {key[len(prefix):]: value for key, value in state.items() if names.match(key)}


def _prefix_of(state: dict[str, torch.Tensor], own: dict[str, torch.Tensor] | None = None) -> str:
    """What stands before the names of the MambaVision in a state dict."""
    def fitting(prefix: str) -> int:
        return sum(getattr(state.get(prefix + name), 'shape', None) == value.shape for name, value in wanted)

    wanted, prefixes = (own or {}).items(), mambavisions(state)
    if not prefixes:
        names = ', '.join(list(map(str, state))[:3]) or 'nothing'
        raise UserError(f'the checkpoint holds no MambaVision: no name in it ends in {STEM}, or the levels behind it '
                        f'are of another network; it has {names}, ...')
    best = max(prefixes, key=fitting)  # the first of several
    _say_choice(best, [prefix for prefix in prefixes if prefix != best and 2 * fitting(prefix) >= fitting(best)])
    return best


def mambavisions(state: dict[str, torch.Tensor]) -> list[str]:
    """What stands before the names of each MambaVision in a state dict, the shortest first."""
    prefixes = sorted((key[:-len(STEM)] for key in state if key.endswith(STEM)), key=len)
    return [prefix for prefix in prefixes if _is_mambavision(state, prefix)]


def _say_choice(taken: str, others: list[str]) -> None:
    if others:
        keys = ', '.join(f'#{prefix.rstrip(".")}' if prefix else 'no prefix' for prefix in others)
        logger.warning("checkpoint: several weights in it fit; those with the prefix '%s' are taken. Others are taken "
                       "by their prefix behind the checkpoint's name: %s", taken, keys)


def rename(state: dict[str, torch.Tensor], own: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A checkpoint's tensors by a model's names, whatever stands before the names of either.

    One prefix is replaced by another: the two with which most tensors of the model are found in their shapes. A
    second prefix is, where its tensors are of parts of the model that the first has nothing for. Tensors behind other
    prefixes that fit the same parts, such as a teacher's beside a student's, are left out, and the log says so.

    Args:
        state: tensors by name, of a checkpoint.
        own: the model's state dict.

    Returns:
        The tensors; by the checkpoint's own names where no prefix finds more.
    """
    state = without_wrappers(state)
    pairs = _pairs(state, own)
    if not pairs:
        return state

    fitting = {pair: {name for key, name in names.items() if getattr(own[name], 'shape', None) == state[key].shape}
               for pair, names in pairs.items()}
    first, *others = sorted(pairs, reverse=True, key=lambda pair: (
        len(fitting[pair]), len(pairs[pair]), pair == ('', ''), -len(''.join(pair))))
    old, new = first
    names = {key: new + key[len(old):] for key in state if isinstance(key, str) and key.startswith(old)}
    filled, taken, rivals = set(fitting[first]), set(pairs[first]), []
    left_out: set[str] = set()
    for pair in others:
        if pair[1] != new or not fitting[pair]:
            continue
        if filled.isdisjoint(fitting[pair]):
            names.update(pairs[pair])
            filled |= fitting[pair]
            taken |= pairs[pair].keys()
        elif 2 * len(fitting[pair]) >= len(filled):
            rivals.append(pair[0])
            left_out |= pairs[pair].keys()
    _say_choice(old, rivals)
    left_out -= taken
    rest = {key: value for key, value in state.items() if key not in names and key not in left_out}
    return {**rest, **{name: state[key] for key, name in names.items() if key not in left_out}}


def _pairs(state: dict[str, torch.Tensor], own: dict[str, torch.Tensor]) -> dict[tuple[str, str], dict[str, str]]:
    """{(prefix in a checkpoint, prefix in a model): {name in the checkpoint: name in the model}} of names that are
    alike behind prefixes, the longest such parts of names."""
    by_rest = defaultdict(list)
    for new in _prefixes(own):
        for name in own:
            if name.startswith(new):
                by_rest[name[len(new):]].append(new)
    pairs: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for key, value in state.items():
        if not isinstance(key, str) or not torch.is_tensor(value):
            continue
        parts = key.split('.')[:MOST_PARTS]
        for depth in range(len(parts)):
            old = ''.join(f'{part}.' for part in parts[:depth])
            for new in by_rest.get(key[len(old):], ()):
                if not (depth and f'.{new}'.endswith(f'.{parts[depth - 1]}.')):
                    pairs[old, new][key] = new + key[len(old):]
    return pairs


def _prefixes(names: Iterable[str], most: int = 12) -> list[str]:
    """What stands before many of the names, the most common first."""
    counts = Counter(match[0] for name in names if isinstance(name, str)
                     for depth in range(1, 4) if (match := re.match(rf'(?:[^.]+\.){{{depth}}}', name)))
    return ['', *(prefix for prefix, _ in counts.most_common(most))]


def _is_mambavision(state: dict[str, torch.Tensor], prefix: str) -> bool:
    """Whether what is behind a stem of that name is ours: others, such as FasterViT, share its names.

    The first level has convolution blocks, and the third, if there is one, MambaVision's mixers.
    """
    level = f'{prefix}levels.2.blocks.'
    blocks = [key for key in state if key.startswith(level)]
    return f'{prefix}levels.0.blocks.0.conv1.weight' in state and (
        not blocks or any(key.startswith(f'{level}0.mixer.') for key in blocks))


def is_bare(checkpoint: dict[str, Any]) -> bool:
    """Whether a checkpoint's MambaVision is a classifier or a backbone by itself and not part of a larger model."""
    prefixes = mambavisions(tensors_of(checkpoint))
    return len(prefixes) == 1 and 'backbone.' not in prefixes[0]


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


def group_names(names: Iterable[str]) -> str:
    """Names of parameters by their first part, e.g. 'head (2), norm (2)'."""
    counts: dict[str, int] = {}
    for name in names:
        part = name.removeprefix('module.').removeprefix('model.').split('.')[0]
        counts[part] = counts.get(part, 0) + 1
    return ', '.join(f'{part} ({count})' for part, count in counts.items()) or 'nothing'
