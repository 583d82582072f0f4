"""Mixed precision without a GPU."""
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import OPTIM_WRAPPERS

from mmmambavision.cli.test import main
from mmmambavision.cli.work import test as work
from mmmambavision.openmmlab.machine import BFloat16OptimWrapper, fit_to_machine, use_amp
from mmmambavision.terminal import run

from ..helpers.process import ROOT

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason='of machines without a GPU')
RECIPE = ROOT / 'configs' / 'upernet_mambavision_t.py'


def test_a_step():
    """The update that autocast by hand gives, and float32 parameters."""
    torch.manual_seed(0)
    layers = [torch.nn.Linear(40, 30) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    x = torch.randn(8, 40)
    optimizers = [torch.optim.SGD(layer.parameters(), lr=.1) for layer in layers]
    wrapper = OPTIM_WRAPPERS.build(dict(type='BFloat16OptimWrapper', optimizer=optimizers[0]))
    with wrapper.optim_context(layers[0]):
        y = layers[0](x)
        assert y.dtype == torch.bfloat16
        loss = y.float().square().mean()
    wrapper.update_params(loss)
    with torch.autocast('cpu', torch.bfloat16):
        expected = layers[1](x).float().square().mean()
    expected.backward()
    optimizers[1].step()
    assert torch.equal(loss, expected) and not torch.is_autocast_enabled('cpu')
    assert torch.equal(layers[0].weight, layers[1].weight) and layers[0].weight.dtype == torch.float32


def test_recipes_choose():
    """Asked for, bfloat16; a recipe of mixed precision that was not, float32."""
    cfg = Config.fromfile(RECIPE)
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    use_amp(cfg)
    fit_to_machine(cfg)
    assert cfg.optim_wrapper.type == 'BFloat16OptimWrapper' and 'loss_scale' not in cfg.optim_wrapper
    assert OPTIM_WRAPPERS.get(cfg.optim_wrapper.type) is BFloat16OptimWrapper
    cfg = Config.fromfile(RECIPE)
    fit_to_machine(cfg)
    assert cfg.optim_wrapper.type == 'OptimWrapper'


def test_arguments_of_mixed_precision_alone_go():
    special = dict(loss_scale='dynamic', dtype='float16', use_fsdp=False)
    for amp, wrapper in ((False, 'OptimWrapper'), (True, 'BFloat16OptimWrapper')):
        cfg = Config(dict(optim_wrapper=dict(type='AmpOptimWrapper', clip_grad=dict(max_norm=1), **special)))
        if amp:
            use_amp(cfg)
        fit_to_machine(cfg)
        assert cfg.optim_wrapper == dict(type=wrapper, clip_grad=dict(max_norm=1))


@pytest.mark.parametrize('options', [[], ['--amp']])
def test_evaluation_under_autocast(options, monkeypatch, tmp_path):
    """test.py --amp has mmengine's loop run under autocast."""
    seen = []

    class Runner:
        test_dataloader = SimpleNamespace(dataset=None)

        @staticmethod
        def from_cfg(cfg):
            seen.append(cfg.test_cfg.get('fp16', False))
            return Runner

        @staticmethod
        def load_checkpoint(path, strict):
            seen.append((path, strict))
            return {}

        @staticmethod
        def test():
            pass

    monkeypatch.setattr(work, 'Runner', Runner)
    monkeypatch.setattr(work, 'check_data', lambda *_: None)
    run(lambda: main([str(RECIPE), 'x.pth', '--work-dir', str(tmp_path), *options]))
    assert seen == [bool(options), ('x.pth', True)]
