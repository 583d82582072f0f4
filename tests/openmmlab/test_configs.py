"""Every recipe: weights named and shaped as the released ones, and the released schedule, data and regularisation."""
import copy
import json
from functools import lru_cache

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

import mmmambavision.openmmlab  # noqa: F401

from ..helpers.compare import DATA
from ..helpers.process import ROOT

CONFIGS = ROOT / 'configs'
RELEASED = {
    'cascade_mask_rcnn_mambavision_t': 'cascade_mask_rcnn_mamba_vision_tiny_3x_coco',
    'cascade_mask_rcnn_mambavision_s': 'cascade_mask_rcnn_mamba_vision_small_3x_coco',
    'cascade_mask_rcnn_mambavision_b': 'cascade_mask_rcnn_mamba_vision_base_3x_coco',
    'upernet_mambavision_t': 'mamba_vision_160k_ade20k-512x512_tiny',
    'upernet_mambavision_s': 'mamba_vision_160k_ade20k-512x512_small',
    'upernet_mambavision_b': 'mamba_vision_160k_ade20k-512x512_base',
    'upernet_mambavision_l3': 'mamba_vision_160k_ade20k-640x640_l3_21k',
}
ALL = sorted(path.stem for path in CONFIGS.glob('*.py'))


@lru_cache
def load(name):
    return Config.fromfile(CONFIGS / f'{name}.py')


@lru_cache
def model_of(name):
    return build(load(name))


def build(cfg):
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        return MODELS.build(cfg.model)


@pytest.mark.parametrize('name', RELEASED)
@pytest.mark.parametrize('suffix', ['', '_wholemap'])
def test_state_dict_is_the_released_one(name, suffix):
    manifest = json.loads((DATA / 'manifests' / f'{RELEASED[name]}.json').read_text())
    assert {k: list(v.shape) for k, v in model_of(name + suffix).state_dict().items()} == manifest


@pytest.mark.parametrize('name', ALL)
def test_builds_and_names_its_parts(name):
    cfg, model = load(name), model_of(name)
    assert type(model.backbone).__name__ == 'MambaVision'
    assert cfg.custom_imports.imports[0] == 'mmmambavision.openmmlab'  # operators, before any ask for them
    assert 'mmseg::' not in (CONFIGS / f'{name}.py').read_text()


def drop_paths(model):
    return [block.drop_path.drop_prob for level in model.backbone.levels for block in level.blocks]


@pytest.mark.parametrize('name', RELEASED)
def test_drop_path_that_took_effect(name):
    rates = drop_paths(model_of(name))
    assert rates[0] == 0 and max(rates) == pytest.approx(.2) == rates[-1]


WINDOWS = {'upernet_mambavision_s': (160, 56)}


@pytest.mark.parametrize('name', RELEASED)
def test_windows(name):
    released, whole_map = load(name).model.backbone, load(f'{name}_wholemap').model.backbone
    assert tuple(released.window_size) == WINDOWS.get(name, (112, 56) if name.startswith('cascade') else (64, 32))
    assert whole_map.window_size is None


@pytest.mark.parametrize('size, lr', [('t', 1e-4), ('s', 1e-4), ('b', 2e-4)])
def test_detection_recipe(size, lr):
    cfg = load(f'cascade_mask_rcnn_mambavision_{size}')
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    assert cfg.optim_wrapper.optimizer == dict(type='AdamW', lr=lr, betas=(0.9, 0.999), weight_decay=0.05)
    assert cfg.optim_wrapper.paramwise_cfg == dict(custom_keys={'norm': dict(decay_mult=0.)})
    assert cfg.train_cfg.max_epochs == 36
    warmup, steps = cfg.param_scheduler
    assert (warmup.type, warmup.start_factor, warmup.end, warmup.by_epoch) == ('LinearLR', .001, 1000, False)
    assert (steps.type, steps.milestones, steps.gamma, steps.by_epoch) == ('MultiStepLR', [27, 33], .1, True)
    assert cfg.train_dataloader.batch_size == 2 and cfg.auto_scale_lr.base_batch_size == 16
    pipeline = cfg.train_dataloader.dataset.pipeline
    assert [step.type for step in pipeline] == ['LoadImageFromFile', 'LoadAnnotations', 'RandomFlip', 'RandomChoice',
                                                'PackDetInputs']
    whole, cropped = pipeline[3].transforms
    assert [s[0] for s in whole[0].scales] == list(range(480, 801, 32)) == [s[0] for s in cropped[2].scales]
    assert {s[1] for s in whole[0].scales} == {1333} and cropped[1].crop_size == (384, 600)
    assert cfg.test_dataloader.dataset.pipeline[1].scale == (1333, 800)
    assert cfg.model.data_preprocessor.pad_size_divisor == 32
    for head in cfg.model.roi_head.bbox_head:
        assert (head.loss_bbox.type, head.loss_bbox.loss_weight, head.reg_decoded_bbox) == ('GIoULoss', 10.0, True)
        assert head.norm_cfg.type == 'SyncBN'


@pytest.mark.parametrize('size, crop, lr, decay, amp, per_gpu', [
    ('t', 512, 5e-5, .01, True, 1), ('s', 512, 6e-5, .01, True, 2), ('b', 512, 5e-5, .01, True, 1),
    ('l3', 640, 8e-5, .05, False, 1)])
def test_segmentation_recipe(size, crop, lr, decay, amp, per_gpu):
    cfg = load(f'upernet_mambavision_{size}')
    assert cfg.optim_wrapper.type == ('AmpOptimWrapper' if amp else 'OptimWrapper')
    assert cfg.optim_wrapper.optimizer == dict(type='AdamW', lr=lr, betas=(0.9, 0.999), weight_decay=decay)
    assert cfg.optim_wrapper.paramwise_cfg == dict(custom_keys={'norm': dict(decay_mult=0.)})
    assert cfg.train_cfg.max_iters == 160000
    warmup, poly = cfg.param_scheduler
    assert (warmup.type, warmup.start_factor, warmup.end) == ('LinearLR', 1e-6, 1500)
    assert (poly.type, poly.power, poly.eta_min, poly.begin, poly.end) == ('PolyLR', 1., 0., 1500, 160000)
    assert cfg.train_dataloader.batch_size == per_gpu and cfg.auto_scale_lr.base_batch_size == 16
    crops = [step.crop_size for step in cfg.train_dataloader.dataset.pipeline if step.type == 'RandomCrop']
    assert crops == [(crop, crop)] and tuple(cfg.model.data_preprocessor.size) == (crop, crop)
    assert cfg.model.test_cfg.mode == 'whole' and not cfg.env_cfg.cudnn_benchmark  # sizes vary in validation
    assert cfg.model.auxiliary_head.loss_decode.loss_weight == .4 and cfg.model.auxiliary_head.in_index == 2
    ratios = [t.scale for t in cfg.tta_pipeline[1].transforms[0]]
    assert ratios == [(2 * s * 2, s) for s in (round(crop * r) for r in (.5, .75, 1., 1.25, 1.5, 1.75))]


@pytest.mark.parametrize('name, epochs', [(f'mask_rcnn_mambavision_{s}_{e}', 12 if e == '1x' else 36)
                                          for s in 'tsb' for e in ('1x', '3x')] + [('retinanet_mambavision_t_1x', 12)])
def test_comparison_recipes(name, epochs):
    cfg = load(name)
    assert cfg.train_cfg.max_epochs == epochs
    assert cfg.param_scheduler[1].milestones == ([8, 11] if epochs == 12 else [27, 33])
    assert cfg.optim_wrapper.optimizer.lr == 1e-4 and cfg.optim_wrapper.optimizer.weight_decay == .05
    assert cfg.model.backbone.window_size is None
    assert ('RandomChoice' in str(cfg.train_dataloader)) == (epochs == 36)


RELEASED_ARGUMENTS = dict(
    out_indices=(0, 1, 2, 3), pretrained=None, depths=(1, 3, 8, 4), num_heads=(2, 4, 8, 16),
    window_size=(8, 8, 112, 56), dim=80, in_dim=32, mlp_ratio=4, drop_path_rate=0.3, norm_layer='ln2d',
    layer_scale=None, depth=50, num_stages=4, frozen_stages=1, norm_cfg=dict(type='BN', requires_grad=True),
    norm_eval=True, style='pytorch', init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50'))


def test_released_configs_run_unchanged(logged):
    cfg = copy.deepcopy(load('cascade_mask_rcnn_mambavision_t'))
    cfg.model.backbone = dict(type='MM_mamba_vision', **RELEASED_ARGUMENTS)
    model = build(cfg)
    path = DATA / 'manifests' / f"{RELEASED['cascade_mask_rcnn_mambavision_t']}.json"
    manifest = json.loads(path.read_text())
    assert {k: list(v.shape) for k, v in model.state_dict().items()} == manifest
    assert drop_paths(model)[-1] == pytest.approx(.2)
    assert sum('drop_path_rate' in line and '0.2' in line for line in logged) == 1
    backbone = model.backbone.train()
    assert backbone.frozen_stages == -1 and not backbone.norm_eval and backbone.init_cfg is None
    assert [level.window for level in backbone.levels[2:]] == [112, 56]


def test_released_pretrained_is_loaded(tmp_path):
    arguments = dict(RELEASED_ARGUMENTS, depths=(1, 1, 2, 2), dim=16, in_dim=8, num_heads=(1, 2, 2, 4))
    source = MODELS.build(dict(type='MM_mamba_vision', **arguments))
    torch.save(dict(state_dict=source.state_dict()), tmp_path / 'x.pth.tar')
    model = MODELS.build(dict(type='MM_mamba_vision', **{**arguments, 'pretrained': str(tmp_path / 'x.pth.tar')}))
    model.init_weights()
    assert all(torch.equal(a, b) for a, b in zip(source.state_dict().values(), model.state_dict().values()))


@pytest.mark.parametrize('change, message', [(dict(norm_layer='bn'), 'norm_layer'),
                                             (dict(widths=3), 'widths')])
def test_released_arguments_are_checked(change, message):
    with pytest.raises(ValueError, match=message):
        MODELS.build(dict(type='MM_mamba_vision', **{**RELEASED_ARGUMENTS, **change}))
