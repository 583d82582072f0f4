import re

import pytest
from mmengine.optim import build_optim_wrapper
from torch import nn

from mmmambavision import MambaVision

from ..helpers.nets import NANO


class Model(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(2, 2)


def test_depths():
    backbone = MambaVision(NANO)
    depths = {name: backbone.get_layer_depth(name) for name, _ in backbone.named_parameters()}
    assert {total for _, total in depths.values()} == {8}  # stem, six blocks, the rest
    expected = {'patch_embed.conv_down.0.weight': 0, 'levels.0.blocks.0.conv1.weight': 1,
                'levels.0.downsample.reduction.0.weight': 1, 'levels.1.blocks.0.norm2.bias': 2,
                'levels.2.blocks.1.mixer.qkv.weight': 4, 'levels.2.downsample.reduction.0.weight': 4,
                'levels.3.blocks.1.mlp.fc1.weight': 6, 'outnorm0.weight': 7, 'outnorm3.bias': 7}
    assert {name: depths[name][0] for name in expected} == expected
    assert backbone.get_layer_depth('backbone.levels.3.blocks.0.mixer.D', 'backbone.') == (5, 8)
    assert backbone.get_layer_depth('neck.weight', 'backbone.') == (7, 8)


def test_learning_rates():
    model = Model(MambaVision(NANO))
    wrapper = build_optim_wrapper(model, dict(
        optimizer=dict(type='AdamW', lr=1., weight_decay=.05), constructor='LayerDecayOptimWrapperConstructor',
        paramwise_cfg=dict(layer_decay_rate=.5, custom_keys={'norm': dict(decay_mult=0.), 'head': dict(lr_mult=10.)})))
    names = {id(p): name for name, p in model.named_parameters()}
    groups = {names[id(group['params'][0])]: group for group in wrapper.optimizer.param_groups}
    assert groups.keys() == set(names.values())
    for name, lr, decay in [('backbone.patch_embed.conv_down.0.weight', .5 ** 7, .05),
                            ('backbone.levels.2.blocks.0.mixer.A_log', .5 ** 4, .05),
                            ('backbone.levels.2.blocks.0.norm1.weight', .5 ** 4, 0.),
                            ('backbone.outnorm1.bias', 1., 0.), ('head.weight', 10., .05)]:
        assert (groups[name]['lr'], groups[name]['weight_decay']) == pytest.approx((lr, decay)), name


def test_log_has_the_rates_that_apply(logged):
    model = Model(MambaVision(NANO))
    wrapper = build_optim_wrapper(model, dict(
        optimizer=dict(type='AdamW', lr=1e-3), constructor='LayerDecayOptimWrapperConstructor',
        paramwise_cfg=dict(layer_decay_rate=.5, custom_keys={'outnorm': dict(lr_mult=2.)})))
    names = {p: name for name, p in model.named_parameters()}
    rates = {names[group['params'][0]]: group['lr'] for group in wrapper.optimizer.param_groups}
    lines = [re.fullmatch(r'layer decay -- (\S+): .*\blr=([^ ,]+).* \((.*)\)', line) for line in logged]
    said = {match[1]: (float(match[2]), match[3]) for match in lines if match}
    assert said.keys() == rates.keys()
    assert {name: lr for name, (lr, _) in said.items()} == pytest.approx(rates, rel=1e-5)
    assert said['backbone.patch_embed.conv_down.0.weight'] == (pytest.approx(1e-3 * .5 ** 7, rel=1e-5), 'depth 0 of 7')
    assert said['backbone.outnorm0.weight'] == (pytest.approx(2e-3), 'depth 7 of 7')
    assert said['head.bias'] == (pytest.approx(1e-3), 'not of the backbone')
    assert not any('paramwise_options' in line for line in logged)  # the base class's, which has rates before decay


def test_without_other_options_and_frozen():
    model = Model(MambaVision(NANO, frozen_stages=1))
    wrapper = build_optim_wrapper(model, dict(
        optimizer=dict(type='SGD', lr=2.), constructor='LayerDecayOptimWrapperConstructor',
        paramwise_cfg=dict(layer_decay_rate=.9)))
    rates = sorted({round(group['lr'], 6) for group in wrapper.optimizer.param_groups})
    assert rates == [round(2 * .9 ** k, 6) for k in (5, 4, 3, 2, 1, 0)]  # blocks 2 to 6 and the rest


@pytest.mark.parametrize('rate', [None, 0, 1.5, 'x'])
def test_errors(rate):
    with pytest.raises(ValueError, match='layer_decay_rate'):
        build_optim_wrapper(Model(MambaVision(NANO)), dict(
            optimizer=dict(type='SGD', lr=1.), constructor='LayerDecayOptimWrapperConstructor',
            paramwise_cfg=dict(layer_decay_rate=rate)))
    with pytest.raises(ValueError, match='get_layer_depth'):
        build_optim_wrapper(Model(nn.Linear(2, 2)), dict(
            optimizer=dict(type='SGD', lr=1.), constructor='LayerDecayOptimWrapperConstructor',
            paramwise_cfg=dict(layer_decay_rate=.9)))
