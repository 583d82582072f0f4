"""Names of checkpoint tensors: find a MambaVision under any prefix, and rename its tensors for a model."""
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

import torch

from ..errors import UserError
from .files import tensors_of, without_wrappers

STEM = 'patch_embed.conv_down.0.weight'
MAX_PARTS = 32  # maximum number of name parts in a prefix
logger = logging.getLogger(__name__)


def backbone_weights(checkpoint: dict[str, Any],
                     own: dict[str, torch.Tensor] | None = None) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Split a checkpoint into the backbone's weights, with the names that `MambaVision` uses, and all other tensors.

    It accepts training checkpoints with a `state_dict`, bare state dicts and nested dicts. The backbone can have any
    prefix: `module.`, `model.`, `backbone.` of a detector or segmentor, or a combination.

    Args:
        checkpoint: the contents of a checkpoint file, a dict. It is not changed.
        own: the state dict of the target model. It selects the best match if the checkpoint has several backbones.

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
    """The weights of a classifier checkpoint, with the names that `MambaVisionClassifier` uses.

    Raises:
        UserError: the checkpoint has no MambaVision.
    """
    state = tensors_of(checkpoint)
    prefix = _prefix_of(state)
    names = re.compile(re.escape(prefix) + r'(patch_embed|levels|norm|head)\.')
    return {key[len(prefix):]: value for key, value in state.items() if names.match(key)}


def _prefix_of(state: dict[str, torch.Tensor], own: dict[str, torch.Tensor] | None = None) -> str:
    """The prefix of the MambaVision tensors in a state dict."""
    def fitting(prefix: str) -> int:
        return sum(getattr(state.get(prefix + name), 'shape', None) == value.shape for name, value in wanted)

    wanted, prefixes = (own or {}).items(), mambavisions(state)
    if not prefixes:
        names = ', '.join(list(map(str, state))[:3]) or 'nothing'
        raise UserError(f'the checkpoint holds no MambaVision: no name in it ends in {STEM}, or its levels belong to '
                        f'another network. It has {names}, ...')
    best = max(prefixes, key=fitting)  # the first one wins a tie
    _warn_of_choice(best, [prefix for prefix in prefixes if prefix != best and 2 * fitting(prefix) >= fitting(best)])
    return best


def mambavisions(state: dict[str, torch.Tensor]) -> list[str]:
    """The prefixes of all MambaVision networks in a state dict, shortest first."""
    prefixes = sorted((key[:-len(STEM)] for key in state if key.endswith(STEM)), key=len)
    return [prefix for prefix in prefixes if _is_mambavision(state, prefix)]


def _warn_of_choice(taken: str, others: list[str]) -> None:
    if others:
        keys = ', '.join(f'#{prefix.rstrip(".")}' if prefix else 'no prefix' for prefix in others)
        logger.warning("checkpoint: several sets of weights fit; the set with the prefix '%s' is loaded. To load "
                       "another set, append its prefix to the checkpoint's name: %s", taken, keys)


def rename(state: dict[str, torch.Tensor], own: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename the tensors of a checkpoint to the names of a model, for any prefix of either.

    One checkpoint prefix is replaced by one model prefix. The chosen pair matches the most tensors by name and shape.
    Another checkpoint prefix is used too if it fills model parts that the first one does not fill. If other prefixes
    fit the same parts, for example a teacher next to a student, their tensors are dropped with a warning.

    Args:
        state: the checkpoint's tensors by name.
        own: the model's state dict.

    Returns:
        The tensors by their new names. Tensors that match no pair keep their names.
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
    _warn_of_choice(old, rivals)
    left_out -= taken
    rest = {key: value for key, value in state.items() if key not in names and key not in left_out}
    return {**rest, **{name: state[key] for key, name in names.items() if key not in left_out}}


def _pairs(state: dict[str, torch.Tensor], own: dict[str, torch.Tensor]) -> dict[tuple[str, str], dict[str, str]]:
    """{(checkpoint prefix, model prefix): {checkpoint name: model name}} for names that are equal after the prefixes.

    Prefixes are as short as possible.
    """
    by_rest = defaultdict(list)
    for new in _prefixes(own):
        for name in own:
            if name.startswith(new):
                by_rest[name[len(new):]].append(new)
    pairs: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for key, value in state.items():
        if not isinstance(key, str) or not torch.is_tensor(value):
            continue
        parts = key.split('.')[:MAX_PARTS]
        for depth in range(len(parts)):
            old = ''.join(f'{part}.' for part in parts[:depth])
            for new in by_rest.get(key[len(old):], ()):
                if not (depth and f'.{new}'.endswith(f'.{parts[depth - 1]}.')):
                    pairs[old, new][key] = new + key[len(old):]
    return pairs


def _prefixes(names: Iterable[str], most: int = 12) -> list[str]:
    """The most common prefixes of the names, after the empty prefix."""
    counts = Counter(match[0] for name in names if isinstance(name, str)
                     for depth in range(1, 4) if (match := re.match(rf'(?:[^.]+\.){{{depth}}}', name)))
    return ['', *(prefix for prefix, _ in counts.most_common(most))]


def _is_mambavision(state: dict[str, torch.Tensor], prefix: str) -> bool:
    """Whether the network under a prefix is a MambaVision. Other networks, for example FasterViT, share its stem names.

    A MambaVision has convolution blocks in level 0, and mixers in level 2 if level 2 exists.
    """
    level = f'{prefix}levels.2.blocks.'
    blocks = [key for key in state if key.startswith(level)]
    return f'{prefix}levels.0.blocks.0.conv1.weight' in state and (
        not blocks or any(key.startswith(f'{level}0.mixer.') for key in blocks))


def is_bare(checkpoint: dict[str, Any]) -> bool:
    """Whether a checkpoint holds one MambaVision classifier or backbone, not a detector or segmentor."""
    prefixes = mambavisions(tensors_of(checkpoint))
    return len(prefixes) == 1 and 'backbone.' not in prefixes[0]


def group_names(names: Iterable[str]) -> str:
    """Count parameter names by their first part, e.g. 'head (2), norm (2)'."""
    counts: dict[str, int] = {}
    for name in names:
        part = name.removeprefix('module.').removeprefix('model.').split('.')[0]
        counts[part] = counts.get(part, 0) + 1
    return ', '.join(f'{part} ({count})' for part, count in counts.items()) or 'nothing'
