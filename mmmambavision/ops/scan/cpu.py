"""The scan on a CPU. numba compiles the kernels at first use. They run in torch's number of threads."""
from functools import cache, partial

import torch

from ..compiled import in_parallel, load_kernels, unavailable
from .operators import refusal

# Users can change torch's default type, so the type is explicit.
_empty, _zeros, _ones = (partial(new, dtype=torch.float32) for new in (torch.empty, torch.zeros, torch.ones))
__all__ = ['backward', 'forward', 'kept_shape', 'refuses', 'unavailable']


def refuses(u):
    """The reason why this implementation cannot process an input, or None."""
    return refusal(u, u.device.type == 'cpu', 'the CPU')


@cache
def _kernels():
    return load_kernels(f'{__package__}.cpu_kernels', _run_once)


def _run_once(cpu_kernels):
    length = cpu_kernels.KEPT_EVERY + 1
    u = _ones(1, length, 2).transpose(1, 2)  # not random, because this would change the user's random numbers
    rates, weights = -_ones(2, 2), _ones(1, 1, length, 2).transpose(2, 3)
    inputs = (u, u, rates, weights, weights, rates[0], u, rates[0], True)
    y, last_state, kept = _run_forward(cpu_kernels, *inputs, True)
    _run_backward(cpu_kernels, y, last_state, kept, *inputs)


def _flat(tensor):
    """A float32 tensor's memory as a flat array, and its strides."""
    tensor = tensor.float()
    extent = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride()))
    return tensor.as_strided((extent,), (1,)).numpy(), tensor.stride()


def _sequence(tensor):
    """A (B, D, L) tensor as a flat array, and its strides (batch, time, channel)."""
    values, strides = _flat(tensor)
    return values, (strides[0], strides[2], strides[1])


def _weights(tensor):
    """(B, G, N, L) as a flat array with the N states contiguous, its strides (batch, time, group), and G."""
    tensor = tensor.transpose(2, 3)
    values, strides = _flat(tensor if tensor.stride(3) == 1 else tensor.contiguous())
    return values, (strides[0], strides[2], strides[1], tensor.shape[1])


def _arguments(u, delta, A, B, C, D, z, delta_bias, delta_softplus):
    """The number of tasks, and the arguments of both kernels after the range of tasks."""
    channels, length = u.shape[1:]
    batch, blocks = kept_shape(u, A, B)[:2]
    zeros = _zeros(channels)
    # Copies, because `numpy()` forbids torch to resize a tensor's storage, and sharded training resizes parameters.
    rates = A.to(torch.float32, copy=True).contiguous().numpy()
    vector = [(zeros if value is None else value.to(torch.float32, copy=True).contiguous()).numpy()
              for value in (D, delta_bias)]
    return batch * blocks, (blocks, *_sequence(u), *_sequence(delta), rates, *_weights(B),
                            *_weights(C), vector[0], *_sequence(u if z is None else z), vector[1], z is not None,
                            delta_softplus, length)


def kept_shape(u, A, B):
    """Shape of the states kept for the backward pass: (B, blocks, chunks, N, WIDTH)."""
    from .cpu_kernels import KEPT_EVERY, WIDTH
    groups = B.shape[1]
    return (u.shape[0], groups * -(-(u.shape[1] // groups) // WIDTH), -(-u.shape[2] // KEPT_EVERY), A.shape[1], WIDTH)


def _run_forward(kernels, u, delta, A, B, C, D, z, delta_bias, delta_softplus, keep):
    tasks, arguments = _arguments(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    y = _empty(u.shape[0], u.shape[2], u.shape[1])
    last_state = _empty(*u.shape[:2], A.shape[1])
    kept = _empty(kept_shape(u, A, B) if keep else (0,) * 5)
    in_parallel(kernels.forward, tasks, *arguments, y.view(-1).numpy(), kept.numpy(), keep, last_state.numpy())
    return y.transpose(1, 2), last_state, kept if keep else kept.flatten()


def _run_backward(kernels, dy, dlast, kept, u, delta, A, B, C, D, z, delta_bias, delta_softplus):
    tasks, arguments = _arguments(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    batch, channels, length = u.shape
    groups, states = B.shape[1:3]
    blocks = kept.shape[1]
    du, ddelta, dz = (_empty(batch, length, channels).transpose(1, 2) for _ in range(3))
    dA, dD, dbias = _empty(batch, channels, states), _empty(batch, channels), _empty(batch, channels)
    dB, dC = _empty(batch, blocks, length, states), _empty(batch, blocks, length, states)
    dlast = _zeros(batch, channels, states) if dlast is None else dlast.float().contiguous()
    flat = [t.transpose(1, 2).reshape(-1).numpy() for t in (dy.float(), du, ddelta, dz)]
    in_parallel(kernels.backward, tasks, *arguments, kept.numpy(), flat[0], dlast.numpy(), *flat[1:],
                 *(t.numpy() for t in (dA, dB, dC, dD, dbias)))
    dB, dC = (t.view(batch, groups, -1, length, states).sum(2).transpose(2, 3).contiguous() for t in (dB, dC))
    return du, ddelta, dA.sum(0), dB, dC, dD.sum(0), dz, dbias.sum(0)


def forward(*arguments):
    return _run_forward(_kernels(), *arguments)


def backward(*arguments):
    return _run_backward(_kernels(), *arguments)
