"""Comparisons of outputs, gradients and whole trainings."""
import json
from pathlib import Path

import numpy as np
import torch

from mmmambavision.checkpoints.files import read_checkpoint

DATA = Path(__file__).parents[1] / 'data'
GOLDEN = DATA / 'golden'


def relative_error(actual, expected):
    actual, expected = (np.asarray(a, dtype=np.float64) for a in (actual, expected))
    return np.linalg.norm(actual - expected) / np.linalg.norm(expected)


def gradients_and_buffers(model, x, run=None):
    model.zero_grad()
    sum(output.sin().sum() for output in (model if run is None else run)(x)).backward()
    return ({name: p.grad.clone() for name, p in model.named_parameters()},
            {name: b.clone() for name, b in model.named_buffers()})


def assert_same(actual, expected):
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        difference = (actual[name] - value).float().norm()
        if name.endswith(('conv1.bias', 'conv2.bias')):  # before a batch norm: 0, but for rounding
            assert difference < 1e-2, name
        else:
            assert difference <= 1e-3 * value.float().norm(), name


def losses(work_dir):
    """Log records of all runs in a work dir, without times. The last record of each iteration."""
    found = {}
    for log in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in log.read_text().splitlines():
            entry = json.loads(line)
            if 'loss' in entry:
                found[entry['step']] = json.dumps({k: v for k, v in entry.items() if k not in ('time', 'data_time')})
    return [found[step] for step in sorted(found)]


def weights(checkpoint):
    """Weights and optimizer state as a list of (name, tensor)."""
    contents = read_checkpoint(checkpoint)
    state = contents['optimizer']['state']
    return [*contents['state_dict'].items(), *((f'{i}.{k}', v) for i, s in state.items() for k, v in s.items())]


def assert_same_weights(checkpoint, other):
    mine, others = weights(checkpoint), weights(other)
    assert len(mine) == len(others) > 300
    for (key, value), (other_key, other_value) in zip(mine, others):
        assert key == other_key and torch.equal(value, other_value), key


def assert_same_training(work_dir, other, name):
    """Assert that two runs have the same losses and final weights."""
    assert len(losses(other)) == 12 and losses(work_dir) == losses(other)
    assert_same_weights(work_dir / name, other / name)


def check(got, expected, rtol=1e-5):
    """Equal integers, or numbers that differ by no more than rtol of the largest."""
    got, expected = got.cpu(), expected.cpu()
    assert got.shape == expected.shape
    if expected.dtype.is_floating_point:
        scale = expected.abs().max().item() if expected.numel() else 0
        torch.testing.assert_close(got.double(), expected.double(), rtol=0, atol=rtol * scale)
    else:
        assert torch.equal(got, expected)


def check_gradients(function, definition, inputs, rtol=1e-5):
    """A function's float32 values, and gradients for a random one, against those of a definition in float64."""
    single = [tensor.clone().requires_grad_() for tensor in inputs]
    double = [tensor.double().requires_grad_() for tensor in inputs]
    got, expected = function(*single), definition(*double)
    check(got, expected, rtol)
    gradient = torch.randn_like(expected)
    got.backward(gradient.to(got.dtype))
    expected.backward(gradient)
    for one, other in zip(single, double):
        check(one.grad, other.grad, rtol)
