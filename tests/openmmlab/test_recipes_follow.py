"""Recipes of other methods and data sets are what the configs of mmdet and mmseg say that they follow."""
from pathlib import Path

import mmdet
import mmseg
import pytest
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

from ..helpers.data import parts, recipe
from ..helpers.nets import NANO


def stock(toolbox, name):
    return Config.fromfile(Path(toolbox.__file__).parent / '.mim' / 'configs' / f'{name}.py')


def settings(node, left_out=()):
    """Plain nested dicts and lists, tuples as lists, without some keys."""
    if isinstance(node, dict):
        return {key: settings(value, left_out) for key, value in node.items() if key not in left_out}
    return [settings(part, left_out) for part in node] if isinstance(node, (list, tuple)) else node


def test_dino_is_mmdets():
    ours, theirs = recipe('dino_mambavision_t_1x'), stock(mmdet, 'dino/dino-4scale_r50_8xb2-12e_coco')
    for cfg in (ours, theirs):
        cfg.model.backbone = cfg.model.neck.in_channels = cfg.default_hooks = cfg.custom_imports = None
    assert settings(ours._cfg_dict, ['_scope_']) == settings(theirs._cfg_dict, ['_scope_'])


def test_rtmdet_ins_is_mmdets():
    """The masks of one config, the schedule of another; group norms, in 16 groups, and no norm shared by GPUs."""
    ours = recipe('rtmdet_ins_mambavision_t_100e')
    masks, swin = (stock(mmdet, f'rtmdet/{name}') for name in (
        'rtmdet-ins_l_8xb32-300e_coco', 'rtmdet_l_swin_b_4xb32-100e_coco'))
    for cfg in (ours, masks, swin):
        cfg.model.neck.in_channels = None
    plain = ['_scope_', 'norm_cfg', 'backend_args']
    for key in ('bbox_head', 'neck', 'test_cfg', 'train_cfg'):
        assert settings(ours.model[key], plain) == settings(masks.model[key], plain)
    assert settings(ours.train_dataloader, plain) == settings(masks.train_dataloader, plain)
    assert ours.model.neck.norm_cfg == ours.model.bbox_head.norm_cfg == dict(type='GN', num_groups=16)
    for key in ('param_scheduler', 'train_cfg', 'test_dataloader'):
        assert settings(ours[key], plain) == settings(swin[key], plain)
    before, switch = ours.custom_hooks
    assert before == swin.custom_hooks[0] and switch.switch_epoch == swin.custom_hooks[1].switch_epoch
    assert settings(switch.switch_pipeline, plain) == settings(masks.train_pipeline_stage2, plain)
    assert ours.optim_wrapper.optimizer == swin.optim_wrapper.optimizer
    depth, depths = MODELS.build(ours.model.backbone).get_layer_depth('patch_embed.conv_down.0.weight')
    assert .85 ** (depths - 1 - depth) == .85 ** 17 == pytest.approx(.8 ** 13, abs=.01)
    keys = ('mean', 'std', 'bgr_to_rgb')
    assert all(ours.model.data_preprocessor[key] == swin.model.data_preprocessor[key] for key in keys)


def test_mask2former_is_mmsegs():
    """Its model and pipeline, and the learning rate and weight decay of each kind of parameter."""
    ours, theirs = (recipe('mask2former_mambavision_t'),
                    stock(mmseg, 'mask2former/mask2former_r50_8xb2-160k_ade20k-512x512'))
    init_default_scope('mmseg')
    heads = []
    for cfg in (ours, theirs):
        cfg.model.decode_head.in_channels = [80, 160, 320, 640]
        heads.append(MODELS.build(cfg.model.decode_head))
    assert str(heads[0]) == str(heads[1])
    defaults = ['in_channels', 'im2col_step', 'norm_cfg', 'init_cfg']
    assert settings(ours.model.decode_head, defaults) == settings(theirs.model.decode_head, defaults)
    for key in ('data_preprocessor', 'test_cfg'):
        assert settings(ours.model[key]) == settings(theirs.model[key])
    assert settings(ours.train_dataloader.dataset.pipeline) == settings(theirs.train_dataloader.dataset.pipeline)
    assert settings(ours.param_scheduler) == settings(theirs.param_scheduler)
    assert ours.train_cfg.max_iters == theirs.train_cfg.max_iters
    for key in ('optimizer', 'clip_grad'):
        assert settings(ours.optim_wrapper[key]) == settings(theirs.optim_wrapper[key])
    ours.model.backbone.init_cfg = None
    model = MODELS.build(ours.model)
    names = {parameter: name for name, parameter in model.named_parameters()}
    norms = {f'{name}.{kind}' for name, module in model.named_modules() if 'Norm' in type(module).__name__
             for kind in ('weight', 'bias')}
    for group in build_optim_wrapper(model, ours.optim_wrapper).optimizer.param_groups:
        name, = (names[parameter] for parameter in group['params'])
        assert group['lr'] == pytest.approx(1e-5 if name.startswith('backbone.') else 1e-4), name
        plain = name in norms or 'query_' in name or 'level_embed' in name
        assert group['weight_decay'] == (0 if plain else .05), name


@pytest.mark.parametrize('name, data, upernet', [
    ('cityscapes', 'cityscapes', 'upernet_r50_4xb2-80k_cityscapes-512x1024'),
    ('voc12aug', 'pascal_voc12_aug', 'upernet_r50_4xb4-40k_voc12aug-512x512')])
def test_segmentors_are_mmsegs(name, data, upernet):
    """Data sets and pipelines, length, batch and classes; padding to the crop is the preprocessor's."""
    ours, theirs, stocks = recipe(f'upernet_mambavision_t_{name}'), stock(mmseg, f'_base_/datasets/{data}'), stock(
        mmseg, f'upernet/{upernet}')
    for part in parts([ours._cfg_dict, theirs._cfg_dict]):
        if 'data_root' in part:
            part['data_root'] = part['data_root'].rstrip('/')
        if 'pipeline' in part:
            part['pipeline'] = [step for step in part['pipeline'] if step.type != 'Pad']
    for key in ('train_dataloader', 'val_dataloader', 'tta_pipeline', 'val_evaluator'):
        left_out = ['num_workers', 'backend_args']
        assert settings(ours[key], left_out) == settings(theirs[key], left_out)
    assert ours.train_dataloader.batch_size == stocks.train_dataloader.batch_size
    assert ours.auto_scale_lr.base_batch_size == 4 * ours.train_dataloader.batch_size
    assert ours.train_cfg.max_iters == stocks.train_cfg.max_iters == ours.param_scheduler[1].end
    heads = ('decode_head', 'auxiliary_head')
    assert all(ours.model[head].num_classes == stocks.model[head].num_classes for head in heads)
    assert tuple(ours.model.data_preprocessor.size) == tuple(stocks.model.data_preprocessor.size)


def test_lvis_is_mmdets():
    ours = recipe('mask_rcnn_mambavision_t_lvis')
    theirs = stock(mmdet, 'lvis/mask-rcnn_r50_fpn_sample1e-3_ms-1x_lvis-v1')
    for key in ('train_dataloader', 'val_dataloader', 'val_evaluator', 'train_cfg'):
        assert settings(ours[key], ['_scope_']) == settings(theirs[key], ['_scope_'])
    for key in ('roi_head', 'test_cfg'):
        assert settings(ours.model[key], ['_scope_']) == settings(theirs.model[key], ['_scope_'])


def test_small_objects():
    """Images as in the recipe that it follows; anchors of 16 pixels, and more detections."""
    ours = recipe('cascade_rcnn_mambavision_t_small_objects')
    theirs = stock(mmdet, 'dyhead/atss_swin-l-p4-w12_fpn_dyhead_ms-2x_coco')
    steps = ours.train_dataloader.dataset.pipeline, theirs.train_dataloader.dataset.dataset.pipeline
    assert steps[0][2].scale == steps[1][2].scale
    assert ours.test_dataloader.dataset.pipeline[1].scale == theirs.test_dataloader.dataset.pipeline[1].scale
    init_default_scope('mmdet')
    model = MODELS.build(dict(ours.model, backbone=dict(ours.model.backbone, arch=NANO, init_cfg=None), neck=dict(
        ours.model.neck, in_channels=[16, 32, 64, 128])))
    sizes = [(anchors[:, 2] - anchors[:, 0]).max().round().item()
             for anchors in model.rpn_head.anchor_generator.base_anchors]
    assert sizes == pytest.approx([8 * stride * 2 ** .5 for stride in (4, 8, 16, 32, 64)], abs=1)
    smallest = model.rpn_head.anchor_generator.base_anchors[0]
    areas = (smallest[:, 2] - smallest[:, 0]) * (smallest[:, 3] - smallest[:, 1])
    assert sorted({round(area ** .5) for area in areas.tolist()}) == [16, 32]
    assert not model.with_mask and model.test_cfg.rcnn.max_per_img == 500
