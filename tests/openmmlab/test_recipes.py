"""Recipes of other methods and data sets train and are evaluated on drawn data of their formats, and take others."""
import json
import math
import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest
import torch
from mmdet.datasets.api_wrappers import COCO
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, init_default_scope

from mmmambavision.cli.train import main
from mmmambavision.cli.work import train as work
from mmmambavision.cli.work.test import augment
from mmmambavision.errors import UserError
from mmmambavision.openmmlab.configs import load_config
from mmmambavision.openmmlab.datasets import check_data
from mmmambavision.openmmlab.own_data import prepare

from ..helpers import data
from ..helpers.data import coco_contents, parts, recipe, write_both, write_label_maps
from ..helpers.messages import facts
from ..helpers.nets import NANO
from ..helpers.process import ROOT

NARROW = {80: 16, 160: 32, 320: 64, 640: 128}
FEWER = dict(num_layers=1, num_queries=20, channels=32, fc_out_channels=64, max_per_img=20, num=32, score_thr=0.)
SIZES = {'scale', 'scales', 'img_scale', 'crop_size', 'stride', 'size', 'max_size'}
RECIPES = {  # data, losses among others, metric, by how much images are smaller
    'dino_mambavision_t_1x': (data.coco, {'dn_loss_cls', 'enc_loss_iou'}, 'coco/bbox_mAP', 8),
    'rtmdet_ins_mambavision_t_100e': (data.coco, {'loss_bbox', 'loss_mask'}, 'coco/segm_mAP', 10),
    'cascade_rcnn_mambavision_t_small_objects': (data.coco, {'loss_rpn_cls', 's2.loss_bbox'}, 'coco/bbox_mAP', 8),
    'mask_rcnn_mambavision_t_lvis': (data.lvis, {'loss_cls', 'loss_mask'}, 'lvis/segm_AP', 8),
    'mask2former_mambavision_t': (data.ade20k, {'decode.loss_mask', 'decode.loss_dice'}, 'mIoU', 8),
    'upernet_mambavision_t_cityscapes': (data.cityscapes, {'decode.loss_ce', 'aux.loss_ce'}, 'mIoU', 8),
    'upernet_mambavision_t_voc12aug': (data.voc, {'decode.loss_ce', 'aux.loss_ce'}, 'mIoU', 8),
    'rotated/rotated_retinanet_mambavision_t_1x': (data.dota, {'loss_cls', 'loss_bbox'}, 'dota/mAP', 8),
    'rotated/oriented_rcnn_mambavision_t_1x': (data.dota, {'loss_rpn_cls', 'loss_bbox'}, 'dota/mAP', 8),
    'rotated/rotated_rtmdet_mambavision_t_3x': (data.dota, {'loss_cls', 'loss_bbox'}, 'dota/mAP', 8),
}


def divided(value, by):
    return type(value)(divided(part, by) for part in value) if isinstance(value, (list, tuple)) else value // by


def make_small(cfg, by):
    """Narrow the network, shrink the images and shorten the training to two iterations."""
    cfg.model.backbone.arch = NANO
    for part in parts(cfg.model):
        channels = part.get('in_channels')
        if isinstance(channels, list):
            part['in_channels'] = [NARROW[width] for width in channels]
        elif channels in NARROW:
            part['in_channels'] = NARROW[channels]
        part.update({key: FEWER[key] for key in FEWER.keys() & part.keys()})
    loaders = [cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader]
    for part in parts([*loaders, cfg.get('custom_hooks', []), cfg.model.data_preprocessor, cfg.model.test_cfg]):
        for key in SIZES & part.keys():
            if part[key] is not None:
                part[key] = divided(part[key], by)
    for loader in loaders:
        loader.update(num_workers=0, persistent_workers=False)
    cfg.train_dataloader.batch_size = 2
    length = 'max_iters' if 'max_iters' in cfg.train_cfg else 'max_epochs'
    cfg.train_cfg.update({length: 2 if length == 'max_iters' else 1}, val_interval=2 if length == 'max_iters' else 1,
                         dynamic_intervals=None)
    cfg.default_hooks.checkpoint.interval = cfg.train_cfg.val_interval
    cfg.default_hooks.logger.interval = 1


def use_data(cfg, root):
    for part in parts(cfg._cfg_dict):
        if 'data_root' in part:
            part['data_root'] = str(root)
        if str(part.get('type', '')).endswith('Metric') and 'ann_file' in part:
            part['ann_file'] = str(root / 'annotations' / Path(part['ann_file']).name)


def train(cfg, work_dir, monkeypatch, *options):
    """What tools/train.py logs of a config, one dict an iteration or evaluation."""
    cfg.launcher, cfg.work_dir = 'none', str(work_dir)
    cfg.visualizer.name = str(work_dir)  # one of its own, which writes into its folder
    monkeypatch.setattr(work, 'load_config', lambda *_: cfg)
    for module in ('mmengine.config.config', 'yapf.yapflib.yapf_api'):  # most of the time would go into line breaks
        monkeypatch.setattr(f'{module}.FormatCode', lambda text, **_: (text, True), raising=False)
    main(['the config at hand', '--from-scratch', *map(str, options)])
    log, = work_dir.glob('*/vis_data/scalars.json')
    return [json.loads(line) for line in log.read_text().splitlines()]


def without_lvis(cfg, monkeypatch):
    """Without the package, its annotations are read by what it derives from, and not evaluated."""
    module = ModuleType('lvis')
    module.__spec__, module.LVIS = ModuleSpec('lvis', None), COCO
    monkeypatch.setitem(sys.modules, 'lvis', module)
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None


@pytest.mark.parametrize('name', [
    pytest.param(name, marks=[pytest.mark.slow] if name.startswith(('dino', 'rtmdet', 'rotated')) else [])
    for name in RECIPES])
def test_two_iterations_and_an_evaluation(name, tmp_path, monkeypatch):
    if 'rotated' in name:
        pytest.importorskip('mmrotate.evaluation', reason='onedl-mmrotate, on the onedl packages', exc_type=ImportError)
    draw, losses, metric, by = RECIPES[name]
    draw(tmp_path / 'data')
    cfg = recipe(name)
    make_small(cfg, by)
    use_data(cfg, tmp_path / 'data')
    if 'lvis' in name and not find_spec('lvis'):
        without_lvis(cfg, monkeypatch)
    log = train(cfg, tmp_path / 'work_dir', monkeypatch)
    assert len(log) == (3 if cfg.val_cfg else 2)
    for entry in log[:2]:
        assert math.isfinite(entry['loss']) and entry['loss'] > 0 and losses <= entry.keys()
    if cfg.val_cfg:
        assert metric in log[2] and [*(tmp_path / 'work_dir').glob('best_*.pth')]


@pytest.mark.parametrize('name', [name for name in RECIPES if 'rotated' not in name])
def test_own_data(name, tmp_path):
    """What --data does: two classes in every head, one data set, an evaluator for it, all of which can be built."""
    cfg = recipe(name)
    cfg.work_dir = str(tmp_path / 'work_dir')
    segments = cfg.default_scope == 'mmseg'
    folder = write_label_maps(tmp_path, (0, 1)) if segments else write_both(tmp_path)
    prepare(cfg, folder, quiet=True)
    init_default_scope(cfg.default_scope)
    heads = [part for part in parts(cfg.model) if 'num_classes' in part and part.get('type') != 'RPNHead']
    assert heads and {part['num_classes'] for part in heads} == {2}
    with torch.device('meta'):
        MODELS.build(cfg.model)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    assert len(dataset.metainfo['classes']) == 2 and dataset[0] is not None
    evaluators = cfg.val_evaluator if isinstance(cfg.val_evaluator, list) else [cfg.val_evaluator]
    assert [evaluator.type for evaluator in evaluators] == ['IoUMetric' if segments else 'CocoMetric']


def test_boxes_without_masks(tmp_path):
    contents = coco_contents()
    for annotation in contents['annotations'][1:]:
        del annotation['segmentation']
    write_both(tmp_path, contents, contents)
    cfg = recipe('rtmdet_ins_mambavision_t_100e')
    with pytest.raises(UserError, match=facts('14', '16', 'segmentation')):
        prepare(cfg, tmp_path, quiet=True)
    del contents['annotations'][0]['segmentation']
    write_both(tmp_path, contents, contents)
    with pytest.raises(UserError, match=facts('RTMDet', 'masks')):
        prepare(cfg, tmp_path, quiet=True)
    cfg = recipe('cascade_rcnn_mambavision_t_small_objects')
    cfg.work_dir = str(tmp_path / 'work_dir')
    _, changes = prepare(cfg, tmp_path, quiet=True)
    assert not any('mask' in change for change in changes)


def test_rotated_boxes_of_ones_own_are_refused(tmp_path):
    with pytest.raises(UserError, match=facts('DOTA')):
        prepare(dict(default_scope='mmrotate'), tmp_path)


def test_masks_are_not_augmented():
    cfg = recipe('rtmdet_ins_mambavision_t_100e')
    with pytest.raises(UserError, match=facts('--cfg-options test_evaluator.metric=bbox')):
        augment(cfg)
    cfg.test_evaluator.metric = 'bbox'
    augment(cfg)
    assert cfg.model.type == 'DetTTAModel'


def test_what_is_missing_is_told(tmp_path, monkeypatch):
    cfg = recipe('upernet_mambavision_t_voc12aug')
    data.voc(tmp_path)
    use_data(cfg, tmp_path)
    check_data(cfg, 'train_dataloader', 'val_dataloader')
    (tmp_path / 'ImageSets' / 'Segmentation' / 'aug.txt').unlink()
    with pytest.raises(UserError, match=facts('aug.txt', 'train_dataloader.dataset.datasets.1.data_root')):
        check_data(cfg, 'train_dataloader', 'val_dataloader')
    monkeypatch.setitem(sys.modules, 'lvis', None)
    with pytest.raises(UserError, match=facts('LVISV1Dataset', 'pip install lvis')):
        check_data(recipe('mask_rcnn_mambavision_t_lvis'), 'train_dataloader')
    for line, missing in (("_base_ = 'mmdet3d::no/where.py'", 'mmdet3d'),
                          ("custom_imports = dict(imports=['nowhere'], allow_failed_imports=False)", 'nowhere')):
        (tmp_path / 'mine.py').write_text(line)
        with pytest.raises(UserError, match=facts('mine.py', missing)):
            load_config(tmp_path / 'mine.py')


def test_channels_of_images_and_backbone():
    def check(channels, mean, colour='grayscale', **settings):
        check_data(Config(dict(
            model=dict(backbone=dict(in_channels=channels), data_preprocessor=dict(mean=mean, **settings)),
            train_dataloader=dict(dataset=dict(type='X', pipeline=[dict(type='LoadImageFromFile', color_type=colour)])),
        )), 'train_dataloader')

    check(1, [0.])
    check(4, None, 'unchanged')
    with pytest.raises(UserError, match=facts('train_dataloader.dataset.pipeline', 'grayscale', 'in_channels')):
        check(3, [0., 0., 0.])
    with pytest.raises(UserError, match=facts('data_preprocessor.mean', '4')):
        check(4, [0.] * 4, 'unchanged')
    for channels, mean, settings in ((1, [0.] * 3, {}), (1, None, dict(bgr_to_rgb=True)), (4, [0.] * 3, {})):
        with pytest.raises(UserError, match=facts('data_preprocessor', 'bgr_to_rgb=False', 'in_channels')):
            check(channels, mean, 'grayscale' if channels == 1 else 'unchanged', **settings)


def test_settings_that_nothing_reads_are_named(capfd):
    """Variables of a config's file, such as max_epochs of the demo, are in other settings by then."""
    load_config(ROOT / 'configs' / 'cascade_mask_rcnn_mambavision_demo.py', {
        'max_epochs': 2, 'norm_cfg.type': 'SyncBN', 'train_cfg.max_epochs': 2, 'randomness.seed': 1,
        'tta_model.type': 'X'})
    printed = ''.join(capfd.readouterr())
    assert 'max_epochs, norm_cfg.' in printed and 'randomness' not in printed and 'tta_model' not in printed


def test_options_that_do_not_fit_the_config_are_told():
    config = ROOT / 'configs' / 'dino_mambavision_t_1x.py'
    with pytest.raises(UserError, match=facts(config, 'arch')):
        load_config(config, {'model.backbone.arch.mixer': 'conv'})
