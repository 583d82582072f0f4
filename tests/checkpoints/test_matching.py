"""One rule for the weights of a whole model: any prefix, any form of file, and a stop where they are another's."""
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmmambavision import MambaVision
from mmmambavision.cli.test import main as evaluate
from mmmambavision.errors import UserError
from mmmambavision.openmmlab.configs import fit_to_machine
from mmmambavision.openmmlab.models import load_model
from mmmambavision.openmmlab.own_data.weights import start_from

from ..helpers.data import DETECTOR, data_options
from ..helpers.messages import facts
from ..helpers.nets import NANO
from ..helpers.process import ROOT


def config(num_classes=4):
    cfg = Config.fromfile(ROOT / DETECTOR)
    cfg.model.backbone.arch = NANO
    cfg.model.neck.in_channels = [16, 32, 64, 128]
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
    'two prefixes': lambda s: renamed(s, '', 'student.net.')}


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


def facts_in(line, *words):
    return all(word in line for word in words)


def others(state):
    yield 'another network', dict(state_dict={'layer1.0.conv1.weight': torch.zeros(2, 2)}), facts('0 of the', 'layer1')
    part = {name: value for name, value in state.items() if name.startswith('backbone.')}
    yield 'a part', dict(state_dict=part), facts('missing', 'roi_head')
    yield 'other classes', dict(state_dict=weights(config(3))), facts('classes', r'(4, 256)', r'(5, 256)')
    yield 'another backbone', dict(state_dict=renamed(state, 'backbone.levels.2.', 'backbone.levels.9.')), 'levels'


@pytest.mark.parametrize('number', range(4))
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
