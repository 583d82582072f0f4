"""Any released checkpoint's dict to the names of `MambaVision`, into a model that it fits."""
import logging
import re
from collections import Counter

import torch

from ..errors import UserError
from ..models.presets import PRESETS
from .files import MAIN_KEYS, load_checkpoint, weight_keys

STEM = 'patch_embed.conv_down.0.weight'
logger = logging.getLogger(__name__)


def load_weights(model, source):
    """Load a `MambaVision` from a released checkpoint in any form, leaving out what is not the backbone's.

    Args:
        model: the backbone.
        source: path, URL or hf:// name.

    Raises:
        UserError: the checkpoint cannot be had or read, holds no MambaVision, or one of other sizes.
    """
    weights, rest = backbone_weights(load_checkpoint(source))
    try:
        weights = fit(weights, model)
    except UserError as error:
        raise UserError(f'{source}: {error}') from None
    result = model.load_state_dict(weights, strict=False)
    loaded = len(weights) - len(result.unexpected_keys)
    logger.info('backbone: loaded %d of its %d tensors from %s; left out %s; new %s', loaded, len(model.state_dict()),
                source, group_names([*rest, *result.unexpected_keys]), group_names(result.missing_keys))


def backbone_weights(checkpoint):
    """Split any released checkpoint into the backbone's weights, by the names that `MambaVision` uses, and the rest.

    Knows training checkpoints with a `state_dict` among other objects, bare state dicts, and backbones behind any
    prefix: `module.`, `model.`, `backbone.` of a detector or segmentor, or several of them.

    Args:
        checkpoint: the contents of a checkpoint file, a dict. It is not changed.

    Returns:
        The backbone's tensors by name, and the sorted names of the other tensors.

    Raises:
        UserError: there is no MambaVision in it.
    """
    state = state_dict_of(checkpoint)
    prefix = _prefix_of(state)
    weights, rest = {}, []
    for key, value in state.items():
        name = key[len(prefix):]
        if key.startswith(prefix) and re.match(r'(patch_embed|levels|outnorm\d)\.', name):
            weights[name] = value
        else:
            rest.append(key)
    return weights, sorted(rest)


def classifier_weights(checkpoint):
    """The weights of a released classifier by the names that `MambaVisionClassifier` uses, from any form of file.

    Raises:
        UserError: there is no MambaVision in it.
    """
    state = state_dict_of(checkpoint)
    prefix = _prefix_of(state)
    names = re.compile(re.escape(prefix) + r'(patch_embed|levels|norm|head)\.')
    return {key[len(prefix):]: value for key, value in state.items() if names.match(key)}


def _prefix_of(state):
    """What stands before the names of the MambaVision in a state dict."""
    prefixes = sorted((key[:-len(STEM)] for key in state if isinstance(key, str) and key.endswith(STEM)), key=len)
    prefix = next((prefix for prefix in prefixes if _is_mambavision(state, prefix)), None)
    if prefix is None:
        names = ', '.join(list(map(str, state))[:3]) or 'nothing'
        raise UserError(f'the checkpoint holds no MambaVision: no name in it ends in {STEM}, or the levels behind it '
                        f'are of another network; it has {names}, ...')
    return prefix


def state_dict_of(checkpoint):
    """The tensors by name in the contents of a checkpoint file.

    Raises:
        UserError: the contents are no dict.
    """
    if not isinstance(checkpoint, dict):
        raise UserError(f'the checkpoint holds no weights by name: it is a {type(checkpoint).__name__}')
    keys = weight_keys(checkpoint)
    key = next((key for key in MAIN_KEYS if key in keys), keys[0] if keys else None)
    if key is not None:
        return without_wrappers(checkpoint[key])
    for key in MAIN_KEYS:  # an empty one
        if isinstance(checkpoint.get(key), dict):
            return checkpoint[key]
    return without_wrappers(checkpoint)


def without_wrappers(state):
    """Tensors by the names that they have without torch.compile and torch's wrappers for sharding and checkpointing."""
    wrapped = re.compile(r'(^|\.)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.')
    if not any(isinstance(name, str) and wrapped.search(name) for name in state):
        return state
    return {wrapped.sub(r'\1', name) if isinstance(name, str) else name: value for name, value in state.items()}


def rename(state, own):
    """A checkpoint's tensors by a model's names, whatever stands before the names of either.

    Args:
        state: tensors by name, of a checkpoint.
        own: the model's state dict.

    Returns:
        The tensors, by their names with one prefix replaced by another: the two with which most tensors of the model
        are found in their shapes. The checkpoint's own names where no prefix finds more.
    """
    state = without_wrappers(state)

    def found(old, new):
        return sum(name.startswith(old) and getattr(own.get(new + name[len(old):]), 'shape', None) == value.shape
                   for name, value in state.items() if torch.is_tensor(value))

    candidates = [(old, new) for old in _prefixes(state) for new in _prefixes(own)]
    old, new = max(candidates, key=lambda pair: (found(*pair), pair == ('', ''), -len(pair[0] + pair[1])))
    if old == new:
        return state
    return {new + name[len(old):] if name.startswith(old) else name: value for name, value in state.items()}


def _prefixes(names, most=12):
    """What stands before many of the names, the most common first."""
    counts = Counter(match[0] for name in names if isinstance(name, str)
                     for depth in range(1, 4) if (match := re.match(rf'(?:[^.]+\.){{{depth}}}', name)))
    return ['', *(prefix for prefix, _ in counts.most_common(most))]


def _is_mambavision(state, prefix):
    """Whether what is behind a stem of that name is ours: others, such as FasterViT, share its names.

    The first level has convolution blocks, and the third, if there is one, MambaVision's mixers.
    """
    level = f'{prefix}levels.2.blocks.'
    blocks = [key for key in state if key.startswith(level)]
    return f'{prefix}levels.0.blocks.0.conv1.weight' in state and (
        not blocks or any(key.startswith(f'{level}0.mixer.') for key in blocks))


def is_bare(checkpoint):
    """Whether a checkpoint's MambaVision is a classifier or a backbone by itself and not part of a larger model."""
    try:
        return 'backbone.' not in _prefix_of(state_dict_of(checkpoint))
    except UserError:
        return False


def describe(weights):
    """The sizes of the network that a backbone's weights belong to, as `MambaVision(arch=...)` takes them, without
    the numbers of heads."""
    stem_out = weights.get('patch_embed.conv_down.3.weight')
    return dict(dim=None if stem_out is None else stem_out.shape[0], in_dim=weights[STEM].shape[0],
                depths=tuple(len(_blocks(weights, level)) for level in range(4)),
                layer_scale=_has_layer_scale(weights))


def _blocks(weights, level):
    matches = (re.match(rf'levels\.{level}\.blocks\.(\d+)\.', name) for name in weights)
    return {match[1] for match in matches if match}


def _mixer(weights, level, block):
    return {name for name in weights if name.startswith(f'levels.{level}.blocks.{block}.mixer.')}


def _has_layer_scale(weights):
    return any(name.endswith('.gamma_1') for name in weights)


def looks_like(weights):
    """A phrase that names the preset that a backbone's weights belong to, or else their sizes."""
    sizes = describe(weights)
    for name, preset in PRESETS.items():
        if sizes == {**{key: preset[key] for key in ('dim', 'in_dim', 'depths')},
                     'layer_scale': preset['layer_scale'] is not None}:
            return f"'{name}'"
    return f'none of the presets ({sizes})'


def fit(weights, model):
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
    if STEM not in weights:
        return weights  # a part of a network, on purpose
    own = model.state_dict()
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


def _first_difference(weights, own):
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


def adapt_to_channels(weight, channels):
    """A convolution's weight (out, 3, h, w) for images of another number of channels: their sum for one, else
    repeated in turn and scaled by 3 / channels, so that equal channels give what they gave."""
    if channels == 1:
        return weight.sum(1, keepdim=True)
    repeated = weight.repeat(1, -(-channels // 3), 1, 1)[:, :channels]
    return repeated * (3 / channels)


def group_names(names):
    """Names of parameters by their first part, e.g. 'head (2), norm (2)'."""
    counts = {}
    for name in names:
        part = name.removeprefix('module.').removeprefix('model.').split('.')[0]
        counts[part] = counts.get(part, 0) + 1
    return ', '.join(f'{part} ({count})' for part, count in counts.items()) or 'nothing'
