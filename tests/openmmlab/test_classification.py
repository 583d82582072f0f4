"""ImageNet recipes in mmpretrain: what they say, released classifiers in them, and timm backbones in OpenMMLab."""
import pickle

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip('mmpretrain')
pytest.importorskip('timm')
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import load_checkpoint

from mmmambavision.cli.test import main
from mmmambavision.errors import UserError
from mmmambavision.models.classifier import MambaVisionClassifier

from ..helpers.messages import facts
from ..helpers.process import ROOT

CONFIGS = ROOT / 'configs' / 'classification'
# arch, drop path, weight decay, epochs of warm-up, shorter side at test
RECIPES = {'t': ('tiny', .2, .05, 20, 224), 's': ('small', .2, .05, 20, 240), 'b': ('base', .3, .075, 35, 224)}


def build(cfg):
    init_default_scope('mmpretrain')
    return MODELS.build(cfg.model)


@pytest.mark.parametrize('size', RECIPES)
def test_recipe(size):
    arch, drop_path, weight_decay, warmup, side = RECIPES[size]
    cfg = Config.fromfile(CONFIGS / f'mambavision_{size}_in1k.py')
    with torch.device('meta'):
        model = build(cfg)
        expected = MambaVisionClassifier(arch, window_size=(14, 7))
    network = model.model
    shapes = [{k: v.shape for k, v in part.state_dict().items()} for part in (network, expected)]
    assert shapes[0] == shapes[1]
    assert [level.window for level in network.levels[2:]] == [14, 7]
    assert network.levels[3].blocks[-1].drop_path.drop_prob == pytest.approx(drop_path)
    first, second = cfg.param_scheduler
    assert (first.end, second.begin, second.end) == (warmup, warmup, 300)
    assert first.start_factor * cfg.optim_wrapper.optimizer.lr == pytest.approx(1e-6) and second.eta_min == 5e-6
    assert cfg.train_cfg.max_epochs == 310 and cfg.auto_scale_lr.base_batch_size == 4096
    assert cfg.custom_hooks[0].momentum == pytest.approx(1 - .9998)
    assert cfg.optim_wrapper.clip_grad.max_norm == 5
    assert cfg.test_dataloader.dataset.pipeline[1].scale == side and cfg.train_dataloader.batch_size == 128
    assert cfg.test_dataloader.dataset.pipeline == cfg.val_dataloader.dataset.pipeline
    cfg.optim_wrapper.type = 'OptimWrapper'
    cfg.optim_wrapper.pop('loss_scale')
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    assert type(optimizer).__name__ == 'Lamb' and {g['lr'] for g in optimizer.param_groups} == {5e-3}
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    decay = {names[id(p)]: g['weight_decay'] for g in optimizer.param_groups for p in g['params']}
    assert decay.keys() == set(names.values())
    assert {name for name, value in decay.items() if value == 0} == {
        name for name, p in network.named_parameters() if p.ndim == 1}
    assert set(decay.values()) == {0, weight_decay}


@pytest.mark.parametrize('prefix', ['', 'module.', 'model.'])
def test_a_released_classifier_loads_whole(prefix, tmp_path):
    """Through mmengine, as tools/test.py does; what mmengine saves of it loads as well."""
    cfg = Config.fromfile(CONFIGS / 'mambavision_demo.py')
    source, model = (build(cfg).eval() for _ in range(2))
    file = tmp_path / 'released.pth.tar'
    torch.save(dict(state_dict={prefix + k: v for k, v in source.model.state_dict().items()}, epoch=1), file)
    load_checkpoint(model, str(file))
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(model(x), source(x))
    torch.save(dict(state_dict=source.state_dict(), meta=dict(mmengine_version='0.10.7')), file)
    again = build(cfg).eval()
    load_checkpoint(again, str(file))
    assert torch.equal(again(x), source(x))
    bare = source.model
    fresh = type(bare)(cfg.model.arch, num_classes=4).eval()
    torch.save(dict(state_dict={prefix + k: v for k, v in bare.state_dict().items()}), file)
    load_checkpoint(fresh, str(file))
    assert torch.equal(fresh(x), bare(x))


def test_a_classifier_of_another_network_is_refused(tmp_path):
    file = tmp_path / 'tiny.pth.tar'
    torch.save(dict(state_dict=MambaVisionClassifier('tiny').state_dict()), file)
    with pytest.raises(UserError, match='tiny'):
        load_checkpoint(build(Config.fromfile(CONFIGS / 'mambavision_demo.py')), str(file))


@pytest.mark.parametrize('scope', ['mmpretrain', 'mmseg'])
def test_timm_backbone_of_openmmlab(scope):
    init_default_scope(scope)
    backbone = MODELS.build(dict(
        type=f'{scope}.TIMMBackbone', model_name='mambavision_tiny', features_only=True, pretrained=False,
        window_size=(None, None)))
    backbone.eval()  # mmpretrain's returns nothing
    maps = backbone(torch.randn(1, 3, 64, 96))
    assert [tuple(m.shape[1:]) for m in maps] == [(80, 16, 24), (160, 8, 12), (320, 4, 6), (640, 2, 3)]


def test_timm_backbone_without_features_only():
    """mmpretrain's form for classifiers: its own neck pools."""
    init_default_scope('mmpretrain')
    backbone = MODELS.build(dict(type='TIMMBackbone', model_name='mambavision_tiny'))
    backbone.eval()
    assert backbone(torch.randn(1, 3, 64, 64))[0].shape == (1, 640, 2, 2)


def test_augmented_evaluation_and_predictions_to_a_file(tmp_path):
    """tools/test.py --tta --out: scores are the mean over an image and its mirror image."""
    config = CONFIGS / 'mambavision_demo.py'
    cfg = Config.fromfile(config)
    model = build(cfg).eval()
    torch.save(dict(state_dict=model.state_dict(), meta=dict(mmengine_version='0.10.7')), tmp_path / 'x.pth')
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for name in cfg.classes:
        (tmp_path / 'val' / name).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / 'val' / name / '0.png'), image)
    with pytest.raises(UserError, match=facts('--show-dir', '--tta')):
        main([str(config), 'x.pth', '--tta', '--show-dir', 'pictures'])
    main([
        str(config), str(tmp_path / 'x.pth'), '--work-dir', str(tmp_path / 'w'), '--tta', '--out',
        str(tmp_path / 'p.pkl'), '--cfg-options', f'test_dataloader.dataset.data_root={tmp_path}',
        'test_dataloader.num_workers=0', 'test_dataloader.persistent_workers=False'])
    with (tmp_path / 'p.pkl').open('rb') as file:
        predictions = pickle.load(file)
    x = (torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1) - torch.tensor(
        cfg.data_preprocessor.mean).view(3, 1, 1)) / torch.tensor(cfg.data_preprocessor.std).view(3, 1, 1)
    with torch.no_grad():
        expected = model(torch.stack([x, x.flip(2)])).softmax(1).mean(0)
    assert len(predictions) == 4
    torch.testing.assert_close(predictions[0]['pred_score'], expected, rtol=1e-4, atol=1e-5)
