"""Small networks, and checkpoints of them in every released form."""
import argparse
from collections import OrderedDict

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from safetensors.torch import save_file
from torch import nn

from mmmambavision import MambaVision

NANO = dict(dim=16, in_dim=8, depths=(1, 1, 2, 2), num_heads=(1, 2, 2, 4))
DEEPER = dict(NANO, depths=(1, 1, 3, 2), num_heads=(2, 2, 4, 8))  # two mixers of one kind in a level


def nano(**options):
    return MambaVision(**{'arch': NANO, 'drop_path_rate': 0., **options})


class Detector(nn.Module):
    """A minimal detector: a backbone and another layer."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.neck = nn.Linear(2, 3)


def classifier(model):
    state = {k: v for k, v in model.state_dict().items() if not k.startswith('outnorm')}
    return {**state, 'norm.weight': torch.ones(128), 'norm.bias': torch.zeros(128), 'head.weight': torch.ones(10, 128),
            'head.bias': torch.zeros(10)}


def behind(prefix, state):
    return {prefix + key: value for key, value in state.items()}


def save(form, model, folder):
    """Write `model` as a released file of this form and return its path."""
    path = folder / f'{form}.pth'
    if form == 'pth.tar':
        path = folder / 'mambavision_nano_1k.pth.tar'
        torch.save(dict(state_dict=classifier(model), epoch=299, arch='mamba_vision', args=argparse.Namespace(lr=.005),
                        optimizer=dict(state={}, param_groups=[]), metric=np.float64(82.3)), path)
    elif form == 'module pth.tar':
        torch.save(dict(state_dict=behind('module.', classifier(model)), epoch=1), path)
    elif form == 'safetensors':
        path = folder / 'model.safetensors'
        save_file(behind('model.', classifier(model)), path)
    elif form == 'bare state dict':
        torch.save(classifier(model), path)
    elif form == 'mmengine detector':
        history = HistoryBuffer([1., 2.], [1, 1])
        torch.save(dict(state_dict=OrderedDict(Detector(model).state_dict()),
                        meta=dict(epoch=36, seed=1, dataset_meta=dict(palette=[(1, 2, 3)]), mean=np.zeros(3)),
                        message_hub=dict(log_scalars=OrderedDict(loss=history), runtime_info={})), path)
    return path


FORMS = ('pth.tar', 'module pth.tar', 'safetensors', 'bare state dict', 'mmengine detector')
