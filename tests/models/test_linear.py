"""Linear layers as convolutions against torch's own, and where they stay what they are."""
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmmambavision.models.mixers import linear


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16])
def test_same_values_and_gradients(bias, dtype):
    layer = nn.Linear(12, 20, bias=bias).to(dtype)
    tokens = torch.randn(3, 7, 24, dtype=dtype)[..., ::2].requires_grad_()
    inputs = [tokens, *layer.parameters()]
    actual, expected = linear(layer, tokens), F.linear(tokens, layer.weight, layer.bias)
    cotangent = torch.randn_like(expected)
    tolerance = dict(rtol=1e-2, atol=1e-2) if dtype == torch.bfloat16 else dict(rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(actual, expected, **tolerance)
    for a, b in zip(torch.autograd.grad(actual, inputs, cotangent), torch.autograd.grad(expected, inputs, cotangent)):
        torch.testing.assert_close(a, b, **tolerance)


def test_tokens_stay_next_to_their_channels():
    """So that whatever comes next needs no copy."""
    assert linear(nn.Linear(8, 16), torch.randn(2, 5, 8)).is_contiguous()


def test_autocast():
    with torch.autocast('cpu', torch.bfloat16):
        assert linear(nn.Linear(8, 16), torch.randn(2, 5, 8)).dtype == torch.bfloat16


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 16)

    def forward(self, tokens):
        return linear(self.layer, tokens)


def test_exported_graphs_have_linear_layers():
    graph = torch.export.export(Block(), (torch.randn(2, 5, 8),)).graph
    names = [str(node.target) for node in graph.nodes]
    assert 'aten.linear.default' in names and not any('conv' in name for name in names)


class Adapted(nn.Linear):
    def forward(self, tokens):
        return super().forward(tokens) + 1


@pytest.mark.parametrize('change', ['hook', 'pre-hook', 'subclass', 'parametrised'])
def test_what_others_did_to_a_layer_takes_effect(change):
    layer = Adapted(8, 16) if change == 'subclass' else nn.Linear(8, 16)
    tokens = torch.randn(2, 5, 8)
    expected = F.linear(tokens, layer.weight, layer.bias) + 1
    if change == 'hook':
        layer.register_forward_hook(lambda module, inputs, output: output + 1)
    elif change == 'pre-hook':
        expected = F.linear(2 * tokens, layer.weight, layer.bias)
        layer.register_forward_pre_hook(lambda module, inputs: (2 * inputs[0],))
    elif change == 'parametrised':
        expected = F.linear(tokens, layer.weight, 2 * layer.bias)

        class Double(nn.Module):
            def forward(self, bias):
                return 2 * bias
        nn.utils.parametrize.register_parametrization(layer, 'bias', Double())
    torch.testing.assert_close(linear(layer, tokens), expected)
