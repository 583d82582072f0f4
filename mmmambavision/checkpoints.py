"""Weights of a MambaVision backbone out of any checkpoint that holds them."""
import re

from .errors import UserError
from .presets import PRESETS

STEM = 'patch_embed.conv_down.0.weight'


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
    state = checkpoint
    for key in ('state_dict', 'model'):
        if isinstance(state.get(key), dict):
            state = state[key]
            break
    stems = [key for key in state if isinstance(key, str) and key.endswith(STEM)]
    if not stems:
        raise UserError(f"the checkpoint holds no MambaVision: no name in it ends in {STEM}; it has "
                        f"{', '.join(list(map(str, state))[:3]) or 'nothing'}, ...")
    prefix = min(stems, key=len)[:-len(STEM)]
    weights, rest = {}, []
    for key, value in state.items():
        name = key[len(prefix):]
        if key.startswith(prefix) and re.match(r'(patch_embed|levels|outnorm\d)\.', name):
            weights[name] = value
        else:
            rest.append(key)
    return weights, sorted(rest)


def is_classifier(checkpoint):
    """Whether a checkpoint's MambaVision is a bare network with a classifier's head and not part of a larger model."""
    try:
        weights, rest = backbone_weights(checkpoint)
    except (UserError, AttributeError):
        return False
    return not any('backbone.' in name for name in rest) and not any(name.startswith('outnorm') for name in weights)


def describe(weights):
    """The sizes of the network that a backbone's weights belong to, as `MambaVision(arch=...)` takes them, less heads."""
    def depth(level):
        blocks = {re.match(rf'levels\.{level}\.blocks\.(\d+)\.', name) for name in weights}
        return len({match[1] for match in blocks if match})

    stem_out = weights.get('patch_embed.conv_down.3.weight')
    return dict(dim=None if stem_out is None else stem_out.shape[0], in_dim=weights[STEM].shape[0],
                depths=tuple(depth(level) for level in range(4)),
                layer_scale='levels.2.blocks.0.gamma_1' in weights)


def looks_like(weights):
    """A phrase that names the preset that a backbone's weights belong to, or else their sizes."""
    sizes = describe(weights)
    for name, preset in PRESETS.items():
        if sizes == {**{key: preset[key] for key in ('dim', 'in_dim', 'depths')},
                     'layer_scale': preset['layer_scale'] is not None}:
            return f"'{name}'"
    return f'none of the presets ({sizes})'


def check_fit(weights, own, levels):
    """See that a backbone's weights belong to the same network as a model's.

    Args:
        weights: tensors by name from a checkpoint; norms on the outputs may be missing.
        own: the model's state dict.
        levels: how many levels the model has; a checkpoint may have more.

    Raises:
        UserError: they do not; says which preset the checkpoint looks like.
    """
    if STEM not in weights:
        return  # a part of a network, loaded on purpose
    level = re.compile(rf'levels\.[0-{levels - 1}]\.(blocks\..*|downsample\..*)')
    last_downsample = f'levels.{levels - 1}.downsample.'
    extra = [name for name in weights.keys() - own.keys() if level.match(name) and not name.startswith(last_downsample)]
    missing = [name for name in own.keys() - weights.keys() if not name.startswith('outnorm')]
    differing = [name for name in own.keys() & weights.keys() if own[name].shape != weights[name].shape]
    if extra or missing or differing:
        raise UserError(f'the checkpoint is of another network: it looks like {looks_like(weights)}, the model is '
                        f'{looks_like(own)}; set arch to fit (first difference: {sorted(extra + missing + differing)[0]})')


def group_names(names):
    """Names of parameters by their first part, e.g. 'head (2), norm (2)'."""
    counts = {}
    for name in names:
        part = name.removeprefix('module.').removeprefix('model.').split('.')[0]
        counts[part] = counts.get(part, 0) + 1
    return ', '.join(f'{part} ({count})' for part, count in counts.items()) or 'nothing'
