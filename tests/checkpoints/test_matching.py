"""One rule for the weights of a whole model: any prefix, any form of file, and a stop where they are another's."""
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmmambavision import MambaVision
from mmmambavision.checkpoints.names import STEM
from mmmambavision.cli.test import main as evaluate
from mmmambavision.errors import UserError
from mmmambavision.openmmlab.machine import fit_to_machine
from mmmambavision.openmmlab.models import load_model
from mmmambavision.openmmlab.own_data.weights import start_from

from ..helpers.data import DETECTOR, data_options
from ..helpers.messages import facts
from ..helpers.nets import NANO
from ..helpers.process import ROOT


def config(num_classes=4):
    cfg = Config.fromfile(ROOT / DETECTOR)
    cfg.model.backbone.arch = NANO
    cfg.model.neck.in_channels = [32, 64, 128]
    for head in (*cfg.model.roi_head.bbox_head, cfg.model.roi_head.mask_head):
        head.num_classes = num_classes
    fit_to_machine(cfg)
    return cfg


def weights(cfg):
    init_default_scope('mmdet')
    torch.manual_seed(0)
    return MODELS.build(cfg.model).state_dict()


def renamed(state, old, new):
    return {name.replace(old, new, 1) if name.startswith(old) else name: value for name, value in state.items()}


@pytest.fixture(scope='module')
def state():
    return weights(config())


FORMS = {
    'as mmengine writes it': lambda s: dict(state_dict=s, meta={}), 'bare': lambda s: s,
    'model': lambda s: dict(model=s),
    'another key': lambda s: dict(weights=s, epoch=3),
    'torch.compile': lambda s: dict(state_dict=renamed(s, '', '_orig_mod.')),
    'DDP of torch.compile': lambda s: dict(state_dict=renamed(s, '', 'module._orig_mod.'), meta={}),
    'a compiled backbone': lambda s: dict(state_dict=renamed(s, 'backbone.', 'backbone._orig_mod.'), meta={}),
    'Lightning': lambda s: dict(state_dict=renamed(s, '', 'model.')),
    'two prefixes': lambda s: renamed(s, '', 'student.net.'), 'four prefixes': lambda s: renamed(s, '', 'a.b.c.d.'),
    'states of generators first': lambda s: dict(rng=dict(cpu=torch.zeros(3)), net=s),
    'an optimizer first': lambda s: dict(optimizer=dict(exp_avg={k: v + 1. for k, v in s.items()}), weights=s),
    'dicts of dicts': lambda s: dict(checkpoint=dict(model=dict(state_dict=s))),
    'another prefix for the backbone': lambda s: dict(state_dict=renamed(s, 'backbone.', 'model.backbone.')),
    'parts': lambda s: dict(
        model=dict(backbone={k[9:]: v for k, v in s.items() if k.startswith('backbone.')},
                   rest={k: v for k, v in s.items() if not k.startswith('backbone.')}))}


@pytest.mark.parametrize('form', FORMS)
def test_every_form_fills_the_model(form, state, tmp_path, logged):
    torch.save(FORMS[form](state), tmp_path / 'x.pth')
    model = load_model(config(), str(tmp_path / 'x.pth'), 'cpu')
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name
    count = sum(not name.endswith('num_batches_tracked') for name in state)
    assert any(f'{count} of the {count}' in line for line in logged)
    hook, notes = start_from(config(), str(tmp_path / 'x.pth'))
    assert f'{len(state)} of the {len(state)}' in notes[0] and not hook.names


def test_averaged_weights_by_their_key(state, tmp_path, logged):
    file = tmp_path / 'x.pth'
    torch.save(dict(state_dict={k: torch.zeros_like(v) for k, v in state.items()}, state_dict_ema=state), file)
    name, _ = next((name, value) for name, value in state.items() if value.any())
    assert not load_model(config(), str(file), 'cpu').state_dict()[name].any()
    assert any(facts_in(line, 'state_dict_ema', f'{file}#') for line in logged)
    averaged = load_model(config(), f'{file}#state_dict_ema', 'cpu').state_dict()
    assert torch.equal(averaged[name], state[name])
    with pytest.raises(UserError, match=facts('ema2', 'state_dict, state_dict_ema')):
        load_model(config(), f'{file}#ema2', 'cpu')
    backbone = MambaVision(NANO, init_cfg=dict(type='Pretrained', checkpoint=f'{file}#state_dict_ema'))
    backbone.init_weights()
    assert torch.equal(backbone.state_dict()[name.removeprefix('backbone.')], state[name])


@pytest.mark.parametrize('file', ['one dict', 'two dicts', 'three dicts'])
def test_of_several_weights_the_taken_and_the_others_are_named(file, state, tmp_path, logged):
    """By every way in; the others are had by their name."""
    other = {k: torch.zeros_like(v) for k, v in state.items()}
    contents = dict(teacher=other, student=state)
    if file == 'one dict':
        contents = dict(state_dict={**renamed(other, '', 'teacher.'), **renamed(state, '', 'student.')}, meta={})
    elif file == 'three dicts':
        contents = dict(a=contents)
    path = str(tmp_path / 'x.pth')
    torch.save(contents, path)
    key = 'a.student' if file == 'three dicts' else 'student'
    name = next(name for name, value in state.items() if name.startswith('backbone.') and value.any())
    assert not load_model(config(), path, 'cpu').state_dict()[name].any()
    assert any(facts_in(line, 'teacher', f'#{key}') for line in logged)
    assert torch.equal(load_model(config(), f'{path}#{key}', 'cpu').state_dict()[name], state[name])
    backbone = MambaVision(NANO, init_cfg=dict(type='Pretrained', checkpoint=path))
    backbone.init_weights()
    assert not backbone.state_dict()[name.removeprefix('backbone.')].any()
    assert any(facts_in(line, 'teacher', f'#{key}.backbone') for line in logged)


def test_tensors_without_values_stop(state, tmp_path):
    torch.save(dict(state_dict={k: v.to('meta') for k, v in state.items()}), tmp_path / 'x.pth')
    backbone = MambaVision(NANO, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'x.pth')))
    for load in backbone.init_weights, lambda: load_model(config(), str(tmp_path / 'x.pth'), 'cpu'):
        with pytest.raises(UserError, match=facts('meta', STEM)):
            load()


def test_weights_that_are_not_finite_are_counted(state, tmp_path, logged):
    names = [name for name, value in state.items() if value.is_floating_point()][3:5]
    torch.save({**state, **{name: state[name] * torch.nan for name in names}}, tmp_path / 'x.pth')
    load_model(config(), str(tmp_path / 'x.pth'), 'cpu')
    assert any(facts_in(line, f' 2 of its {len(state)} ', 'finite', names[0]) for line in logged)


@pytest.mark.parametrize('share', ['most', 'few'])
def test_a_part_of_a_backbone(share, tmp_path, logged):
    state = MambaVision(NANO).state_dict()
    gone = 'levels.2.' if share == 'most' else ('levels.1.', 'levels.2.', 'levels.3.')
    torch.save({key: value for key, value in state.items() if not key.startswith(gone)}, tmp_path / 'x.pth')
    model = MambaVision(NANO, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'x.pth')))
    if share == 'few':
        with pytest.raises(UserError, match=facts('tensors of the backbone', 'missing')):
            model.init_weights()
    else:
        model.init_weights()
        assert any(facts_in(line, 'tensors of the backbone', 'missing: levels.2.') for line in logged)


def facts_in(line, *words):
    return all(word in line for word in words)


def others(state):
    yield 'another network', dict(state_dict={'layer1.0.conv1.weight': torch.zeros(2, 2)}), facts('0 of the', 'layer1')
    part = {name: value for name, value in state.items() if name.startswith('backbone.')}
    yield 'a part', dict(state_dict=part), facts('missing', 'roi_head')
    yield 'other classes', dict(state_dict=weights(config(3))), facts('classes', r'(4, 256)', r'(5, 256)')
    stage = {**state, 'roi_head.bbox_head.3.fc_cls.weight': torch.zeros(5, 256)}
    yield 'one stage more', dict(state_dict=stage), facts('another model', 'roi_head.bbox_head.3.fc_cls.weight')
    yield 'another backbone', dict(state_dict=renamed(state, 'backbone.levels.2.', 'backbone.levels.9.')), 'levels'


@pytest.mark.parametrize('number', range(5))
def test_weights_of_others_stop(number, state, tmp_path):
    _, contents, words = [*others(state)][number]
    torch.save(contents, tmp_path / 'x.pth')
    with pytest.raises(UserError, match=words):
        load_model(config(), str(tmp_path / 'x.pth'), 'cpu')


def test_an_evaluation_stops(shapes, tmp_path):
    torch.save(dict(state_dict={'layer1.0.conv1.weight': torch.zeros(2, 2)}), tmp_path / 'x.pth')
    with pytest.raises(UserError, match=facts('x.pth', '0 of the')):
        evaluate([str(ROOT / DETECTOR), str(tmp_path / 'x.pth'), '--work-dir', str(tmp_path / 'w'), '--cfg-options',
                  *data_options(shapes)])


def test_weights_to_start_from_that_fit_nothing_stop(tmp_path):
    torch.save({'layer1.0.conv1.weight': torch.zeros(2, 2)}, tmp_path / 'x.pth')
    with pytest.raises(UserError, match=facts('x.pth', 'layer1')):
        start_from(config(), str(tmp_path / 'x.pth'))


def test_other_names_of_classes_are_named(shapes, tmp_path, monkeypatch, logged):
    """Of prediction and of evaluation."""
    cfg = config()
    ours = ('circle', 'square', 'triangle', 'cross')
    cfg.test_dataloader.dataset.metainfo = dict(classes=ours)
    theirs = ours[1:] + ours[:1]
    torch.save(dict(state_dict=weights(cfg), meta=dict(dataset_meta=dict(classes=theirs))), tmp_path / 'x.pth')
    load_model(cfg, str(tmp_path / 'x.pth'), 'cpu')
    assert any(facts_in(line, 'classes', ', '.join(theirs), ', '.join(ours)) for line in logged)
