"""Attention in balanced windows beside its definition, window by window."""
import copy

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mmmambavision import MambaVision
from mmmambavision.errors import UserError
from mmmambavision.models.windows import BalancedWindows

from ..helpers.messages import facts

NANO = dict(dim=16, in_dim=8, depths=(1, 1, 3, 2), num_heads=(1, 1, 2, 4))


def network(window_size, **options):
    torch.manual_seed(0)
    return MambaVision(NANO, window_size=window_size, drop_path_rate=0., **options)


@pytest.mark.parametrize('height, width, side', [(5, 7, 3), (6, 9, 3), (1, 10, 4), (4, 4, 4), (13, 8, 5), (3, 3, 1)])
def test_each_window_attends_to_itself(height, width, side):
    q, k, v = torch.randn(3, 2, 3, height * width, 4, dtype=torch.float64, requires_grad=True)
    cut, weight = BalancedWindows(height, width, side), torch.randn(2, 3, height * width, 4, dtype=torch.float64)
    found = cut.attend(F.scaled_dot_product_attention, q, k, v)
    expected = torch.empty_like(found)
    places = torch.arange(height * width).view(height, width)
    rows, columns = -(-height // side), -(-width // side)
    sizes, taken = [], [set(map(int, window)) for group in cut.attention_windows() for window in group]
    for band in places.tensor_split(rows):
        for window in band.tensor_split(columns, 1):
            at = window.flatten()
            expected[:, :, at] = F.scaled_dot_product_attention(q[:, :, at], k[:, :, at], v[:, :, at])
            sizes.append(tuple(window.shape))
            assert set(map(int, at)) in taken
    torch.testing.assert_close(found, expected)
    for a, b in zip(*(torch.autograd.grad((y * weight).sum(), (q, k, v)) for y in (found, expected))):
        torch.testing.assert_close(a, b)
    assert max(max(sizes)) <= side and len(sizes) == rows * columns
    assert all(max(own) - min(own) <= 1 for own in zip(*sizes))
    assert (cut.cut is None) == (len(sizes) == 1)


def test_is_the_whole_map_where_it_fits():
    images = torch.randn(2, 3, 100, 130)
    whole, fits, smaller = (network(window).eval() for window in (None, ('balanced', 9), ('balanced', 4)))
    with torch.no_grad():
        expected, found, others = whole(images), fits(images), smaller(images)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(expected[:2], others[:2]))
    assert not any(torch.allclose(a, b, atol=1e-4) for a, b in zip(expected[2:], others[2:]))


def test_scans_see_the_whole_map():
    """A change reaches the next window in a level without attention."""
    from mmmambavision.models.levels import HybridLevel
    torch.manual_seed(0)
    level = HybridLevel(16, [0.], False, 2, ('balanced', 3), 4., None, 'reference').double()
    x = torch.randn(1, 16, 8, 8, dtype=torch.float64)
    other = x.clone()
    other[:, 0, 0, 0] += 1
    with torch.no_grad():
        assert (level(x)[0] - level(other)[0])[..., 0, 4].abs().max() > 1e-6


@pytest.mark.parametrize('options', [dict(with_cp=True), dict(scan_backend='chunked')])
def test_training_with(options):
    images = torch.randn(2, 3, 90, 120)
    plain = network(('balanced', 3)).train()
    other = network(('balanced', 3), **options).train()
    gradients = []
    for model in (plain, other):
        sum(y.square().mean() for y in model(images)).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-4, rtol=1e-3, msg=name)


def test_autocast_and_double():
    images = torch.randn(1, 3, 90, 120)
    model = network(('balanced', 3)).eval()
    with torch.no_grad():
        expected = model(images)
        with torch.autocast('cpu', torch.bfloat16):
            for a, b in zip(model(images), expected):
                assert (a.float() - b).abs().max() < .1 * b.abs().max()
        for a, b in zip(copy.deepcopy(model).double()(images.double()), expected):
            torch.testing.assert_close(a.float(), b, atol=1e-4, rtol=1e-4)


def test_cost_per_pixel_is_constant():
    """Multiply-adds of attention; the whole map's grow with the map."""
    def per_pixel(window_size, side):
        # The counter knows the products of the plain kernel, and not torch's own for CPUs.
        with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            network(window_size).eval()(torch.zeros(1, 3, side, side))
        return counter.get_total_flops() / side ** 2

    assert per_pixel(('balanced', 8), 1024) < 1.02 * per_pixel(('balanced', 8), 256)
    assert per_pixel(None, 1024) > 1.2 * per_pixel(None, 256)


@pytest.mark.full
def test_compiled():
    model = network(('balanced', 3)).eval()
    compiled = torch.compile(model, dynamic=False, fullgraph=True)
    images = torch.randn(1, 3, 90, 120)
    with torch.no_grad():
        for a, b in zip(compiled(images), model(images), strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('size', [0, 3.5, None, '8', (3, 4)])
def test_sides_that_are_refused(size):
    with pytest.raises(UserError, match=facts('window_size', 'balanced', size)):
        network(('balanced', size))


def test_export_for_any_size_is_refused():
    sizes = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    with pytest.raises(UserError, match=facts('balanced', 'one size', 'window_size=None')) as raised:
        torch.export.export(network(('balanced', 3)).eval(), (torch.randn(1, 3, 64, 96),), dynamic_shapes=(sizes,))
    assert raised.value.hints == ['static']
