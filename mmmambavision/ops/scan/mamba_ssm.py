"""The scan by mamba-ssm's kernel: its compiled module `selective_scan_cuda` by itself, without the package
around it."""
import importlib
import importlib.util

import torch
import torch.nn.functional as F

from . import chunked
from .operators import refusal

MODULE = 'selective_scan_cuda'
CUDA_CHUNK_STEPS = 2048  # of that kernel: states are kept before every so many steps


def unavailable():
    """Why this implementation cannot run here, or None."""
    if not importlib.util.find_spec(MODULE):
        return f'its compiled module {MODULE} is not installed; mamba-ssm builds it with MAMBA_KEEP_CUDA_BUILD=TRUE'
    try:
        _kernel()
    except ImportError as error:
        return f'its compiled module {MODULE} does not load: {error}'
    return None if torch.cuda.is_available() else 'it needs a GPU, and torch sees none'


def refuses(u):
    """Why this implementation cannot take an input, or None."""
    return refusal(u, u.device.type == 'cuda', 'a GPU')


def _kernel():
    return importlib.import_module(MODULE)


def _as_wanted(u, delta, A, B, C, D, delta_bias):
    """Inputs of the kernel: sequences next to each other in memory, in the type of u; parameters in float32."""
    sequences = [t.to(u.dtype) for t in (u, delta, B, C)]
    u, delta, B, C = (t if t.stride(-1) == 1 else t.contiguous() for t in sequences)
    return (u, delta, A.float().contiguous(), B, C,
            *(None if t is None else t.float().contiguous() for t in (D, delta_bias)))


def kept_shape(u, A, B):
    """Shape of the states kept for the backward pass, (B, D, chunks, 2 N), as the kernel lays them out."""
    return (*u.shape[:2], -(-u.shape[2] // CUDA_CHUNK_STEPS), 2 * A.shape[1])


def forward(u, delta, A, B, C, D, z, delta_bias, delta_softplus, keep):
    """As `make_operator` wants it. The gate z is applied outside: the kernel would keep two outputs for it."""
    u, delta, A, B, C, D, delta_bias = _as_wanted(u, delta, A, B, C, D, delta_bias)
    y, states = _kernel().fwd(u, delta, A, B, C, D, None, delta_bias, delta_softplus)
    last_state = states[:, :, -1, 1::2]
    return y if z is None else y * F.silu(z.float()), last_state, states if keep else states.new_empty(0)


def backward(dy, dlast, kept, u, delta, A, B, C, D, z, delta_bias, delta_softplus):
    """As `make_operator` wants it; `chunked` adds what depends on the last state, which the kernel leaves out."""
    inputs = u, delta, A, B, C, D, z, delta_bias
    u, delta, A, B, C, D, delta_bias = _as_wanted(u, delta, A, B, C, D, delta_bias)
    dz = None
    if z is not None:
        y, _ = _kernel().fwd(u, delta, A, B, C, D, None, delta_bias, delta_softplus)
        z = z.float()
        gate = torch.sigmoid(z)
        dz = dy * y * gate * (1 + z * (1 - gate))
        dy = dy * z * gate
    dy = dy.to(u.dtype)
    du, ddelta, dA, dB, dC, dD, dbias = _kernel().bwd(
        u, delta, A, B, C, D, None, delta_bias, dy if dy.stride(-1) == 1 else dy.contiguous(), kept, None, None,
        delta_softplus, False)[:7]
    gradients = [du, ddelta, dA, dB, dC, dD, dz, dbias]
    if dlast is not None:
        more = chunked.backward(torch.zeros_like(dy), dlast, None, *inputs, delta_softplus)
        gradients = [ours if ours is None or theirs is None else ours + theirs for ours, theirs in zip(gradients, more)]
    return gradients
