"""Checkpoint loading of mmengine through our reader.

mmengine 0.10.7 cannot read the checkpoints that it writes with torch 2.6 or later, the onedl fork reads what it
cannot check by unpickling everything, and both unpickle everything that comes by URL. Here one list of harmless
classes is allowed on every path, and whatever else a file asks for stops the load.
"""
import pickle
import re

import mmengine.runner.checkpoint as mmengine_checkpoint
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseTTAModel, is_model_wrapper

from ..checkpoints.files import load_checkpoint
from ..checkpoints.weights import STEM, backbone_weights, classifier_weights, fit, is_bare
from ..models.classifier import MambaVisionClassifier
from ..models.mambavision import MambaVision

_load_state_dict = mmengine_checkpoint.load_state_dict


def load_from_disk_or_url(filename, map_location='cpu', **_):
    """mmengine's loader for paths, URLs and hf:// names.

    A network by itself, such as a released classifier, comes as the state dict of a model whose `backbone` it is, as
    OpenMMLab's models call it, with its norm and linear layer; what mmengine saved comes as it is.
    """
    checkpoint = load_checkpoint(filename, map_location)
    if not is_bare(checkpoint) or 'mmengine_version' in (checkpoint.get('meta') or {}):
        return checkpoint
    weights = {**backbone_weights(checkpoint)[0], **classifier_weights(checkpoint)}
    return dict(state_dict={f'backbone.{name}': value for name, value in weights.items()}, meta={})


def load_state_dict(module, state_dict, strict=False, logger=None):
    """mmengine's, which goes on whatever the shapes, after a look whether a `MambaVision` in the model is the network
    that its weights are of.

    A `MambaVision` by itself takes its weights from behind any prefix, a `MambaVisionClassifier`, such as the model of
    mmpretrain's TimmClassifier, those of a backbone and what a released classifier has beyond it.

    Raises:
        UserError: it is another network; says which preset the weights look like.
    """
    model = module.module if is_model_wrapper(module) or isinstance(module, BaseTTAModel) else module
    if isinstance(model, MambaVision):
        named_alike = state_dict.keys() & model.state_dict().keys()
        state_dict = fit(state_dict if named_alike else backbone_weights(state_dict)[0], model)
    else:
        adapted = {}
        for name, part in model.named_modules():
            if isinstance(part, MambaVisionClassifier):
                # Not the module's name: mmpretrain's TimmClassifier leaves its `model.` out of state dicts.
                prefix = next(key for key in model.state_dict() if key.endswith(STEM)).removesuffix(STEM)
                if prefix + STEM not in state_dict:
                    state_dict = {re.sub(r'^backbone\.', prefix, key): value for key, value in state_dict.items()}
            elif isinstance(part, MambaVision):
                prefix = f'{name}.'
            else:
                continue
            weights = {key[len(prefix):]: value for key, value in state_dict.items() if key.startswith(prefix)}
            adapted[prefix + STEM] = fit(weights, part).get(STEM)
        metadata = getattr(state_dict, '_metadata', None)
        state_dict = type(state_dict)({key: adapted.get(key, value) for key, value in state_dict.items()})
        if metadata is not None:
            state_dict._metadata = metadata
    return _load_state_dict(module, state_dict, strict, logger)


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
