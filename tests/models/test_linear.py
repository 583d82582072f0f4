"""Linear layers as convolutions against torch's own."""
import pytest
import torch
import torch.nn.functional as F

from mmmambavision.models.linear import Linear


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16])
def test_same_values_and_gradients(bias, dtype):
    layer = Linear(12, 20, bias=bias).to(dtype)
    tokens = torch.randn(3, 7, 24, dtype=dtype)[..., ::2].requires_grad_()
    inputs = [tokens, *layer.parameters()]
    actual, expected = layer(tokens), F.linear(tokens, layer.weight, layer.bias)
    cotangent = torch.randn_like(expected)
    tolerance = dict(rtol=1e-2, atol=1e-2) if dtype == torch.bfloat16 else dict(rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(actual, expected, **tolerance)
    for a, b in zip(torch.autograd.grad(actual, inputs, cotangent), torch.autograd.grad(expected, inputs, cotangent)):
        torch.testing.assert_close(a, b, **tolerance)


def test_tokens_stay_next_to_their_channels():
    """So that whatever comes next needs no copy."""
    assert Linear(8, 16)(torch.randn(2, 5, 8)).is_contiguous()


def test_autocast():
    with torch.autocast('cpu', torch.bfloat16):
        assert Linear(8, 16)(torch.randn(2, 5, 8)).dtype == torch.bfloat16


def test_exported_graphs_have_linear_layers():
    graph = torch.export.export(torch.nn.Sequential(Linear(8, 16)), (torch.randn(2, 5, 8),)).graph
    names = [str(node.target) for node in graph.nodes]
    assert 'aten.linear.default' in names and not any('conv' in name for name in names)
