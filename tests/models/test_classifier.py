"""The ImageNet classifiers: outputs and gradients of the released code, and timm's methods."""
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmmambavision.models.classifier import MambaVisionClassifier

from ..helpers import seeded
from ..helpers.compare import GOLDEN, relative_error
from ..helpers.messages import facts
from ..helpers.nets import NANO

CASES = json.loads((GOLDEN / 'classifiers.json').read_text())
ARCH = {'mamba_vision_T': 'tiny', 'mamba_vision_S': 'small'}


def build(case):
    arch = ARCH[case['model']] if 'model' in case else case['arch']
    model = MambaVisionClassifier(arch, case.get('num_classes', 1000), case.get('window', (14, 7)), drop_path_rate=0.)
    return seeded.fill(model.train(case['train']))


@pytest.mark.parametrize('name', CASES)
def test_golden(name):
    case, golden = CASES[name], np.load(GOLDEN / f'{name}.npz')
    model = build(case)
    x = torch.from_numpy(seeded.image(name, (case['batch'], 3, *case['size']))).float()
    if not case['train']:
        with torch.no_grad():
            features = model.forward_features(x)
            assert relative_error(model.forward_head(features, pre_logits=True), golden['features']) < 1e-5
            assert relative_error(model(x), golden['logits']) < 1e-5
        return
    logits = model(x)
    assert relative_error(logits.detach(), golden['logits']) < 1e-5
    loss = F.cross_entropy(logits, torch.from_numpy(golden['target']))
    assert loss.item() == pytest.approx(float(golden['loss']), rel=1e-5)
    loss.backward()
    for key, parameter in model.named_parameters():
        sample = parameter.grad.flatten()[seeded.sample_index(parameter.numel(), 16)]
        expected = golden[f'grad/{key}']
        # Before a batch norm in training mode a shift has gradient 0; what is stored for it is noise.
        if key.endswith(('conv1.bias', 'conv2.bias')) or np.abs(expected).max() < 1e-7:
            assert sample.abs().max() < 1e-3, key
        else:
            assert relative_error(sample, expected) < 1e-4, key


@pytest.mark.parametrize('arch, millions', [('tiny', 31.8), ('tiny2', 35.1), ('small', 50.1), ('base', 97.7),
                                            ('large', 227.9), ('large2', 241.5), ('large3', 739.6)])
def test_published_size(arch, millions):
    with torch.device('meta'):
        model = MambaVisionClassifier(arch)
    count = sum(p.numel() for p in model.parameters()) / 1e6
    assert count == pytest.approx(millions, abs=.07)  # published figures are cut off, not rounded


def nano(**options):
    torch.manual_seed(0)
    return MambaVisionClassifier(NANO, 10, **options).eval()


def test_head():
    model, x = nano(), torch.randn(2, 3, 64, 96)
    features = model.forward_features(x)
    assert features.shape == (2, 128, 2, 3)
    torch.testing.assert_close(model(x), model.get_classifier()(features.mean((2, 3))))
    model.reset_classifier(3)
    assert model.num_classes == 3 and model(x).shape == (2, 3)
    assert model.get_classifier().weight.std().item() == pytest.approx(.02, rel=.2)
    model.reset_classifier(0)
    torch.testing.assert_close(model(x), features.mean((2, 3)))
    with pytest.raises(ValueError, match=facts('global_pool', 'avg', 'max')):
        model.reset_classifier(3, 'max')


def test_intermediates():
    model, x = nano(), torch.randn(1, 3, 64, 96)
    final, maps = model.forward_intermediates(x)
    torch.testing.assert_close(final, model.forward_features(x))
    assert [m.shape[1:] for m in maps] == [(16, 16, 24), (32, 8, 12), (64, 4, 6), (128, 2, 3)]
    torch.testing.assert_close(model.norm(maps[-1]), final)
    for indices, expected in ((2, maps[2:]), ((0, -1), [maps[0], maps[3]]), ([1], [maps[1]])):
        for early in (False, True):
            part = model.forward_intermediates(x, indices, stop_early=early, intermediates_only=True)
            for a, b in zip(part, expected, strict=True):
                assert torch.equal(a, b)
    assert torch.equal(model.forward_intermediates(x, norm=True, intermediates_only=True)[-1], final)
    for options, message in ((dict(indices=(4,)), 'levels'), (dict(indices=0), 'levels'), (dict(indices=5), 'levels'),
                             (dict(indices=-1), 'levels'), (dict(output_fmt='NLC'), 'output_fmt')):
        with pytest.raises(ValueError, match=message):
            model.forward_intermediates(x, **options)


@pytest.mark.parametrize('last', [0, 2, 3])
def test_pruned(last):
    model, x = nano(), torch.randn(1, 3, 64, 64)
    expected = model.forward_intermediates(x, [last], intermediates_only=True)[0]
    assert model.prune_intermediate_layers([last], prune_norm=True) == [last]
    assert len(model.levels) == last + 1 and not any(name.startswith('head') for name in model.state_dict())
    actual, = model.forward_intermediates(x, [last], intermediates_only=True)
    assert torch.equal(actual, expected)
    *_, of_all = model.forward_intermediates(x, intermediates_only=True)
    assert torch.equal(of_all, expected)


def test_checkpointing_gives_the_same_gradients():
    model, x = nano().train(), torch.randn(2, 3, 64, 64)
    gradients = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        torch.manual_seed(1)  # of drop path
        model(x).logsumexp(1).sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for a, b in zip(*gradients):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
