"""Outputs and gradients against those of the released code."""
import json

import numpy as np
import pytest
import torch

from mmmambavision import MambaVision
from mmmambavision.ops import available_backends
from mmmambavision.ops.attn import available_backends as attention_backends
from mmmambavision.ops.attn import cpu
from mmmambavision.ops.attn import interface as attention_interface
from mmmambavision.ops.scan import triton

from ..helpers import seeded
from ..helpers.compare import GOLDEN, relative_error

CASES = json.loads((GOLDEN / 'cases.json').read_text())
BACKENDS = [pytest.param(name, marks=pytest.mark.slow if name == 'triton' and triton.interpreted() else ())
            for name, reason in available_backends().items() if reason is None]


def run(name, backend):
    case = CASES[name]
    if backend == 'triton' and triton.interpreted() and (case['train'] or case['size'][0] > 100):
        pytest.skip('needs a GPU: takes minutes in the interpreter')
    model = MambaVision(case['arch'], window_size=case['window'], drop_path_rate=0., scan_backend=backend)
    seeded.fill(model.train(case['train']))
    x = torch.from_numpy(seeded.image(name, (case['batch'], 3, *case['size']))).float()
    if backend in ('triton', 'mamba_ssm') and torch.cuda.is_available():
        torch.backends.cudnn.allow_tf32 = False  # convolutions in float32, not in the ten bits that are the default
        model, x = model.cuda(), x.cuda()
    return model, [output.cpu() for output in model(x)], np.load(GOLDEN / f'{name}.npz')


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('name', CASES)
def test_outputs(name, backend):
    with torch.no_grad():
        _, outputs, golden = run(name, backend)
    for i, output in enumerate(outputs):
        assert list(output.shape) == golden[f'shape/{i}'].tolist()
        sample = output.flatten()[seeded.sample_index(output.numel())]
        assert relative_error(sample, golden[f'sample/{i}']) < 1e-5
        assert float(output.double().norm()) == pytest.approx(float(golden[f'norm/{i}']), rel=1e-5)


@pytest.mark.skipif(bool(attention_backends()['cpu'] or cpu.refuses(torch.empty(0))),
                    reason='the CPU kernel of attention does not run here')
@pytest.mark.parametrize('name', CASES)
def test_with_the_cpu_kernel_of_attention(name, monkeypatch):
    """Also on maps so small that torch's operator is the faster one."""
    monkeypatch.setenv('MMMAMBAVISION_ATTENTION', 'cpu')
    test_outputs(name, 'auto')
    if CASES[name]['train']:
        test_gradients(name, 'auto')


@pytest.mark.parametrize('name', [name for name in CASES if name.startswith('nano')])
def test_with_shifted_multiply_adds(name, monkeypatch):
    """In place of the depthwise convolution."""
    monkeypatch.setenv('MMMAMBAVISION_DEPTHWISE', 'shifted')
    test_outputs(name, 'auto')
    if CASES[name]['train']:
        test_gradients(name, 'auto')


@pytest.mark.parametrize('name', [name for name in CASES if name.startswith('nano')])
def test_with_padded_heads(name, monkeypatch):
    """As on CUDA those of large and large2, whose size 49 becomes 56: here from 32 to 40."""
    monkeypatch.setenv('MMMAMBAVISION_ATTENTION', 'torch')
    monkeypatch.setattr(attention_interface, 'runs_on_cuda', lambda q: True)
    monkeypatch.setattr(attention_interface, 'HEAD_MULTIPLE', 20)
    test_outputs(name, 'auto')
    if CASES[name]['train']:
        test_gradients(name, 'auto')


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('name', [name for name, case in CASES.items() if case['train']])
def test_gradients(name, backend):
    model, outputs, golden = run(name, backend)
    loss = sum((output * torch.from_numpy(seeded.cotangent(name, i, tuple(output.shape))).float()).sum()
               for i, output in enumerate(outputs))
    loss.backward()
    assert loss.item() == pytest.approx(float(golden['loss']), rel=1e-4)
    for key, parameter in model.named_parameters():
        sample = parameter.grad.cpu().flatten()[seeded.sample_index(parameter.numel(), 16)]
        # Before a batch norm in training mode: exactly 0, stored as noise.
        if key.endswith(('conv1.bias', 'conv2.bias')):
            assert sample.abs().max() < 1e-3, key
        else:
            assert relative_error(sample, golden[f'grad/{key}']) < 1e-4, key
            assert float(parameter.grad.double().norm()) == pytest.approx(float(golden[f'gradnorm/{key}']), rel=1e-4)
