"""A small detector with everything random in it that detectors have, on four drawn images."""
import json

from mmengine.config import Config

from mmmambavision.checkpoints.files import read_checkpoint

from ..conftest import ROOT
from ..openmmlab import drawn

CONFIG = """
_base_ = '{root}/configs/cascade_mask_rcnn_mambavision_demo.py'
model = dict(
    backbone=dict(arch=dict(dim=16, in_dim=8, num_heads=(1, 2, 2, 4)), drop_path_rate=.5),
    neck=dict(in_channels=[16, 32, 64, 128]))
metainfo = dict(classes=('person', 'bicycle', 'car', 'motorcycle'))
dataset = dict(data_root='{data}/', metainfo=metainfo)
train_dataloader = dict(batch_size=1, num_workers=0, persistent_workers=False, dataset=dict(**dataset, pipeline=[
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomResize', scale=[(64, 64), (96, 96)], keep_ratio=True),
    dict(type='PhotoMetricDistortion'),
    dict(type='RandomFlip', prob=.5),
    dict(type='PackDetInputs')]))
val_dataloader = dict(num_workers=0, persistent_workers=False, batch_size=1, dataset=dict(**dataset))
val_evaluator = dict(ann_file='{data}/annotations/instances_val2017.json')
train_cfg = dict(max_epochs=3, val_interval=100, val_begin=100)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=1, max_keep_ckpts=1))
custom_imports = dict(imports=['mmmambavision', 'tests.faults.hooks'], allow_failed_imports=False)
randomness = dict(seed=3)
"""


def prepare(folder):
    """Draw the data in `folder`; returns the path of a config that trains on it, for 3 epochs of 4 iterations."""
    drawn.coco(folder / 'data')
    path = folder / 'detector.py'
    path.write_text(CONFIG.format(root=ROOT, data=folder / 'data'))
    return path


def load(path, **options):
    """The config with settings by their dotted names, with underscores in pairs for the dots."""
    cfg = Config.fromfile(path)
    cfg.merge_from_dict({key.replace('__', '.'): value for key, value in options.items()})
    return cfg


def losses(work_dir):
    """Lines of the logs of all runs in a work dir, without what a clock says; the last of each iteration."""
    found = {}
    for log in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in log.read_text().splitlines():
            entry = json.loads(line)
            if 'loss' in entry:
                found[entry['step']] = json.dumps({k: v for k, v in entry.items() if k not in ('time', 'data_time')})
    return [found[step] for step in sorted(found)]


def weights(checkpoint):
    """Weights and the optimizer's averages as a list of (name, tensor)."""
    contents = read_checkpoint(checkpoint)
    state = contents['optimizer']['state']
    return [*contents['state_dict'].items(), *((f'{i}.{k}', v) for i, s in state.items() for k, v in s.items())]
