"""Attention against its definition, written out once more, and its choice, its errors, its place in torch."""
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import mmmambavision.ops
from mmmambavision.ops import attention
from mmmambavision.ops.attn import available_backends, cpu, interface
from mmmambavision.ops.attn.interface import ATTENTION
from mmmambavision.presets import PRESETS

if absent := available_backends()['cpu'] or cpu.refuses(torch.empty(0)):
    needs_kernel = pytest.mark.skip(reason=absent)
else:
    needs_kernel = pytest.mark.filterwarnings('default')
refused = absent or cpu.refuses(torch.empty(0, dtype=torch.bfloat16))
needs_bfloat16 = pytest.mark.skipif(bool(refused), reason=str(refused))
LONG = cpu.fewest_keys()


def inputs(batch=2, heads=2, queries=70, keys=None, dim=40, dtype=torch.float32, layout='mixer'):
    """Fresh q, k, v: as the mixer gives them, slices of one tensor, or in one piece each."""
    keys = queries if keys is None else keys
    if layout == 'mixer' and keys == queries:
        return torch.randn(batch, queries, 3, heads, dim, dtype=dtype).permute(2, 0, 3, 1, 4).unbind(0)
    return tuple(torch.randn(batch, heads, length, dim, dtype=dtype) for length in (queries, keys, keys))


def by_definition(q, k, v):
    scores = torch.einsum('bhid,bhjd->bhij', q.double(), k.double()) / q.shape[-1] ** .5
    weights = torch.exp(scores - scores.logsumexp(-1, keepdim=True))
    return torch.einsum('bhij,bhjd->bhid', weights, v.double())


SIZES = [(1, 1, 1, 1, 1), (1, 1, 5, 1, 8), (2, 3, 1, 130, 7), (1, 2, 48, 64, 40), (2, 1, 49, 65, 33),
         (1, 2, 97, 200, 48), (1, 1, 150, 129, 98), (1, 2, 64, 63, 64), (1, 1, 20, 333, 130)]


@needs_kernel
@pytest.mark.parametrize('layout', ['mixer', 'one piece'])
@pytest.mark.parametrize('size', SIZES)
def test_values(size, layout):
    q, k, v = inputs(*size, layout=layout)
    expected = by_definition(q, k, v)
    found = attention(q, k, v, 'cpu')
    assert found.dtype == torch.float32 and found.transpose(1, 2).is_contiguous()
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=3e-6)
    torch.testing.assert_close(attention(q, k, v, 'reference').double(), expected, rtol=1e-5, atol=3e-6)


def test_kernels_that_torch_is_asked_for_on_cuda(monkeypatch):
    """Any but cuDNN's, for this call alone; a context of the caller's stays."""
    def enabled():
        return {name for name in ('flash', 'mem_efficient', 'math', 'cudnn')
                if getattr(torch.backends.cuda, f'{name}_sdp_enabled')()}

    seen, others = [], enabled()
    monkeypatch.setattr(F, 'scaled_dot_product_attention', lambda *_: seen.append(enabled()))
    on_cuda, on_cpu = (SimpleNamespace(is_cuda=there, shape=(1, 1, 9, 40)) for there in (True, False))
    for q in (on_cuda, on_cpu):
        interface.attention_torch(q, q, q)
    with sdpa_kernel([SDPBackend.CUDNN_ATTENTION]):
        interface.attention_torch(on_cuda, on_cuda, on_cuda)
    assert seen == [{'flash', 'mem_efficient', 'math'}, others, {'cudnn'}] and enabled() == others


@pytest.mark.parametrize('dim', [1, 7, 33, 49, 98])
def test_heads_padded_for_cuda(monkeypatch, dim):
    """Values and gradients are of heads as they are, through torch's operator at a multiple of 8; here on a CPU."""
    seen, torchs = [], F.scaled_dot_product_attention
    monkeypatch.setattr(interface, 'runs_on_cuda', lambda q: True)
    monkeypatch.setattr(F, 'scaled_dot_product_attention',
                        lambda q, k, v, **more: seen.append((q.shape[-1], v.shape[-1])) or torchs(q, k, v, **more))
    q, k, v = (tensor.double().requires_grad_() for tensor in inputs(2, 3, 20, 31, dim))
    found, expected = attention(q, k, v, 'torch'), by_definition(q, k, v)
    assert found.shape == expected.shape and seen == [(-(-dim // 8) * 8,) * 2]
    torch.testing.assert_close(found, expected)
    cotangent = torch.randn_like(expected)
    torch.testing.assert_close(*(torch.autograd.grad(out, (q, k, v), cotangent) for out in (found, expected)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('preset', PRESETS)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
def test_no_preset_has_all_scores_in_memory_on_cuda(monkeypatch, preset, dtype):
    chosen = []
    monkeypatch.setattr(F, 'scaled_dot_product_attention', lambda q, k, v, **more: chosen.append(
        SDPBackend(torch._fused_sdp_choice(q, k, v, **more))) or q)
    dim, heads = PRESETS[preset]['dim'] * 8, PRESETS[preset]['num_heads'][3]
    for gradients in (True, False):
        q, k, v = (t.cuda().requires_grad_(gradients) for t in inputs(1, heads, 200, dim=dim // heads, dtype=dtype))
        attention(q, k, v, 'torch')
    assert not {SDPBackend.MATH, SDPBackend.CUDNN_ATTENTION} & set(chosen)


@needs_kernel
def test_as_accurate_as_torch():
    q, k, v = inputs(1, 4, 500)
    expected = by_definition(q, k, v)
    error, torchs = ((f(q, k, v) - expected).norm() for f in (
        lambda *x: attention(*x, 'cpu'), F.scaled_dot_product_attention))
    assert error < 1.1 * torchs


@needs_bfloat16
@pytest.mark.parametrize('size', SIZES)
def test_values_in_bfloat16(size):
    q, k, v = inputs(*size, dtype=torch.bfloat16)
    expected = by_definition(q, k, v)
    found = attention(q, k, v, 'cpu')
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), expected, rtol=1e-2, atol=1e-2)
    error, torchs = ((f - expected).norm() for f in (found, F.scaled_dot_product_attention(q, k, v)))
    assert error < 1.5 * torchs + 1e-3


@needs_kernel
@pytest.mark.parametrize('size', SIZES)
def test_gradients(size):
    q, k, v = (tensor.requires_grad_() for tensor in inputs(*size, layout='one piece'))
    out = attention(q, k, v, 'cpu')
    cotangent = torch.randn_like(out)
    found = torch.autograd.grad(out, (q, k, v), cotangent)
    doubles = [tensor.detach().double().requires_grad_() for tensor in (q, k, v)]
    expected = torch.autograd.grad(by_definition(*doubles), doubles, cotangent.double())
    for gradient, wanted in zip(found, expected):
        torch.testing.assert_close(gradient.double(), wanted, rtol=1e-4, atol=1e-5)


@needs_bfloat16
def test_gradients_in_bfloat16():
    q, k, v = (tensor.requires_grad_() for tensor in inputs(dtype=torch.bfloat16, layout='one piece'))
    out = attention(q, k, v, 'cpu')
    cotangent = torch.randn_like(out)
    doubles = [tensor.detach().double().requires_grad_() for tensor in (q, k, v)]
    expected = torch.autograd.grad(by_definition(*doubles), doubles, cotangent.double())
    for gradient, wanted in zip(torch.autograd.grad(out, (q, k, v), cotangent), expected):
        assert gradient.dtype == torch.bfloat16
        torch.testing.assert_close(gradient.double(), wanted, rtol=2e-2, atol=2e-2)


@needs_kernel
def test_gradient_of_some_inputs_and_of_an_expanded_cotangent():
    q, k, v = inputs()
    out = attention(q, k.requires_grad_(), v, 'cpu')
    found, = torch.autograd.grad(out.sum(), k)
    wanted, = torch.autograd.grad(by_definition(q, k, v).sum(), k)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@needs_kernel
@pytest.mark.parametrize('factor', [30., 1000.])
def test_scores_that_rise_and_fall_along_the_keys(factor):
    """The reference of the sums moves from block to block, up to where all weights but one are 0."""
    for way in (1, -1):
        q, k, v = inputs(1, 2, 100, 400, layout='one piece')
        k = k * torch.linspace(0, factor, 400)[::1, None]
        k, v = (k, v) if way == 1 else (k.flip(2), v.flip(2))
        torch.testing.assert_close(attention(q, k, v, 'cpu').double(), by_definition(q, k, v), rtol=1e-3, atol=1e-3)


@needs_kernel
def test_scores_far_below_zero():
    """No weight of what fills up the last rows of keys outweighs the others."""
    q, k, v = torch.ones(1, 1, 3, 4), -1e4 * torch.ones(1, 1, 67, 4), torch.randn(1, 1, 67, 4)
    expected = v.mean(2, keepdim=True).expand(1, 1, 3, 4)
    torch.testing.assert_close(attention(q, k, v, 'cpu'), expected, rtol=1e-5, atol=1e-6)


@needs_kernel
@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf'), 1e30, -1e30])
@pytest.mark.parametrize('where', range(3))
def test_nan_and_infinity_as_torch(where, value):
    tensors = [tensor.clone() for tensor in inputs(1, 1, 600, dim=8)]
    tensors[where][0, 0, 77] = value
    found, expected = attention(*tensors, 'cpu'), F.scaled_dot_product_attention(*tensors)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5, equal_nan=True)
    assert where == 0 or not torch.equal(expected, torch.zeros_like(expected))


@needs_kernel
def test_same_bits_for_any_number_of_threads():
    threads = torch.get_num_threads()
    q, k, v = (tensor.detach().requires_grad_() for tensor in inputs(2, 3, 200))
    cotangent, results = torch.randn(2, 3, 200, 40), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            out = attention(q, k, v, 'cpu')
            results.append((out, *torch.autograd.grad(out, (q, k, v), cotangent)))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other))


def chosen(q, k, v, **options):
    """Name of the implementation that 'auto' takes."""
    taken = []
    with pytest.MonkeyPatch.context() as patch:
        for name, there in ATTENTION.backends.items():
            patch.setitem(ATTENTION.backends, name, there._replace(run=lambda *_, name=name: taken.append(name)))
        attention(q, k, v, **options)
    return taken[0]


def without_numba(monkeypatch):
    monkeypatch.setattr(ATTENTION, 'absent', lambda name: 'numba is not installed' if name == 'cpu' else None)


@needs_kernel
def test_choice(monkeypatch):
    monkeypatch.delenv(ATTENTION.variable, raising=False)
    assert chosen(*inputs(1, 1, 3, LONG, 8)) == 'cpu' and chosen(*inputs(1, 1, LONG, LONG - 1, 8)) == 'torch'
    long = inputs(1, 1, 3, 2048, 8)  # enough for any CPU
    assert chosen(*(t.double() for t in long)) == chosen(*(t.half() for t in long)) == 'torch'
    assert chosen(*(t.to('meta') for t in long)) == 'torch'
    assert chosen(*(t[:0] for t in long)) == 'torch'
    with sdpa_kernel(SDPBackend.MATH):
        assert chosen(*long) == 'torch'
    for instructions, expected in ((dict(avx512f=True), 'cpu'), (dict(avx2=True, fma=True), 'cpu'),
                                   (dict(avx2=True), 'torch'), (dict(neon=True), 'torch')):
        monkeypatch.setattr(cpu, 'features', lambda: instructions)
        assert chosen(*long) == expected
    for instructions, expected in ((dict(avx512f=True), 'torch'), (dict(avx512f=True, avx512bf16=True), 'cpu'),
                                   ({'avx512f': True, 'avx512bf16': True, 'amx-bf16': True}, 'torch')):
        monkeypatch.setattr(cpu, 'features', lambda: instructions)
        assert chosen(*(t.bfloat16() for t in long)) == expected
    without_numba(monkeypatch)
    assert chosen(*long) == 'torch'


@pytest.mark.parametrize('amd, instructions, border', [
    (True, dict(avx512f=True), 512), (True, dict(avx2=True, fma=True), 1050), (False, dict(avx512f=True), 2048),
    (False, dict(avx2=True, fma=True), 2048)])
def test_border_by_maker_and_vector_width(monkeypatch, amd, instructions, border):
    monkeypatch.delenv(ATTENTION.variable, raising=False)
    monkeypatch.setattr(ATTENTION, 'absent', lambda name: None)
    monkeypatch.setattr(cpu, '_is_amds', lambda: amd)
    monkeypatch.setattr(cpu, 'features', lambda: instructions)
    assert [chosen(*inputs(1, 1, 3, keys, 8)) for keys in (border - 1, border)] == ['torch', 'cpu']


def test_environment_variable_and_argument(monkeypatch):
    monkeypatch.setenv(ATTENTION.variable, 'reference')
    assert chosen(*inputs()) == 'reference' and chosen(*inputs(), backend='torch') == 'torch'
    monkeypatch.setenv(ATTENTION.variable, 'flash')
    with pytest.raises(ValueError, match='flash'):
        attention(*inputs())


def test_refusals(monkeypatch):
    q, k, v = inputs()
    monkeypatch.setattr(ATTENTION, 'absent', lambda name: None)
    monkeypatch.setattr(cpu, 'features', lambda: dict(avx512f=True))
    for tensor, reason in ((q.double(), 'float64'), (q.to('meta'), 'meta'), (q.bfloat16(), 'AVX512-BF16')):
        with pytest.raises(ValueError, match=reason):
            attention(tensor, k, v, 'cpu')
    monkeypatch.setattr(cpu, 'features', lambda: dict(neon=True))
    with pytest.raises(ValueError, match='AVX2'):
        attention(q, k, v, 'cpu')
    without_numba(monkeypatch)
    assert available_backends() == {'reference': None, 'torch': None, 'cpu': 'numba is not installed'}
    with pytest.raises(ValueError, match='numba'):
        attention(q, k, v, 'cpu')


@needs_kernel
@pytest.mark.parametrize('wrong', ['dim', 'heads', 'values', 'type', 'flat'])
def test_shapes_that_do_not_fit(wrong):
    q, k, v = inputs(1, 2, 5, 6, 8)
    q, k, v = dict(dim=(q, k[..., :4], v), heads=(q, k[:, :1], v), values=(q, k, v[:, :, :5]), type=(q, k, v.double()),
                   flat=(q[0], k[0], v[0]))[wrong]
    with pytest.raises(ValueError, match='heads'):
        attention(q, k, v, 'cpu')


@needs_kernel
def test_operator_is_what_torch_wants_of_one():
    arguments = [tensor.detach().requires_grad_() for tensor in inputs(1, 2, 20, dim=8)]
    torch.library.opcheck(torch.ops.mmmambavision.attention_cpu, arguments)


@needs_kernel
def test_second_derivative_is_answered():
    q, k, v = (tensor.detach().requires_grad_() for tensor in inputs(1, 1, 5))
    gradient, = torch.autograd.grad(attention(q, k, v, 'cpu').square().sum(), q, create_graph=True)
    with pytest.raises(NotImplementedError, match='MMMAMBAVISION_ATTENTION=reference'):
        gradient.sum().backward()


@needs_kernel
def test_flops():
    """Of the definition: two products forward; scores once more and four products backward."""
    q, k, v = (tensor.detach().requires_grad_() for tensor in inputs(2, 3, 50, 70, 8))
    with FlopCounterMode(display=False) as counter:
        attention(q, k, v, 'cpu').sum().backward()
    assert counter.get_total_flops() == (2 + 5) * 2 * 2 * 3 * 50 * 70 * 8


def operators(graph):
    return [node.target for node in graph.graph.nodes if 'attention' in str(node.target)]


@needs_kernel
def test_compiled_graphs_have_the_kernel_and_exported_ones_torchs_operator(monkeypatch):
    monkeypatch.delenv(ATTENTION.variable, raising=False)
    seen = []

    class Layer(torch.nn.Module):
        def forward(self, q, k, v):
            return attention(q, k, v)

    def backend(graph, _):
        seen.append(operators(graph))
        return graph.forward

    compiled = torch.compile(Layer(), backend=backend, fullgraph=True, dynamic=True)
    for length in (LONG - 9, LONG + 9, LONG + 30, LONG - 30):
        compiled(*inputs(1, 1, length, dim=8))
    kernel = torch.ops.mmmambavision.attention_cpu
    assert seen[0] == [F.scaled_dot_product_attention] and seen[1][0] in (kernel, kernel.default) and len(seen) == 2
    for strict in (False, True):
        program = torch.export.export(Layer(), inputs(1, 1, LONG, dim=8), strict=strict)
        assert operators(program) == [torch.ops.aten.scaled_dot_product_attention.default]


@needs_kernel
@pytest.mark.slow
def test_compiled():
    compiled = torch.compile(attention, fullgraph=True, dynamic=True)
    for length in (LONG, LONG + 30):
        q, k, v = (tensor.detach().requires_grad_() for tensor in inputs(1, 1, length, dim=8))
        out = compiled(q, k, v)
        torch.testing.assert_close(out.double(), by_definition(q, k, v), rtol=1e-4, atol=1e-5)
        gradient, = torch.autograd.grad(out.square().sum(), k)
        expected, = torch.autograd.grad(by_definition(q, k, v).square().sum(), k)
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)


@needs_kernel
def test_under_torch_func(monkeypatch):
    """Transformed functions take torch's operator."""
    monkeypatch.delenv(ATTENTION.variable, raising=False)
    q, k, v = inputs(3, 1, 4, LONG, 8)
    found = torch.func.vmap(lambda *one: attention(*(t[None] for t in one))[0])(q, k, v)
    torch.testing.assert_close(found.double(), by_definition(q, k, v), rtol=1e-4, atol=1e-5)


@needs_kernel
@pytest.mark.slow
def test_on_a_cpu_with_avx2_alone(tmp_path):
    """Its vectors are half as long, and there are half as many."""
    from llvmlite import binding
    wide = ('avx512', 'avx10', 'amx', 'evex512')
    features = ','.join(f"{'+' if has and not name.startswith(wide) else '-'}{name}"
                        for name, has in binding.get_host_cpu_features().items())
    environment = {**os.environ, 'NUMBA_CPU_NAME': 'haswell', 'NUMBA_CPU_FEATURES': features,
                   'NUMBA_CACHE_DIR': str(tmp_path)}
    code = 'from mmmambavision.ops.attn import products; print(products.VECTOR, products.ROWS)'
    done = subprocess.run([sys.executable, '-c', code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ['8', '4']
    tests = [f'{__file__}::{name}' for name in ('test_values', 'test_gradients', 'test_nan_and_infinity_as_torch')]
    done = subprocess.run([sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', *tests], env=environment,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]


@needs_kernel
@pytest.mark.parametrize('empty', [dict(batch=0), dict(heads=0), dict(queries=0, keys=5)])
def test_nothing_to_attend(empty):
    q, k, v = (tensor.requires_grad_() for tensor in inputs(**empty, layout='one piece'))
    out = attention(q, k, v, 'cpu')
    assert out.shape == q.shape
    assert all(not gradient.any() for gradient in torch.autograd.grad(out.sum(), (q, k, v)))


@needs_kernel
@pytest.mark.parametrize('default', ['float64', 'bfloat16'])
def test_any_default_type(default, tmp_path):
    """The first call, which compiles, and the scan's as well."""
    code = f'''import torch
from mmmambavision.ops import attention, selective_scan
torch.set_default_dtype(torch.{default})
q = torch.randn(1, 1, 9, 8, dtype=torch.float32, requires_grad=True)
attention(q, q, q, 'cpu').sum().backward()
u = q[0].transpose(1, 2)
selective_scan(u, u, -torch.ones(8, 2, dtype=torch.float32), u[:, :2], u[:, :2], backend='cpu').sum().backward()'''
    subprocess.run([sys.executable, '-c', code], check=True)


@needs_kernel
def test_forward_mode_is_not_lost(monkeypatch):
    """A custom operator would drop the tangents without a word."""
    monkeypatch.delenv(ATTENTION.variable, raising=False)
    with torch.autograd.forward_ad.dual_level():
        assert chosen(*inputs(1, 1, 3, LONG, 8)) == 'torch'


@needs_kernel
def test_types_that_autocast_changes(monkeypatch):
    monkeypatch.delenv(ATTENTION.variable, raising=False)
    q, k, v = inputs(1, 1, 3, LONG, 8)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert chosen(q, k, v) == chosen(q, k.bfloat16(), v.bfloat16()) == 'torch'
    assert chosen(q, k, v) == 'cpu'


def test_packages_and_functions_have_paths_of_their_own():
    import mmmambavision.ops.attn.cpu as of_attention
    import mmmambavision.ops.scan.cpu as of_scan
    assert callable(mmmambavision.ops.attention) and callable(mmmambavision.ops.selective_scan)
    assert of_attention is cpu and of_scan is not cpu
