"""Depthwise convolution with SiLU against its definition, written out: outputs, every gradient, choice and errors."""
import pytest
import torch

from mmmambavision.models.mixers import MambaVisionMixer
from mmmambavision.ops import depthwise_silu
from mmmambavision.ops.depthwise import available_backends, triton
from mmmambavision.ops.depthwise.interface import DEPTHWISE

from ..helpers.tiers import slow

PRESENT = [name for name, reason in available_backends().items() if reason is None]


def device_of(backend):
    return 'cuda' if backend == 'triton' and torch.cuda.is_available() else 'cpu'


def by_definition(x, weight):
    outputs = []
    for t in range(x.shape[1]):
        taps = [weight[:, 0, k] * x[:, t + k - 1] for k in range(3) if 0 <= t + k - 1 < x.shape[1]]
        p = torch.stack(taps).sum(0)
        outputs.append(p * torch.sigmoid(p))
    return torch.stack(outputs, 1)


def check(backend, x, weight, tolerance):
    """Output and gradients, relative to the norm of what the definition has in float64."""
    exact = [t.double().detach().requires_grad_() for t in (x, weight)]
    given = [t.detach().to(device_of(backend)).requires_grad_() for t in (x, weight)]
    expected, found = by_definition(*exact), depthwise_silu(*given, backend=backend)
    assert found.dtype == x.dtype and found.shape == x.shape and found.is_contiguous()
    cotangent = torch.randn_like(expected).to(x.dtype)
    pairs = zip((found, *torch.autograd.grad(found, given, cotangent.to(found.device))),
                (expected, *torch.autograd.grad(expected, exact, cotangent.double())))
    for (got, wanted), like in zip(pairs, (x, x, weight)):
        assert got.dtype == like.dtype and (got.cpu().double() - wanted).norm() <= tolerance * wanted.norm()


@pytest.mark.parametrize('backend', PRESENT)
@pytest.mark.parametrize('batch, length, channels', [(1, 1, 1), (2, 2, 3), (1, 3, 64), (2, 15, 5), (1, 16, 65),
                                                     (3, 17, 8), (1, 65, 70), (2, 130, 3)])
def test_shapes(backend, batch, length, channels):
    check(backend, torch.randn(batch, length, channels), torch.randn(channels, 1, 3), 1e-5)


@pytest.mark.parametrize('backend', PRESENT)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_low_precision(backend, dtype):
    check(backend, torch.randn(2, 20, 40).to(dtype), torch.randn(40, 1, 3).to(dtype), 1e-2)


@pytest.mark.parametrize('backend', PRESENT)
def test_strides_do_not_matter(backend):
    wide, weight = torch.randn(2, 20, 24), torch.randn(8, 1, 3)
    for x in (wide[..., 9:17], wide[..., ::3], wide.transpose(1, 2)[:, ::2, :8], wide[:1, :, :8].expand(2, -1, -1)):
        x = x.to(device_of(backend))
        weight = weight.to(x.device)
        for taps in (weight, weight.repeat_interleave(2, -1)[..., ::2]):
            torch.testing.assert_close(depthwise_silu(x, taps, backend), by_definition(x, weight))
    x = torch.randn(2, 20, 8, device=x.device, requires_grad=True)
    found, wanted = (torch.autograd.grad(f(x).sum(), x)[0] for f in (  # an expanded cotangent
        lambda x: depthwise_silu(x, weight, backend), lambda x: by_definition(x, weight)))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('backend', PRESENT)
def test_types_under_autocast(backend):
    device = device_of(backend)
    weight = torch.randn(8, 1, 3, device=device, requires_grad=True)
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(2, 20, 8, device=device, dtype=dtype, requires_grad=True)
        with torch.autocast(device, torch.bfloat16):
            y = depthwise_silu(x, weight, backend)
        assert y.dtype == torch.bfloat16
        y.float().sum().backward()
        assert weight.grad.dtype == torch.float32 and x.grad.dtype == dtype


@pytest.mark.parametrize('backend', PRESENT)
def test_no_tokens(backend):
    x = torch.zeros(0, 5, 4, device=device_of(backend), requires_grad=True)
    weight = torch.randn(4, 1, 3, device=x.device, requires_grad=True)
    y = depthwise_silu(x, weight, backend)
    y.sum().backward()
    assert y.shape == x.shape and not weight.grad.any()


def test_choice_and_errors(monkeypatch):
    monkeypatch.delenv(DEPTHWISE.variable, raising=False)
    x, weight, taken = torch.randn(1, 5, 4), torch.randn(4, 1, 3), []
    assert torch.equal(depthwise_silu(x, weight), depthwise_silu(x, weight, 'torch'))
    shifted = DEPTHWISE.backends['shifted']
    monkeypatch.setitem(DEPTHWISE.backends, 'shifted', shifted._replace(
        run=lambda *given: taken.append(1) or shifted.run(*given)))
    monkeypatch.setenv(DEPTHWISE.variable, 'shifted')
    depthwise_silu(x, weight)
    depthwise_silu(x, weight, 'torch')  # the argument wins
    assert len(taken) == 1
    with pytest.raises(ValueError, match='cudnn'):
        depthwise_silu(x, weight, 'cudnn')
    with pytest.raises(ValueError, match='weight'):
        depthwise_silu(x, weight[:3], 'shifted')
    monkeypatch.setattr(DEPTHWISE, 'absent', lambda name: None)
    for wrong, reason in ((x.double(), 'float64'), (x.to('meta'), 'meta')):
        with pytest.raises(ValueError, match=reason):
            depthwise_silu(wrong, weight, 'triton')
    monkeypatch.setattr(DEPTHWISE, 'absent', lambda name: 'triton is not installed')
    with pytest.raises(ValueError, match='not installed'):
        depthwise_silu(x, weight, 'triton')


@pytest.mark.parametrize('backend', [name for name in PRESENT if name != 'torch'])
@pytest.mark.parametrize('compiled', [False, slow(True)])
def test_mixer(monkeypatch, backend, compiled):
    """The environment variable reaches MambaVision's mixer, whose two convolutions are one call."""
    mixer = MambaVisionMixer(16).to(device_of(backend))
    tokens, results = torch.randn(2, 20, 16, device=device_of(backend)), []
    for name in ('torch', backend):
        monkeypatch.setenv(DEPTHWISE.variable, name)
        torch._dynamo.reset()
        call = torch.compile(mixer, fullgraph=True, backend='aot_eager') if compiled and name == backend else mixer
        out = call(tokens)
        results.append((out, *torch.autograd.grad(out.square().sum(), list(mixer.parameters()))))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif('triton' not in PRESENT, reason=str(available_backends()['triton']))
class TestTritonsOperator:
    def test_is_what_torch_wants_of_one(self):
        arguments = [t.to(device_of('triton')).requires_grad_() for t in (torch.randn(1, 18, 5), torch.randn(5, 1, 3))]
        torch.library.opcheck(torch.ops.mmmambavision.depthwise_silu_triton, arguments)

    def test_same_bits_on_every_run(self):
        x, weight = (t.to(device_of('triton')).requires_grad_() for t in (torch.randn(2, 90, 5), torch.randn(5, 1, 3)))
        cotangent = torch.randn_like(x)
        first, again = (torch.autograd.grad(depthwise_silu(x, weight, 'triton'), (x, weight), cotangent)
                        for _ in range(2))
        assert all(map(torch.equal, first, again))

    def test_second_derivative_is_answered(self):
        x = torch.randn(1, 5, 4, device=device_of('triton'), requires_grad=True)
        weight = torch.randn(4, 1, 3, device=x.device)
        gradient, = torch.autograd.grad(depthwise_silu(x, weight, 'triton').sum(), x, create_graph=True)
        with pytest.raises(NotImplementedError, match='MMMAMBAVISION_DEPTHWISE=torch'):
            gradient.sum().backward()

    def test_transforms_see_through(self):
        x, weight = (torch.randn(size, device=device_of('triton')) for size in ((3, 1, 6, 4), (4, 1, 3)))
        found = torch.func.vmap(lambda one: depthwise_silu(one, weight, 'triton'))(x)
        torch.testing.assert_close(found[:, 0], by_definition(x[:, 0], weight))

    def test_tiles_cover_long_sequences(self, monkeypatch):
        monkeypatch.setattr(triton, 'TILES', 2)
        check('triton', torch.randn(1, 100, 3), torch.randn(3, 1, 3), 1e-5)
