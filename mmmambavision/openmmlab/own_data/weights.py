"""Weights of a whole detector or segmentor, but for the layers whose classes are others."""
import copy

import torch
from mmengine.hooks import Hook
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner.checkpoint import CheckpointLoader

from ...checkpoints.names import group_names, rename
from ...checkpoints.weights import check_there
from ...errors import UserError
from ..loading import fit_backbones
from .fit import fit_model

ANOTHER_COUNT = 7919  # a number of classes that no model has: tensors whose shapes it changes are of the classes


class LeaveOut(Hook):
    """Gives a checkpoint that is loaded tensors of a model's names, without those that are to be left out."""

    priority = 'VERY_HIGH'  # before the hook of averaged weights, which copies what is loaded

    def __init__(self, names, state):
        self.names, self.state = names, state

    def after_load_checkpoint(self, runner, checkpoint):
        checkpoint['state_dict'] = {key: value for key, value in self.state.items() if key not in self.names}
        self.state = None  # no memory for the time of the training


def start_from(cfg, source):
    """Have a run start from a checkpoint; its classes' layers are left out where they are not the model's classes.

    Args:
        cfg: the config, changed in place: `load_from`, and no pretrained backbone where the checkpoint has one.
        source: path, URL or hf:// name.

    Returns:
        The hook that leaves the layers out, and what was done, as sentences.

    Raises:
        UserError: the checkpoint cannot be had, or is of another model; names the first layer that differs.
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
        raise UserError(f'{source} is of another model: its {wrong} has the shape {tuple(given[wrong])}, that of the '
                        f'config {tuple(own[wrong])}; take the config that it was trained with')
    if not any(own[name] == given.get(name) for name in own):
        raise UserError(f'{source} is of another model: none of the {len(own)} tensors of the config is in it; it has '
                        f'{group_names(given)}')
    theirs, ours = classes_in(checkpoint), (dataset_of(cfg).get('metainfo') or {}).get('classes')
    named = theirs and ours and tuple(theirs) != tuple(ours)
    left_out = {name for name in of_classes & given.keys() if named or name in other}

    cfg.load_from = source
    if any(name.startswith('backbone.') for name in given):
        cfg.model.backbone.update(dict.fromkeys({'init_cfg', 'pretrained'} & cfg.model.backbone.keys()))
    notes = [f'weights of {source}: {len(own.keys() & given.keys() - left_out)} of the {len(own)} tensors of the model '
             f'taken; not in the model: {group_names(sorted(given.keys() - own.keys()))}; new: '
             f'{group_names(sorted(own.keys() - given.keys()))}']
    if left_out:
        notes.append(f'left out, since the classes differ: {", ".join(sorted(left_out))}')
    elif of_classes & given.keys() and not theirs:
        notes.append(f'{source} does not say its classes; as many as here, they were taken for the same')
    return LeaveOut(left_out, state), notes


def build(cfg, count=None):
    """The model without values, as if every head had `count` classes."""
    model = copy.deepcopy(cfg.model)
    if count:
        fit_model(model, count)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    with torch.device('meta'):
        return MODELS.build(model)


def dataset_of(cfg):
    dataset = cfg.train_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    return dataset


def classes_in(checkpoint):
    """Names of the classes of what mmengine saved, or None."""
    meta = checkpoint.get('meta') or {}
    return (meta.get('dataset_meta') or {}).get('classes') or meta.get('CLASSES')
