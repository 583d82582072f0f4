"""Checkpoint loading of mmengine through our reader.

mmengine 0.10.7 cannot read the checkpoints that it writes with torch 2.6 or later, the onedl fork reads what it
cannot check by unpickling everything, and both unpickle everything that comes by URL. Here one list of harmless
classes is allowed on every path, and whatever else a file asks for stops the load.
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
    """mmengine's loader for paths, URLs and hf:// names.

    A network by itself, such as a released classifier, comes as the state dict of a model whose `backbone` it is, as
    OpenMMLab's models call it, with its norm and linear layer; what mmengine saved comes as it is.
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
    """mmengine's, which goes on whatever the names and shapes, after a look whether the weights are the model's.

    Names may have any prefix. A `MambaVisionClassifier`, such as the model of mmpretrain's TimmClassifier, takes the
    weights of a backbone and what a released classifier has beyond it. The log says how many tensors were filled.

    Args:
        strict: whether every tensor of the model has to be filled, as for an evaluation.

    Raises:
        UserError: nothing fits, a `MambaVision` in the model is another network, or, if strict, tensors are missing or
            have other shapes.
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
    """Tensors by a model's names, those of each MambaVision in it fitted, and the prefixes of these; see `fit`."""
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
        UserError: none, or, if strict, not all.
    """
    own = {name: value for name, value in own.items() if not name.endswith('num_batches_tracked')}
    shapes = {name: tuple(value.shape) for name, value in state_dict.items() if torch.is_tensor(value)}
    filled = [name for name, value in own.items() if shapes.get(name) == tuple(value.shape)]
    share = f'{len(filled)} of the {len(own)} tensors of the model'
    if own and not filled:
        raise UserError(f'the checkpoint fills {share}: it has {group_names(shapes)}, the model has '
                        f'{group_names(own)}. Take the config that it was trained with')
    if strict and len(filled) < len(own):
        other = next((name for name in own if name in shapes and shapes[name] != tuple(own[name].shape)), None)
        if other:
            raise UserError(f'the checkpoint is of another model, or of another number of classes: its {other} has '
                            f"the shape {shapes[other]}, that of the config {tuple(own[other].shape)}. Take the config "
                            'that it was trained with')
        missing = [name for name in own if name not in shapes]
        raise UserError(f'the checkpoint fills {share}; missing: {group_names(missing)}, the first {missing[0]}. Take '
                        'the config that it was trained with')
    print_log(f'checkpoint: filled {share}', logger='current')


def _check_nothing_more(state_dict, own, backbones):
    """See that a checkpoint has no tensors for modules or lists of modules that the model has otherwise; `fit` has seen
    to those behind the prefixes of backbones.

    Raises:
        UserError: it has.
    """
    def owners(name):  # its module, and the lists that it is an entry of
        lists = {name[:number.start()] for number in re.finditer(r'\.\d+(?=\.)', name)}
        return {name.rpartition('.')[0], *lists} - {''}

    known = set().union(*map(owners, own))
    more = [name for name, value in state_dict.items() if torch.is_tensor(value) and name not in own
            and not name.startswith(tuple(backbones)) and not name.endswith('num_batches_tracked')
            and not known.isdisjoint(owners(name))]
    if more:
        raise UserError(f'the checkpoint is of another model: it has {len(more)} tensors more of modules of the config '
                        f'({group_names(more)}), the first {more[0]}. Take the config that it was trained with')


def _history_buffer_method(obj, name):
    """What `builtins.getattr` is for in mmengine's checkpoints: naming four methods of HistoryBuffer, and no more."""
    if obj is HistoryBuffer and name in ('mean', 'max', 'min', 'current'):
        return getattr(obj, name)
    raise pickle.UnpicklingError(f'GLOBAL builtins.getattr({obj!r}, {name!r}) was not an allowed global')


def install():
    """Make mmengine read checkpoints through this module."""
    torch.serialization.add_safe_globals([HistoryBuffer, ConfigDict, (_history_buffer_method, 'builtins.getattr')])
    mmengine_checkpoint.CheckpointLoader.register_scheme(
        ('', 'http://', 'https://', 'hf://'), load_from_disk_or_url, force=True)
    # Behind torchvision:// and the other names that stand for URLs.
    mmengine_checkpoint.load_from_http = load_from_disk_or_url
    mmengine_checkpoint.load_state_dict = load_state_dict
