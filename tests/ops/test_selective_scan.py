"""The scan against its definition, written out once more with explicit loops, and its errors."""
import math

import pytest
import torch

from mmmambavision.ops import available_backends, selective_scan


def random_inputs(batch=2, channels=6, length=9, states=4, groups=None, dtype=torch.float64, seed=None):
    generator = torch.Generator()
    generator.seed() if seed is None else generator.manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_()

    bc = (batch, states, length) if groups is None else (batch, groups, states, length)
    return dict(u=normal(batch, channels, length), delta=normal(batch, channels, length),
                A=(-torch.rand(channels, states, generator=generator, dtype=dtype)).requires_grad_(), B=normal(*bc),
                C=normal(*bc), D=normal(channels), z=normal(batch, channels, length), delta_bias=normal(channels))


def scan_by_hand(u, delta, A, B, C, D, z, delta_bias, delta_softplus):
    """Plain Python on one number at a time."""
    batch, channels, length = u.shape
    y, last = torch.zeros(batch, channels, length), torch.zeros(batch, channels, A.shape[1])
    if B.dim() == 3:
        B, C = B[:, None], C[:, None]
    for b in range(batch):
        for d in range(channels):
            g = d // (channels // B.shape[1])
            state = [0.] * A.shape[1]
            for t in range(length):
                step = delta[b, d, t].item() + (0. if delta_bias is None else delta_bias[d].item())
                step = math.log1p(math.exp(step)) if delta_softplus else step
                state = [math.exp(step * A[d, n].item()) * h + step * B[b, g, n, t].item() * u[b, d, t].item()
                         for n, h in enumerate(state)]
                out = sum(C[b, g, n, t].item() * h for n, h in enumerate(state))
                out += 0. if D is None else D[d].item() * u[b, d, t].item()
                gate = 1. if z is None else z[b, d, t].item() / (1 + math.exp(-z[b, d, t].item()))
                y[b, d, t] = out * gate
            last[b, d] = torch.tensor(state)
    return y, last


@pytest.mark.parametrize('without', [(), ('D',), ('z',), ('delta_bias',), ('D', 'z', 'delta_bias')])
@pytest.mark.parametrize('softplus', [True, False])
@pytest.mark.parametrize('groups', [None, 1, 3])
def test_reference_is_the_definition(without, softplus, groups):
    inputs = {name: None if name in without else value for name, value in random_inputs(groups=groups).items()}
    y, last = selective_scan(**inputs, delta_softplus=softplus, return_last_state=True, backend='reference')
    expected, expected_last = scan_by_hand(**inputs, delta_softplus=softplus)
    torch.testing.assert_close(y.float(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(last.float(), expected_last, rtol=1e-5, atol=1e-5)


def test_reference_gradients():
    inputs = random_inputs(batch=1, channels=2, length=4, states=2)
    assert torch.autograd.gradcheck(
        lambda *values: selective_scan(*values, delta_softplus=True, return_last_state=True, backend='reference'),
        tuple(inputs.values()))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_low_precision_is_computed_in_float32(dtype):
    inputs = {name: value.detach().to(dtype) for name, value in random_inputs(length=64).items()}
    y = selective_scan(**inputs, delta_softplus=True)
    expected = selective_scan(**{name: value.double() for name, value in inputs.items()}, delta_softplus=True)
    assert y.dtype == dtype
    assert (y.double() - expected).norm() < 1e-2 * expected.norm()


def test_strided_inputs():
    inputs = {name: value.detach() for name, value in random_inputs().items()}
    strided = {name: value.transpose(-1, -2).contiguous().transpose(-1, -2) if value.dim() > 1 else value
               for name, value in inputs.items()}
    assert not strided['u'].is_contiguous()
    torch.testing.assert_close(selective_scan(**strided), selective_scan(**inputs))


def test_available_backends_lists_the_reference():
    assert available_backends()['reference'] is None


def changed(**changes):
    return {**{name: value.detach() for name, value in random_inputs().items()}, **changes}


@pytest.mark.parametrize('inputs, facts', [
    (changed(u=torch.zeros(2, 6)), ['u', '(2, 6)']),
    (changed(u=torch.zeros(2, 6, 0)), ['u', '(2, 6, 0)']),
    (changed(A=torch.zeros(6, 4, dtype=torch.complex64)), ['A', 'complex']),
    (changed(A=torch.zeros(5, 4)), ['A', '(5, 4)']),
    (changed(delta=torch.zeros(2, 6, 8)), ['delta', '(2, 6, 8)']),
    (changed(z=torch.zeros(2, 5, 9)), ['z', '(2, 5, 9)']),
    (changed(D=torch.zeros(5)), ['D', '(6,)']),
    (changed(delta_bias=torch.zeros(6, 1)), ['delta_bias', '(6,)']),
    (changed(B=torch.zeros(6, 4)), ['B', '(6, 4)']),
    (changed(C=torch.zeros(2, 4, 8)), ['C', '(2, 4, 9)']),
    (changed(B=torch.zeros(2, 4, 4, 9)), ['B', '(2, 4, 4, 9)', '6']),
    (changed(B=torch.zeros(2, 2, 4, 9)), ['B', 'C', '(2, 2, 4, 9)']),
    (changed(backend='cuda'), ['cuda', 'reference']),
])
def test_errors(inputs, facts):
    with pytest.raises(ValueError) as error:
        selective_scan(**inputs)
    assert not [fact for fact in facts if fact not in str(error.value)]
