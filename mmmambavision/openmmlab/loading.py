"""Make mmengine load checkpoints through our safe reader.

With torch 2.6 or later, mmengine 0.10.7 cannot read its own checkpoints. The onedl fork unpickles any file without
checks. Both unpickle files from URLs without checks. This module uses one allow-list of classes for all sources, and
any other class in a file stops the load.
"""
import pickle
import re
from collections import OrderedDict

import mmengine.runner.checkpoint as mmengine_checkpoint
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer, print_log
from mmengine.model import BaseTTAModel, is_model_wrapper

from ..checkpoints.files import load_checkpoint, tensors_of
from ..checkpoints.names import STEM, backbone_weights, classifier_weights, group_names, is_bare, rename
from ..checkpoints.weights import check_values, fit
from ..errors import UserError
from ..models.classifier import MambaVisionClassifier
from ..models.mambavision import MambaVision

_load_state_dict = mmengine_checkpoint.load_state_dict


def load_from_disk_or_url(filename, map_location='cpu', **_):
    """Loader for mmengine: paths, URLs and hf:// names.

    The tensors of a bare classifier or backbone get the prefix `backbone.`, as in OpenMMLab models. A classifier keeps
    its norm and linear layer. A checkpoint from mmengine is returned unchanged.
    """
    checkpoint = load_checkpoint(filename, map_location)
    meta, bare = checkpoint.get('meta'), is_bare(checkpoint)
    if isinstance(meta, dict) and 'state_dict' in checkpoint and (not bare or 'mmengine_version' in meta):
        return checkpoint
    if not bare:
        return dict(state_dict=tensors_of(checkpoint), meta={})
    weights = {**backbone_weights(checkpoint)[0], **classifier_weights(checkpoint)}
    return dict(state_dict={f'backbone.{name}': value for name, value in weights.items()}, meta={})


def load_state_dict(module, state_dict, strict=False, logger=None):
    """Check that weights belong to a model, then load them with mmengine's function, which ignores mismatches.

    Names can have any prefix. A `MambaVisionClassifier`, for example in mmpretrain's TimmClassifier, also takes the
    norm and linear layer of a released classifier. The log says how many tensors were filled.

    Args:
        strict: whether every tensor of the model must be filled, as for an evaluation.

    Raises:
        UserError: no tensor fits, a `MambaVision` in the model is another network, or, if strict, tensors are missing
            or have other shapes.
    """
    model = module.module if is_model_wrapper(module) or isinstance(module, BaseTTAModel) else module
    own, metadata = model.state_dict(), getattr(state_dict, '_metadata', None)
    state_dict, prefixes = fit_backbones(rename(state_dict, own), model)
    _check_filled(state_dict, own, strict)
    if strict:
        _check_nothing_more(state_dict, own, prefixes)
    if not any(value.is_meta for value in own.values() if torch.is_tensor(value)):
        check_values({name: value for name, value in state_dict.items() if name in own})
    state_dict = OrderedDict(state_dict)
    if metadata is not None:
        state_dict._metadata = metadata
    return _load_state_dict(module, state_dict, False, logger)


def fit_backbones(state_dict, model):
    """Apply `fit` to the weights of each MambaVision in a model. Returns the tensors and the networks' prefixes."""
    prefixes = []
    for name, part in model.named_modules():
        if isinstance(part, (MambaVision, MambaVisionClassifier)):
            prefix = f'{name}.' if name else ''
            if isinstance(part, MambaVisionClassifier):
                # Not the module's name: mmpretrain's TimmClassifier leaves its `model.` out of state dicts.
                prefix = next(key for key in model.state_dict() if key.endswith(STEM)).removesuffix(STEM)
            weights = {key[len(prefix):]: value for key, value in state_dict.items() if key.startswith(prefix)}
            fitted = fit(weights, part)
            if STEM in fitted:
                state_dict = {**state_dict, prefix + STEM: fitted[STEM]}
            prefixes.append(prefix)
    return state_dict, prefixes


def _check_filled(state_dict, own, strict):
    """Log how many of a model's tensors a checkpoint fills.

    Raises:
        UserError: it fills none, or, if strict, not all.
    """
    own = {name: value for name, value in own.items() if not name.endswith('num_batches_tracked')}
    shapes = {name: tuple(value.shape) for name, value in state_dict.items() if torch.is_tensor(value)}
    filled = [name for name, value in own.items() if shapes.get(name) == tuple(value.shape)]
    share = f'{len(filled)} of the {len(own)} tensors of the model'
    if own and not filled:
        raise UserError(f'the checkpoint fills {share}: it has {group_names(shapes)}, the model has '
                        f'{group_names(own)}. Use the config that it was trained with')
    if strict and len(filled) < len(own):
        other = next((name for name in own if name in shapes and shapes[name] != tuple(own[name].shape)), None)
        if other:
            raise UserError(f'the checkpoint is of another model, or has another number of classes: its {other} has '
                            f'the shape {shapes[other]}, but the config has {tuple(own[other].shape)}. Use the config '
                            'that it was trained with')
        missing = [name for name in own if name not in shapes]
        raise UserError(f'the checkpoint fills {share}; missing: {group_names(missing)}, the first is {missing[0]}. '
                        'Use the config that it was trained with')
    print_log(f'checkpoint: filled {share}', logger='current')


def _check_nothing_more(state_dict, own, backbones):
    """Check that a checkpoint has no extra tensors for modules or module lists of the model.

    `fit` has already checked the tensors of backbones.

    Raises:
        UserError: the checkpoint has extra tensors.
    """
    def owners(name):  # the module of a tensor, and the module lists around it
        lists = {name[:number.start()] for number in re.finditer(r'\.\d+(?=\.)', name)}
        return {name.rpartition('.')[0], *lists} - {''}

    known = set().union(*map(owners, own))
    more = [name for name, value in state_dict.items() if torch.is_tensor(value) and name not in own
            and not name.startswith(tuple(backbones)) and not name.endswith('num_batches_tracked')
            and not known.isdisjoint(owners(name))]
    if more:
        raise UserError(f'the checkpoint is of another model: it has {len(more)} extra tensors for modules of the '
                        f'config ({group_names(more)}), the first is {more[0]}. Use the config that it was trained '
                        'with')


def _history_buffer_method(obj, name):
    """Replacement for `builtins.getattr` in pickles. mmengine's checkpoints need it for four HistoryBuffer methods."""
    if obj is HistoryBuffer and name in ('mean', 'max', 'min', 'current'):
        return getattr(obj, name)
    raise pickle.UnpicklingError(f'GLOBAL builtins.getattr({obj!r}, {name!r}) was not an allowed global')


def install():
    """Make mmengine read checkpoints through this module."""
    torch.serialization.add_safe_globals([HistoryBuffer, ConfigDict, (_history_buffer_method, 'builtins.getattr')])
    mmengine_checkpoint.CheckpointLoader.register_scheme(
        ('', 'http://', 'https://', 'hf://'), load_from_disk_or_url, force=True)
    # torchvision:// and other schemes call this function.
    mmengine_checkpoint.load_from_http = load_from_disk_or_url
    mmengine_checkpoint.load_state_dict = load_state_dict
