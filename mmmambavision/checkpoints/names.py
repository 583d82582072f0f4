"""Names of tensors in checkpoints: finding a MambaVision behind any prefix, and renaming to a model's names."""
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

import torch

from ..errors import UserError
from .files import tensors_of, without_wrappers

STEM = 'patch_embed.conv_down.0.weight'
MAX_PARTS = 32  # parts of a name that are tried as a prefix
logger = logging.getLogger(__name__)


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
        parts = key.split('.')[:MAX_PARTS]
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


def group_names(names: Iterable[str]) -> str:
    """Names of parameters by their first part, e.g. 'head (2), norm (2)'."""
    counts: dict[str, int] = {}
    for name in names:
        part = name.removeprefix('module.').removeprefix('model.').split('.')[0]
        counts[part] = counts.get(part, 0) + 1
    return ', '.join(f'{part} ({count})' for part, count in counts.items()) or 'nothing'
