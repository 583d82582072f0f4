"""Every implementation against the reference in float64: outputs and all gradients, fresh random inputs each time."""
import itertools
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import warnings
from collections import Counter
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mmmambavision import MambaVision
from mmmambavision.ops import available_backends, selective_scan
from mmmambavision.ops.scan import chunked, interface, mamba_ssm, triton
from mmmambavision.ops.scan.interface import BACKENDS, SCAN

from ..helpers.nets import NANO
from ..helpers.process import ROOT
from ..helpers.tiers import full

PRESENT = [name for name, reason in available_backends().items() if name != 'reference' and reason is None]
ARGUMENTS = ('u', 'delta', 'A', 'B', 'C', 'D', 'z', 'delta_bias')


@pytest.fixture(autouse=True)
def few_segments_together(monkeypatch):
    """So that the small sizes of these tests go round every loop of the Triton kernels."""
    if triton.interpreted():
        for name, value in (('SEGMENTS_PER_LOAD', 3), ('MIN_CHUNKS_PER_SEGMENT', 2), ('MIN_SEGMENTS', 2)):
            monkeypatch.setattr(triton, name, value)


def device_of(backend):
    return 'cuda' if backend in ('triton', 'mamba_ssm') and torch.cuda.is_available() else 'cpu'


def interpreted(backend):
    return backend == 'triton' and triton.interpreted()


# Triton's interpreter takes seconds for what the others do at once; make test leaves it the options.
UNHURRIED = [pytest.param(name, marks=pytest.mark.slow) if interpreted(name) else name for name in PRESENT]


def small_if_interpreted(backend, **sizes):
    """Sizes of inputs: those given, and for Triton's interpreter fewer channels and states, since it takes
    a second each."""
    return {**sizes, **(dict(batch=1, channels=5, states=3) if interpreted(backend) else {})}


def make_inputs(batch=2, channels=37, length=65, states=8, groups=None, without=(), dtype=torch.float64):
    """Random inputs [B, L, D] seen as (B, D, L), as a channels-last network gives them, and steps that
    decay visibly."""
    bc = (batch, length, states) if groups is None else (batch, groups, length, states)
    inputs = dict(u=torch.randn(batch, length, channels).transpose(1, 2),
                  delta=torch.randn(batch, length, channels).transpose(1, 2),
                  A=-torch.rand(channels, states) * states, B=torch.randn(bc).transpose(-1, -2),
                  C=torch.randn(bc).transpose(-1, -2), D=torch.randn(channels),
                  z=torch.randn(batch, length, channels).transpose(1, 2), delta_bias=torch.randn(channels))
    return {k: None if k in without else v.to(dtype) for k, v in inputs.items()}


def run(inputs, backend, softplus=True, cotangents=None):
    """Output, last state and the gradient of every input, by name."""
    device = device_of(backend)
    leaves = {k: None if v is None else v.detach().to(device).requires_grad_() for k, v in inputs.items()}
    y, last = selective_scan(**leaves, delta_softplus=softplus, return_last_state=True, backend=backend)
    cotangents = cotangents or (torch.randn(y.shape, dtype=torch.float64), torch.randn(last.shape, dtype=torch.float64))
    wanted = {k: v for k, v in leaves.items() if v is not None}
    grads = torch.autograd.grad((y, last), list(wanted.values()), [c.to(o) for c, o in zip(cotangents, (y, last))])
    results = {'y': y, 'last': last, **{f'd{k}': g for k, g in zip(wanted, grads)}}
    return {k: v.cpu() for k, v in results.items()}, cotangents


def tolerance_at(backend, length):
    """A GPU's 2^x has an error that repeats wherever a decay does: by emulation up to 4e-5 of dA at 1000 steps."""
    return 1e-4 if length >= 1000 and device_of(backend) == 'cuda' else 1e-5


def assert_as_reference(backend, inputs, softplus=True, dtype=torch.float32, tolerance=1e-5):
    rounded = {k: None if v is None else v.to(dtype if k in ('u', 'delta', 'B', 'C', 'z') else torch.float32)
               for k, v in inputs.items()}
    exact = {k: None if v is None else v.double() for k, v in rounded.items()}
    expected, cotangents = run(exact, 'reference', softplus)
    cotangents = tuple(c.to(dtype).double() if i == 0 else c.float().double() for i, c in enumerate(cotangents))
    expected, _ = run(exact, 'reference', softplus, cotangents)
    actual, _ = run(rounded, backend, softplus, cotangents)
    for name, value in expected.items():
        scale = value.norm()
        if scale == 0:
            assert not actual[name].any(), name
        else:
            assert (actual[name].double() - value).norm() / scale < tolerance, name
        assert actual[name].shape == value.shape


@pytest.mark.parametrize('backend', UNHURRIED)
@pytest.mark.parametrize('length', [1, 2, 3, 63, 64, 65, 1000])
def test_lengths(backend, length):
    if interpreted(backend) and length > 100:
        pytest.skip('needs a GPU: takes minutes in the interpreter')
    if length >= 1000:
        torch.manual_seed(length)  # as below
    inputs = make_inputs(**small_if_interpreted(backend, length=length))
    assert_as_reference(backend, inputs, tolerance=tolerance_at(backend, length))


@pytest.mark.parametrize('backend', PRESENT)
@pytest.mark.parametrize('length', [4200, pytest.param(12544, marks=pytest.mark.slow)])
def test_lengths_of_detection(backend, length):
    if interpreted(backend):
        pytest.skip('needs a GPU: takes minutes in the interpreter')
    torch.manual_seed(length)  # of random ones, one in some hundred has a gradient of A that float32 rounds to 1e-4
    inputs = make_inputs(batch=1, channels=5, length=length)
    assert_as_reference(backend, inputs, tolerance=tolerance_at(backend, length))


@pytest.mark.parametrize('backend', UNHURRIED)
@pytest.mark.parametrize('batch, channels, states, groups', [
    (1, 1, 1, None), (1, 16, 8, None), (3, 5, 16, None), (2, 24, 8, 1), (2, 24, 8, 2), (1, 18, 3, 3),
    (1, 160, 8, None)])
def test_shapes(backend, batch, channels, states, groups):
    assert_as_reference(backend, make_inputs(batch, channels, 18 if interpreted(backend) else 70, states, groups))


@pytest.mark.parametrize('backend', UNHURRIED)
@pytest.mark.parametrize('softplus', [True, False])
@pytest.mark.parametrize('without', [c for n in range(4) for c in itertools.combinations(('D', 'z', 'delta_bias'), n)])
def test_options(backend, softplus, without):
    inputs = make_inputs(**small_if_interpreted(backend, length=18), without=without)
    if not softplus:
        inputs['delta'] = inputs['delta'].abs()
        inputs['delta_bias'] = None if inputs['delta_bias'] is None else inputs['delta_bias'].abs()
    assert_as_reference(backend, inputs, softplus)


@pytest.mark.parametrize('backend', PRESENT)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_low_precision(backend, dtype):
    inputs = make_inputs(**small_if_interpreted(backend, length=18 if interpreted(backend) else 200))
    assert_as_reference(backend, inputs, dtype=dtype, tolerance=1e-2)


@pytest.mark.parametrize('backend', PRESENT)
def test_strides_do_not_matter(backend):
    channels, length = (5, 10) if interpreted(backend) else (37, 65)
    inputs = make_inputs(2, channels, length, 3, groups=1, dtype=torch.float32)
    wide = torch.randn(2, length, 2 * channels + 6)
    inputs['u'], inputs['z'] = (part[..., 3:].transpose(1, 2) for part in wide.chunk(2, -1))
    layouts = {
        'as they are': inputs,
        'contiguous': {k: v.contiguous() for k, v in inputs.items()},
        'every second': {k: v.repeat_interleave(2, -1)[..., ::2] for k, v in inputs.items()},
        'expanded': {**inputs, 'delta': inputs['delta'][:1].expand(2, -1, -1)},
    }
    for name, layout in layouts.items():
        reference = selective_scan(**layout, delta_softplus=True, backend='reference')
        layout = {k: v.to(device_of(backend)) for k, v in layout.items()}
        torch.testing.assert_close(selective_scan(**layout, delta_softplus=True, backend=backend).cpu(), reference,
                                   rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize('backend', UNHURRIED)
def test_same_bits_on_every_run(backend):
    if backend == 'mamba_ssm':
        pytest.skip('sums gradients of B and C in whichever order they come')
    inputs = make_inputs(**small_if_interpreted(backend, length=18 if interpreted(backend) else 300),
                         dtype=torch.float32)
    first, cotangents = run(inputs, backend)
    for _ in range(3):
        again, _ = run(inputs, backend, cotangents=cotangents)
        assert all(torch.equal(first[k], again[k]) for k in first)


@pytest.mark.parametrize('numbers', [1, chunked.STATES_PER_STRETCH])
@pytest.mark.parametrize('length', [1, 15, 16, 17, 255, 256, 257, 700])
def test_ends_of_chunks_and_stretches(monkeypatch, numbers, length):
    """With stretches of 256 steps, and in one."""
    monkeypatch.setattr(chunked, 'STATES_PER_STRETCH', numbers)
    assert_as_reference('chunked', make_inputs(2, 6, length, 3, groups=2))


def test_chunked_under_transforms(monkeypatch):
    """Tangents, and a batch of parameters and inputs, as those of the reference."""
    monkeypatch.setattr(chunked, 'STATES_PER_STRETCH', 1)
    inputs = [torch.stack([v, v.flip(0)]) for v in make_inputs(1, 4, 270, 2, groups=2).values()]
    tangents = [torch.randn_like(v) for v in inputs]
    results = []
    for backend in ('chunked', 'reference'):
        def scan(*values):
            return selective_scan(*values, delta_softplus=True, return_last_state=True, backend=backend)
        results.append(torch.func.jvp(torch.func.vmap(scan), tuple(inputs), tuple(tangents)))
    torch.testing.assert_close(*results)


def test_gradcheck_of_chunked():
    inputs = make_inputs(1, 4, 7, 2, groups=2)
    assert torch.autograd.gradcheck(
        lambda *values: selective_scan(*values, delta_softplus=True, return_last_state=True, backend='chunked'),
        tuple(v.requires_grad_() for v in inputs.values()))


@pytest.mark.parametrize('backend', PRESENT)
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_edge_of_range_stays_finite(backend, dtype):
    """Steps, inputs and states as large and small as the type holds, where the float32 reference is finite."""
    sizes = small_if_interpreted(backend, length=10 if interpreted(backend) else 130)
    inputs = {k: v if v is None else v.float() for k, v in make_inputs(**sizes).items()}
    edge = 6e4 if dtype == torch.float16 else 1e6
    inputs['delta'] = torch.tensor([-edge, -30., 0., 30., 1e3])[torch.randint(0, 5, inputs['delta'].shape)]
    inputs['u'] = torch.tensor([-1e3, 0., 1e-7, 1e3])[torch.randint(0, 4, inputs['u'].shape)]
    inputs['A'] = -torch.tensor([0., 1e-6, 1., 8., 1e3])[torch.randint(0, 5, inputs['A'].shape)]
    inputs = {k: v.to(dtype) if k in ('u', 'delta', 'B', 'C', 'z') else v for k, v in inputs.items()}
    scale = 1e-6  # of the cotangents, so that gradients of the inputs fit their type
    last = inputs['u'].shape[:2] + inputs['A'].shape[1:]
    cotangents = tuple(scale * torch.randn(size, dtype=torch.float64) for size in (inputs['u'].shape, last))
    expected, _ = run({k: v.float() for k, v in inputs.items()}, 'reference', cotangents=cotangents)
    actual, _ = run(inputs, backend, cotangents=cotangents)
    for name, value in actual.items():
        fits = expected[name].isfinite() & (expected[name].abs() < torch.finfo(value.dtype).max / 2)
        assert value[fits].isfinite().all(), name


@pytest.mark.filterwarnings('ignore:invalid value:RuntimeWarning')
@pytest.mark.parametrize('backend', [name for name in PRESENT if name != 'chunked'])  # whose padding has 0 x infinity
def test_infinity_at_the_last_step(backend):
    """Gradients that are finite by the reference: what pads the sequence and the channels adds no NaN."""
    inputs = make_inputs(1, 5, 7, 3, dtype=torch.float32)
    inputs['u'][..., -1] = torch.inf
    expected, cotangents = run({k: v.double() for k, v in inputs.items()}, 'reference')
    actual, _ = run(inputs, backend, cotangents=cotangents)
    assert expected['dA'].isfinite().all() and expected['y'][..., :-1].isfinite().all()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name].double(), torch.where(value.isfinite(), value, actual[name].double()),
                                   rtol=1e-4, atol=1e-4, equal_nan=True, msg=name)


def test_table_of_backends_and_choice(monkeypatch):
    assert set(available_backends()) == {'reference', 'chunked', 'cpu', 'triton', 'mamba_ssm'}
    inputs = dict(make_inputs(dtype=torch.float32), delta_softplus=True)
    expected = selective_scan(**inputs, backend='cpu')
    assert torch.equal(selective_scan(**inputs), expected)
    monkeypatch.setenv(SCAN.variable, 'chunked')
    assert torch.equal(selective_scan(**inputs), selective_scan(**inputs, backend='chunked'))
    assert torch.equal(selective_scan(**inputs, backend='cpu'), expected)  # the argument wins
    monkeypatch.setenv(SCAN.variable, 'quick')
    with pytest.raises(ValueError, match='quick'):
        selective_scan(**inputs)


@pytest.mark.parametrize('device, missing, price', [('cpu', 'cpu', 'four times'), ('cuda', 'triton', '40 times')])
def test_fallback_to_plain_operations_is_told_once(monkeypatch, device, missing, price):
    """With tensors that have no values, so that no GPU is needed."""
    monkeypatch.delenv(SCAN.variable, raising=False)
    monkeypatch.setattr(SCAN, 'absent', lambda name: None if name == 'chunked' else f'{name} is not here')
    interface._warn_of_slow_scan.cache_clear()
    with FakeTensorMode():
        inputs = {k: torch.empty(v.shape, device=device) for k, v in make_inputs(1, 5, 7, 3).items()}
        with pytest.warns(UserWarning, match=f'{price}.*{missing} is not here'):
            y = selective_scan(**inputs)
        assert y.device.type == device and y.shape == (1, 5, 7)
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            selective_scan(**inputs)
    interface._warn_of_slow_scan.cache_clear()


def test_forced_backend_says_why_it_cannot():
    with pytest.raises(ValueError, match='float64'):
        selective_scan(**make_inputs(), backend='cpu')
    with pytest.raises(ValueError, match='meta'):
        selective_scan(**{k: v.to('meta') for k, v in make_inputs().items()}, backend='cpu')


def spy_on(monkeypatch, kernels, name):
    """The grids that a Triton kernel is launched with from now on."""
    kernel, grids = getattr(kernels, name), []

    class Spy:
        def __getitem__(self, grid):
            grids.append(grid)
            return kernel[grid]

    monkeypatch.setattr(kernels, name, Spy())
    return grids


@pytest.mark.parametrize('length, segments', [
    (1, 1), *(pytest.param(*sizes, marks=pytest.mark.slow) for sizes in ((33, 1), (33, 3), (40, 5)))])
def test_segments_of_triton(monkeypatch, length, segments):
    """A sequence in one piece, and in pieces whose states pass from one to the next."""
    if triton.unavailable():
        pytest.skip(triton.unavailable())
    monkeypatch.setattr(triton, 'multiprocessors', lambda device: 1)
    monkeypatch.setattr(triton, 'WARPS_PER_MULTIPROCESSOR', segments)
    inputs = make_inputs(1, 5, length, 8)
    from mmmambavision.ops.scan import triton_backward, triton_kernels
    forward, backward, ends = (spy_on(monkeypatch, module, f'selective_scan_{name}_kernel') for module, name in (
        (triton_kernels, 'fwd'), (triton_backward, 'bwd'), (triton_kernels, 'segment_ends')))
    assert_as_reference('triton', inputs)
    assert set(forward) == set(backward) == {(1, segments)}
    assert set(ends) == ({(1, segments)} if segments > 1 else set())


# Upper bounds: registers, and instructions for each channel, step and state (see tools/benchmarks/scan_static.py).
LIMITS = dict(selective_scan_segment_ends_kernel=(80, 12.5), selective_scan_segment_starts_kernel=(255, 17),
              selective_scan_fwd_kernel=(96, 17), selective_scan_bwd_kernel=(255, 38),
              depthwise_silu_fwd_kernel=(80, None), depthwise_silu_bwd_kernel=(128, None))
REGISTERS_OF_OLDER = 128  # at least, on compute capability 7.5 and 8.6, whose compilation keeps more values


@pytest.mark.parametrize('targets, dtypes', [(('80', '90'), ('bfloat16',)), full(
    ('75', '80', '86', '89', '90', '100', '120'), ('float32', 'bfloat16'))])
def test_what_triton_kernels_compile_to(targets, dtypes, tmp_path):
    """In a process of its own, because in this one kernels may be interpreted."""
    pytest.importorskip('triton')
    environment = {k: v for k, v in os.environ.items() if k != 'TRITON_INTERPRET'}
    tool = ROOT / 'tools' / 'benchmarks' / 'scan_static.py'
    subprocess.run([sys.executable, tool, '--targets', *targets, '--dtype', *dtypes, '--json', tmp_path / 'x.json'],
                   env=environment, check=True, stdout=subprocess.DEVNULL)
    records = json.loads((tmp_path / 'x.json').read_text())
    expected = {name: 2 if 'segment' in name else 1 for name in LIMITS}
    assert Counter(record['kernel'] for record in records) == {
        name: count * len(targets) * len(dtypes) for name, count in expected.items()}
    for record in records:
        registers, instructions = LIMITS[record['kernel']]
        if record['target'] in ('sm_75', 'sm_86'):
            registers = max(registers, REGISTERS_OF_OLDER)
        assert record['registers'] <= registers and record['shared'] <= 1024, record
        assert record['spilled'] == 0 or record['target'] == 'sm_75', record
        assert instructions is None or 0 < record['instructions'] <= instructions, record


def test_how_sequences_are_cut(monkeypatch):
    """ImageNet's windows of 49 steps in one piece, long sequences in 128 at most."""
    if triton.unavailable():
        pytest.skip(triton.unavailable())
    from mmmambavision.ops.scan import triton_kernels
    for name, value in dict(MIN_CHUNKS_PER_SEGMENT=5, MIN_SEGMENTS=4, multiprocessors=lambda device: 132).items():
        monkeypatch.setattr(triton, name, value)

    class Launches:
        def __getitem__(self, grid):
            grids.append(grid)
            return lambda *args, **named: None

    for name in ('segment_ends', 'segment_starts', 'fwd'):
        monkeypatch.setattr(triton_kernels, f'selective_scan_{name}_kernel', Launches())
    for length, segments in ((49, 1), (196, 16), (4200, 128), (12544, 128)):
        grids, inputs = [], make_inputs(1, 64, length, 8)
        triton.forward(*(inputs[name] for name in ('u', 'delta', 'A')), *(
            inputs[name][:, None] for name in ('B', 'C')), inputs['D'], None, inputs['delta_bias'], True, keep=False)
        assert segments - 8 <= grids[-1][1] <= segments


class StandIn:
    """What mamba-ssm's compiled module takes and gives back, computed by others, and nothing else."""

    def check(self, u, delta, A, B, C, D, z, bias, *more):
        assert u.dtype == delta.dtype == B.dtype == C.dtype and B.dim() == C.dim() == 4 and z is None
        assert all(t.stride(-1) == 1 or t.shape[-1] == 1 for t in (u, delta, B, C, *more))
        assert all(t is None or (t.dtype == torch.float32 and t.is_contiguous()) for t in (A, D, bias))

    def fwd(self, u, delta, A, B, C, D, z, bias, softplus):
        self.check(u, delta, A, B, C, D, z, bias)
        y, last = selective_scan(u, delta, A, B, C, D, None, bias, softplus, True, 'reference')
        states = torch.full((*u.shape[:2], -(-u.shape[2] // 2048), 2 * A.shape[1]), float('nan'))
        states[:, :, -1, 1::2] = last
        return [y, states]

    def bwd(self, u, delta, A, B, C, D, z, bias, dy, states, out, dz, softplus, recompute):
        self.check(u, delta, A, B, C, D, z, bias, dy)
        assert dy.dtype == u.dtype and states.shape == (*u.shape[:2], -(-u.shape[2] // 2048), 2 * A.shape[1])
        assert (out, dz, recompute) == (None, None, False)
        gradients = chunked.backward(dy, None, None, u, delta, A, B, C, D, None, bias, softplus)
        return [*gradients[:6], gradients[7]]


@pytest.mark.parametrize('dtype, tolerance', [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize('without', [(), ('z',), ('D', 'delta_bias')])
def test_calls_of_mamba_ssm(monkeypatch, dtype, tolerance, without):
    """With its compiled module stood in for: what it is given fits it, and gate and last state are added rightly."""
    monkeypatch.setitem(sys.modules, 'selective_scan_cuda', StandIn())
    monkeypatch.setitem(BACKENDS, 'mamba_ssm', BACKENDS['mamba_ssm']._replace(
        unavailable=lambda: None, refuses=lambda u: None))
    assert_as_reference('mamba_ssm', make_inputs(channels=6, length=40, groups=2, without=without), dtype=dtype,
                        tolerance=tolerance)


def test_why_triton_is_absent(monkeypatch):
    compiler = pytest.importorskip('triton')
    monkeypatch.setenv('TRITON_INTERPRET', '1')
    assert triton.unavailable() is None
    monkeypatch.setattr(compiler, '__version__', '3.2.0')
    assert '3.2.0' in triton.unavailable() and '3.3' in triton.unavailable()
    monkeypatch.setenv('TRITON_INTERPRET', '0')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(torch.cuda, 'init', mock.Mock(side_effect=RuntimeError('driver is too old')))
    assert 'GPU' in triton.unavailable() and 'driver is too old' in triton.unavailable()
    assert 'cpu' in triton.refuses(torch.zeros(1, 1, 1))
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    assert 'pip install triton' in triton.unavailable()


def test_what_triton_needs_to_launch_kernels(monkeypatch, tmp_path):
    pytest.importorskip('triton')
    for name in ('TRITON_INTERPRET', 'CC', 'CPATH', 'C_INCLUDE_PATH'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(sysconfig, 'get_paths', lambda scheme: dict(include=str(tmp_path / 'include')))
    monkeypatch.setattr(shutil, 'which', lambda name: None)
    assert 'gcc' in triton.unavailable()
    monkeypatch.setattr(shutil, 'which', lambda name: '/usr/bin/cc' if name == 'clang' else None)
    assert 'Python.h' in triton.unavailable() and str(tmp_path) in triton.unavailable()
    (tmp_path / 'Python.h').touch()
    monkeypatch.setenv('CPATH', str(tmp_path))
    assert triton.unavailable() is None


def test_why_mamba_ssm_is_absent(monkeypatch):
    assert available_backends()['mamba_ssm'] is None or mamba_ssm.unavailable() == available_backends()['mamba_ssm']
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    assert 'mamba-ssm' in mamba_ssm.unavailable()
    monkeypatch.setattr('importlib.util.find_spec', lambda name: object())
    monkeypatch.setitem(sys.modules, 'selective_scan_cuda', None)
    assert 'selective_scan_cuda' in mamba_ssm.unavailable()
    assert 'cpu' in mamba_ssm.refuses(torch.zeros(1, 1, 1))


def test_without_numba(monkeypatch):
    from mmmambavision.ops.scan import cpu
    monkeypatch.setitem(sys.modules, 'numba', None)
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    assert 'pip install numba' in cpu.unavailable()


@pytest.mark.slow
@pytest.mark.parametrize('backend', PRESENT)
def test_backbone_compiles_without_a_break(backend):
    torch.manual_seed(0)
    model = MambaVision(NANO, window_size=None, drop_path_rate=0., scan_backend=backend).to(device_of(backend))
    x = torch.randn(2, 3, 64, 64, device=device_of(backend))
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend='aot_eager')
    for a, b in zip(model.eval()(x), compiled(x)):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    gradients = []
    for run_model in (model, compiled):
        model.zero_grad()
        sum(output.square().sum() for output in run_model(x)).backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for a, b in zip(*gradients):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('backend', PRESENT)
def test_backbone_exports(backend):
    model = MambaVision(NANO, window_size=None, scan_backend=backend).eval().to(device_of(backend))
    x = torch.randn(1, 3, 64, 64, device=device_of(backend))
    exported = torch.export.export(model, (x,))
    assert any('selective_scan' in str(node.target) for node in exported.graph.nodes)
    for a, b in zip(model(x), exported.module()(x)):
        torch.testing.assert_close(a, b)


def test_memory_of_a_training_step_on_the_cpu():
    """What is kept for the backward pass beside the inputs is at most a quarter of them: states are computed again."""
    inputs = {k: v.requires_grad_() for k, v in make_inputs(1, 160, 4200, 8, groups=1, dtype=torch.float32).items()}
    saved = {}
    with torch.autograd.graph.saved_tensors_hooks(
            lambda t: saved.setdefault(t.untyped_storage().data_ptr(), t) is None or t, lambda t: t):
        y = selective_scan(**inputs, delta_softplus=True, backend='cpu')
    given = {v.untyped_storage().data_ptr() for v in inputs.values()}
    own = sum(t.untyped_storage().nbytes() for pointer, t in saved.items() if pointer not in given)
    assert y.grad_fn is not None and own < .25 * sum(v.numel() * 4 for v in inputs.values())


@pytest.mark.parametrize('backend', ['reference', *UNHURRIED])
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(backend, dtype):
    """Whatever autocast is told, a scan computes in float32: the same bits as without it, also where float16 ends."""
    inputs = {k: v.float() for k, v in make_inputs(**small_if_interpreted(backend, length=20)).items()}
    inputs['u'] = 1e4 * inputs['u']
    for softplus in (True, False):
        inputs.update(delta=inputs['delta'].abs(), delta_bias=inputs['delta_bias'].abs())
        expected, cotangents = run(inputs, backend, softplus)
        with torch.autocast(device_of(backend), dtype):
            actual, _ = run(inputs, backend, softplus, cotangents)
        assert expected['y'].abs().max() > 1e4
        for name, value in expected.items():
            assert torch.equal(actual[name], value), name
    low = {k: v.to(dtype) if k in ('delta', 'B', 'C', 'z') else v for k, v in inputs.items()}
    with torch.autocast(device_of(backend), dtype):  # as the mixer calls it: most inputs come out of linear layers
        actual, _ = run(low, backend, cotangents=cotangents)
    expected, _ = run({k: v.double() for k, v in low.items()}, 'reference', cotangents=cotangents)
    for name, value in expected.items():
        fits = value.abs() < torch.finfo(actual[name].dtype).max / 2
        tolerance = 1e-5 if actual[name].dtype == torch.float32 else torch.finfo(dtype).eps
        assert (actual[name].double() - value)[fits].norm() < tolerance * value[fits].norm() and fits.any(), name


@pytest.mark.parametrize('backend', PRESENT)
def test_empty_batch(backend):
    inputs = {k: v.to(device_of(backend), torch.float32) for k, v in make_inputs(batch=0, length=7).items()}
    results, _ = run(inputs, backend)
    assert results['y'].shape == (0, 37, 7) and results['last'].shape == (0, 37, 8)
    for name, value in inputs.items():
        assert results[f'd{name}'].shape == value.shape and not results[f'd{name}'].any()


def test_nothing_is_allocated_for_states_that_nobody_keeps():
    """Without gradients the forward pass takes a thread's cache, the output and the last state, and no more."""
    inputs = make_inputs(1, 160, 4200, 8, groups=1, dtype=torch.float32, without=('z',))
    selective_scan(**inputs, backend='cpu')
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        selective_scan(**inputs, backend='cpu')
    allocated = sum(max(0, e.nbytes()) for e in profile.profiler.kineto_results.events() if e.name() == '[memory]')
    assert allocated < 1.05 * (inputs['u'].numel() + 160 * 8) * 4


def test_gradient_of_u_does_not_copy_it():
    """The backward pass allocates gradients and sums over blocks, no copies for the sake of a shape."""
    leaves = {k: v.to(torch.bfloat16 if k in ('u', 'delta', 'B', 'C') else v.dtype).requires_grad_() for k, v in
              make_inputs(1, 160, 4200, 8, groups=1, dtype=torch.float32, without=('z',)).items() if v is not None}
    y = selective_scan(**leaves, delta_softplus=True, backend='cpu')
    cotangent = torch.randn_like(y)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        torch.autograd.grad(y, list(leaves.values()), cotangent)
    allocated = sum(max(0, e.nbytes()) for e in profile.profiler.kineto_results.events() if e.name() == '[memory]')
    assert allocated / leaves['u'].numel() < 39  # bytes; one more copy in bfloat16 is 2


WITHOUT_NUMBA = """
import sys, warnings
sys.modules['numba'] = None
import torch
from mmmambavision.ops import selective_scan
x, A, weights = torch.ones(1, 2, 3), -torch.ones(2, 4), torch.ones(1, 4, 3)
with warnings.catch_warnings():
    warnings.simplefilter('error')
    selective_scan(x, x, A, weights, weights, backend='chunked')  # asked for
    selective_scan(*(tensor.double() for tensor in (x, x, A, weights, weights)))
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter('always')
    for _ in range(2):
        selective_scan(x, x, A, weights, weights)
for warning in seen:
    print(warning.category.__name__, warning.message)
"""


def test_without_numba_one_warning_says_what_to_install():
    done = subprocess.run([sys.executable, '-c', WITHOUT_NUMBA], env={**os.environ, 'TRITON_INTERPRET': '0'}, text=True,
                          capture_output=True)
    assert done.returncode == 0, done.stderr
    warning, = done.stdout.splitlines()
    assert warning.startswith('UserWarning ') and 'pip install numba' in warning


@pytest.mark.slow
@pytest.mark.skipif(os.name == 'nt', reason='folders are made read-only by their modes')
def test_kernels_compile_where_nothing_can_be_written(tmp_path):
    """A read-only package and no home: compiled without a cache, said once."""
    package = tmp_path / 'site' / 'mmmambavision'
    shutil.copytree(Path(__file__).parents[2] / 'mmmambavision', package,
                    ignore=shutil.ignore_patterns('__pycache__'))
    # Whoever runs as root writes into read-only folders, so numba's folders are made to be files.
    for folder in (package / 'ops', package / 'ops' / 'scan'):
        (folder / '__pycache__').write_text('')
    (tmp_path / 'home').write_text('')
    code = ('import torch, warnings; from mmmambavision.ops import selective_scan; x = torch.ones(1, 2, 3);'
            'r = torch.ones(2, 4); w = torch.ones(1, 4, 3);'
            'print([selective_scan(x, x, -r, w, w, backend="cpu").sum().item() for _ in range(2)][0])')
    environment = {**os.environ, 'HOME': str(tmp_path / 'home'), 'XDG_CACHE_HOME': str(tmp_path / 'home'),
                   'PYTHONPATH': str(tmp_path / 'site'), 'PYTHONDONTWRITEBYTECODE': '1'}
    environment.pop('NUMBA_CACHE_DIR', None)
    done = subprocess.run([sys.executable, '-c', code], env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    x, r, w = torch.ones(1, 2, 3), torch.ones(2, 4), torch.ones(1, 4, 3)
    expected = selective_scan(x, x, -r, w, w, backend='reference').sum().item()
    assert float(done.stdout.splitlines()[-1]) == pytest.approx(expected, rel=1e-5)
    assert done.stderr.count('NUMBA_CACHE_DIR') == 1


FIRST_SCAN = ('import torch; from mmmambavision.ops import selective_scan; x = torch.ones(1, 2, 3);'
              'r, w = torch.ones(2, 4), torch.ones(1, 4, 3); print(selective_scan(x, x, -r, w, w).sum().item())')


def first_scan(limit='', **environment):
    """The sum that a process of its own prints, and what it says."""
    done = subprocess.run(['bash', '-c', f'{limit} "$@"', '-', sys.executable, '-c', FIRST_SCAN], text=True,
                          capture_output=True, env={**os.environ, 'TRITON_INTERPRET': '0', **environment})
    assert done.returncode == 0, done.stderr
    return float(done.stdout.splitlines()[-1]), done.stderr


@pytest.mark.full
@pytest.mark.skipif(os.name == 'nt', reason='limits are set by a shell')
def test_kernels_compile_where_the_disk_is_full_or_the_cache_damaged(tmp_path):
    expected, _ = first_scan(NUMBA_CACHE_DIR=str(tmp_path / 'cache'))
    value, said = first_scan('ulimit -f 1;', NUMBA_CACHE_DIR=str(tmp_path / 'full'))
    assert value == expected and said.count('NUMBA_CACHE_DIR') == 1
    files = [file for file in (tmp_path / 'cache').rglob('*') if file.is_file()]
    assert files
    for file in files:
        file.write_bytes(b'')
    value, said = first_scan(NUMBA_CACHE_DIR=str(tmp_path / 'cache'))
    assert value == expected and said.count('NUMBA_CACHE_DIR') <= 1


def test_first_scan_takes_no_random_numbers():
    """So that a seed gives the same with kernels compiled and to be compiled."""
    code = f'import torch; torch.manual_seed(0); {FIRST_SCAN}; print(torch.rand(1).item())'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert float(done.stdout.splitlines()[-1]) == torch.rand(1, generator=torch.manual_seed(0)).item()


def test_numba_that_does_not_load(tmp_path):
    (tmp_path / 'numba').mkdir()
    (tmp_path / 'numba' / '__init__.py').write_text("raise ImportError('Numba needs NumPy 2.4 or less')")
    _, said = first_scan(PYTHONPATH=os.pathsep.join([str(tmp_path), os.environ.get('PYTHONPATH', '')]))
    assert 'Numba needs NumPy 2.4 or less' in said


def test_reference_computes_in_float64_if_any_input_is():
    for name in ARGUMENTS:
        inputs = {k: v.double() if k == name else v.float() for k, v in make_inputs(1, 2, 3, 2).items()}
        _, last = selective_scan(**inputs, backend='reference', return_last_state=True)
        assert last.dtype == torch.float64, name
