"""Load a trained model's weights except the class-dependent layers."""
import copy

import torch
from mmengine.hooks import Hook
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner.checkpoint import CheckpointLoader

from ...checkpoints.names import group_names, rename
from ...checkpoints.weights import check_there
from ...errors import UserError
from ..configs import first_dataset
from ..loading import fit_backbones
from ..models import classes_in
from .fit import fit_model

ANOTHER_COUNT = 7919  # an unusual number of classes: tensors whose shape depends on it are class-dependent


class LeaveOut(Hook):
    """Replace the state dict of a loaded checkpoint by renamed tensors, without the excluded ones."""

    priority = 'VERY_HIGH'  # before EMAHook, which copies the loaded weights

    def __init__(self, names, state):
        self.names, self.state = names, state

    def after_load_checkpoint(self, runner, checkpoint):
        checkpoint['state_dict'] = {key: value for key, value in self.state.items() if key not in self.names}
        self.state = None  # free the memory


def start_from(cfg, source):
    """Start a training from a checkpoint. If its classes differ, its class-dependent layers are not loaded.

    Args:
        cfg: the config, changed in place: sets `load_from`, and removes the pretrained backbone if the checkpoint has
            a backbone.
        source: path, URL or hf:// name.

    Returns:
        The hook that excludes the layers, and the changes as sentences.

    Raises:
        UserError: the checkpoint cannot be loaded, or it is of another model. The message names the first layer that
            differs.
    """
    checkpoint = CheckpointLoader.load_checkpoint(source, map_location='cpu')
    model = build(cfg)
    try:
        state, _ = fit_backbones(rename(checkpoint['state_dict'], model.state_dict()), model)
        check_there(state)
    except UserError as error:
        raise UserError(f'{source}: {error}') from None
    own, others, given = ({name: value.shape for name, value in state.items() if torch.is_tensor(value)} for state in (
        model.state_dict(), build(cfg, ANOTHER_COUNT).state_dict(), state))
    of_classes = {name for name in own if own[name] != others.get(name)}
    other = [name for name in own if name in given and own[name] != given[name]]
    wrong = next((name for name in other if name not in of_classes and not name.startswith('backbone.')), None)
    if wrong:
        raise UserError(f'{source} is of another model: its {wrong} has the shape {tuple(given[wrong])}, but the '
                        f'config has {tuple(own[wrong])}. Use the config that it was trained with')
    if not any(own[name] == given.get(name) for name in own):
        raise UserError(f'{source} is of another model: it has none of the {len(own)} tensors of the config. It has '
                        f'{group_names(given)}')
    theirs, ours = classes_in(checkpoint), (first_dataset(cfg.train_dataloader).get('metainfo') or {}).get('classes')
    named = theirs and ours and tuple(theirs) != tuple(ours)
    left_out = {name for name in of_classes & given.keys() if named or name in other}

    of_backbone = [name for name in own if name.startswith('backbone.') and not name.endswith('num_batches_tracked')]
    missing = [name for name in of_backbone if name not in given and not name.startswith('backbone.outnorm')]
    has_backbone = any(name.startswith('backbone.') for name in given)
    if has_backbone and 2 * len(missing) > len(of_backbone):
        raise UserError(f'{source} fills only a part of the backbone: {len(missing)} of the {len(of_backbone)} tensors '
                        f'are missing, the first is {missing[0]}. Give a checkpoint with the whole backbone')
    cfg.load_from = source
    if has_backbone:
        cfg.model.backbone.update(dict.fromkeys({'init_cfg', 'pretrained'} & cfg.model.backbone.keys()))
    notes = [f'weights of {source}: {len(own.keys() & given.keys() - left_out)} of the {len(own)} tensors of the model '
             f'loaded; not in the model: {group_names(sorted(given.keys() - own.keys()))}; new: '
             f'{group_names(sorted(own.keys() - given.keys()))}']
    if has_backbone and missing:
        notes.append(f'these tensors of the backbone are missing and start from random values: {", ".join(missing)}')
    if left_out:
        notes.append(f'left out, because the classes differ: {", ".join(sorted(left_out))}')
    elif of_classes & given.keys() and not theirs:
        notes.append(f'{source} does not store its class names. Their number is equal, so the class-dependent layers '
                     'are loaded')
    return LeaveOut(left_out, state), notes


def build(cfg, count=None):
    """Build the model on the meta device, optionally with `count` classes in every head."""
    model = copy.deepcopy(cfg.model)
    if count:
        fit_model(model, count)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    with torch.device('meta'):
        return MODELS.build(model)
