"""Weights of detectors and segmentors of other classes: what is taken, left out and refused."""
import re

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner

from mmmambavision.errors import UserError
from mmmambavision.openmmlab.loading import load_state_dict
from mmmambavision.openmmlab.own_data.fit import fit_model
from mmmambavision.openmmlab.own_data.weights import start_from

from ...helpers.messages import facts
from ...helpers.process import ROOT

CLASSES = ('a', 'b', 'c')


def load(name):
    cfg = Config.fromfile(ROOT / 'configs' / f'{name}.py')
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint='nowhere.pth')
    fit_model(cfg.model, len(CLASSES))
    cfg.train_dataloader.dataset.metainfo = dict(classes=CLASSES)
    return cfg


def save(path, name, classes, meta=True, prefix=''):
    """A checkpoint as mmengine writes it, of the config's model with other classes."""
    cfg = load(name)
    fit_model(cfg.model, len(classes))
    init_default_scope(cfg.default_scope)
    state = {prefix + key: value for key, value in MODELS.build(cfg.model).state_dict().items()}
    torch.save(dict(state_dict=state, meta=dict(mmengine_version='0.10.7', **(
        dict(dataset_meta=dict(classes=classes)) if meta else {}))), path)
    return state


DETECTOR = {f'roi_head.{layer}' for i in range(3) for layer in (f'bbox_head.{i}.fc_cls', f'mask_head.{i}.conv_logits')}
SEGMENTOR = {'decode_head.conv_seg', 'auxiliary_head.conv_seg'}
MODELS_AND_LAYERS = [('cascade_mask_rcnn_mambavision_demo', DETECTOR), ('upernet_mambavision_demo', SEGMENTOR)]


def parameters(layers):
    return {f'{layer}.{kind}' for layer in layers for kind in ('weight', 'bias')}


@pytest.mark.parametrize('name, layers', MODELS_AND_LAYERS)
@pytest.mark.parametrize('classes', [('a', 'b', 'c', 'd', 'e'), ('x', 'y', 'z'), ('b', 'a', 'c')])
@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_layers_of_other_classes_are_left_out_and_named(name, layers, classes, prefix, tmp_path):
    """Also where there are as many classes, which are others, so that the shapes do not tell."""
    state = save(tmp_path / 'x.pth', name, classes, prefix=prefix)
    cfg = load(name)
    hook, notes = start_from(cfg, str(tmp_path / 'x.pth'))
    assert hook.names == parameters(layers)
    assert any(note.endswith(', '.join(sorted(parameters(layers)))) for note in notes)
    assert re.search(facts(len(state) - 2 * len(layers), len(state)), notes[0])
    assert cfg.load_from == str(tmp_path / 'x.pth') and cfg.model.backbone.init_cfg is None
    checkpoint = dict(state_dict=dict(state))
    hook.after_load_checkpoint(None, checkpoint)
    names = {key.removeprefix(prefix) for key in state}
    assert names - set(checkpoint['state_dict']) == parameters(layers)


def test_layers_of_the_same_classes_are_taken(tmp_path):
    name = 'cascade_mask_rcnn_mambavision_demo'
    save(tmp_path / 'x.pth', name, CLASSES)
    hook, notes = start_from(load(name), str(tmp_path / 'x.pth'))
    assert not hook.names and len(notes) == 1
    save(tmp_path / 'y.pth', name, CLASSES, meta=False)
    hook, notes = start_from(load(name), str(tmp_path / 'y.pth'))
    assert not hook.names and 'class names' in notes[1]


@pytest.mark.parametrize('name, more', [
    ('mask_rcnn_mambavision_t_3x', {'roi_head.bbox_head.fc_cls', 'roi_head.bbox_head.fc_reg',
                                    'roi_head.mask_head.conv_logits'}),
    ('retinanet_mambavision_t_1x', {'bbox_head.retina_cls'})])
def test_layers_of_other_heads(name, more, tmp_path):
    """Regression that is one for each class goes with its classes."""
    save(tmp_path / 'x.pth', name, tuple('abcdefg'))
    assert start_from(load(name), str(tmp_path / 'x.pth'))[0].names == parameters(more)


def test_weights_of_another_model(tmp_path):
    cfg = load('cascade_mask_rcnn_mambavision_demo')
    save(tmp_path / 'x.pth', 'cascade_mask_rcnn_mambavision_demo', CLASSES)
    cfg.model.roi_head.bbox_head[1].fc_out_channels = 128
    with pytest.raises(ValueError, match=facts('roi_head.bbox_head.1.fc_reg.weight', '(4, 256)', '(4, 128)')):
        start_from(cfg, str(tmp_path / 'x.pth'))
    with pytest.raises(ValueError, match='no.pth'):
        start_from(cfg, 'no.pth')


def test_a_backbone_alone(tmp_path):
    """A released classifier by itself: everything but the backbone stays new."""
    cfg = load('cascade_mask_rcnn_mambavision_demo')
    init_default_scope('mmdet')
    torch.save(dict(state_dict=MODELS.build(cfg.model.backbone).state_dict()), tmp_path / 'x.pth')
    hook, notes = start_from(cfg, str(tmp_path / 'x.pth'))
    assert not hook.names and len(notes) == 1
    assert notes[0].endswith('neck (36), roi_head (66), rpn_head (6)')


def test_another_backbone_under_the_same_heads(tmp_path):
    """Such as a ResNet's detector with a neck of the same sizes; the network stays without its pretrained backbone."""
    cfg, name = load('cascade_mask_rcnn_mambavision_demo'), 'cascade_mask_rcnn_mambavision_demo'
    state = {key: value for key, value in save(tmp_path / 'x.pth', name, CLASSES).items() if 'backbone.' not in key}
    torch.save(dict(state_dict={'backbone.conv1.weight': torch.zeros(64, 3, 7, 7), **state}), tmp_path / 'x.pth')
    with pytest.raises(UserError, match=facts('x.pth', 'conv1', 'patch_embed')):
        start_from(cfg, str(tmp_path / 'x.pth'))
    assert cfg.model.backbone.init_cfg and not cfg.get('load_from')


def test_tensors_without_values_stop(tmp_path):
    state = save(tmp_path / 'x.pth', 'cascade_mask_rcnn_mambavision_demo', CLASSES)
    torch.save({name: value.to('meta') for name, value in state.items()}, tmp_path / 'x.pth')
    with pytest.raises(UserError, match=facts('x.pth', 'meta')):
        start_from(load('cascade_mask_rcnn_mambavision_demo'), str(tmp_path / 'x.pth'))


def test_of_a_teacher_and_a_student_the_taken_is_said_once(tmp_path, caplog):
    state = save(tmp_path / 'x.pth', 'cascade_mask_rcnn_mambavision_demo', CLASSES)
    both = {prefix + key: value for prefix in ('teacher.', 'student.') for key, value in state.items()}
    torch.save(dict(state_dict=both), tmp_path / 'x.pth')
    cfg = load('cascade_mask_rcnn_mambavision_demo')
    hook, _ = start_from(cfg, str(tmp_path / 'x.pth'))
    checkpoint = dict(state_dict=both)
    hook.after_load_checkpoint(None, checkpoint)
    load_state_dict(MODELS.build(cfg.model), checkpoint['state_dict'])
    assert checkpoint['state_dict'].keys() == state.keys()
    assert caplog.text.count('#student') == 1


def test_averaged_weights_start_from_the_same(tmp_path):
    """mmengine's EMAHook, as RTMDet has, fills its model from the checkpoint; it took the layers of other classes."""
    name = 'upernet_mambavision_demo'
    state = save(tmp_path / 'x.pth', name, ('x', 'y', 'z'))
    cfg = load(name)
    hook, _ = start_from(cfg, str(tmp_path / 'x.pth'))
    init_default_scope(cfg.default_scope)
    runner = Runner(MODELS.build(cfg.model), str(tmp_path / 'work_dir'), custom_hooks=[dict(type='EMAHook')],
                    default_scope=cfg.default_scope, experiment_name=tmp_path.name)
    runner.register_hook(hook)
    averaged = next(hook for hook in runner.hooks if isinstance(hook, EMAHook))
    averaged.before_run(runner)
    runner.load_checkpoint(str(tmp_path / 'x.pth'))
    filled = averaged.ema_model.module.state_dict()
    for key in ('decode_head.conv_seg.weight', 'backbone.levels.1.downsample.reduction.0.weight'):
        assert torch.equal(filled[key], state[key]) == ('backbone' in key)


@pytest.mark.parametrize('left', ['backbone.levels.3.', 'backbone.levels.'])
def test_a_part_of_the_backbone(left, tmp_path):
    """A small missing part is named. Most of it missing stops, because the pretrained weights are not loaded then."""
    name = 'upernet_mambavision_demo'
    state = {key: value for key, value in save(tmp_path / 'x.pth', name, CLASSES).items() if not key.startswith(left)}
    torch.save(dict(state_dict=state, meta=dict(mmengine_version='0.10.7')), tmp_path / 'x.pth')
    if left.endswith('3.'):
        _, notes = start_from(load(name), str(tmp_path / 'x.pth'))
        assert any('random' in note and left in note for note in notes)
    else:
        with pytest.raises(UserError, match='part of the backbone'):
            start_from(load(name), str(tmp_path / 'x.pth'))
