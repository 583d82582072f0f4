"""The scan with mamba-ssm's kernel. It needs only the compiled module `selective_scan_cuda`, not the whole package."""
import importlib
import importlib.util

import torch
import torch.nn.functional as F

from . import chunked
from .operators import refusal

MODULE = 'selective_scan_cuda'
CUDA_CHUNK_STEPS = 2048  # steps of a chunk: mamba-ssm's kernel keeps the state of every chunk


def unavailable():
    """The reason why this implementation cannot run here, or None."""
    if not importlib.util.find_spec(MODULE):
        return f'its compiled module {MODULE} is not installed; mamba-ssm builds it with MAMBA_KEEP_CUDA_BUILD=TRUE'
    try:
        _kernel()
    except ImportError as error:
        return f'its compiled module {MODULE} cannot be imported: {error}'
    return None if torch.cuda.is_available() else 'it needs a GPU, and torch sees none'


def refuses(u):
    """The reason why this implementation cannot process an input, or None."""
    return refusal(u, u.device.type == 'cuda', 'a GPU')


def _kernel():
    return importlib.import_module(MODULE)


def _as_wanted(u, delta, A, B, C, D, delta_bias):
    """Inputs of the kernel: sequences contiguous along L, in the type of u; parameters in float32."""
    sequences = [t.to(u.dtype) for t in (u, delta, B, C)]
    u, delta, B, C = (t if t.stride(-1) == 1 else t.contiguous() for t in sequences)
    return (u, delta, A.float().contiguous(), B, C,
            *(None if t is None else t.float().contiguous() for t in (D, delta_bias)))


def kept_shape(u, A, B):
    """Shape of the states kept for the backward pass in the kernel's layout: (B, D, chunks, 2 N)."""
    return (*u.shape[:2], -(-u.shape[2] // CUDA_CHUNK_STEPS), 2 * A.shape[1])


def forward(u, delta, A, B, C, D, z, delta_bias, delta_softplus, keep):
    """See `make_operator`. The gate z is applied outside the kernel, because the kernel would keep two outputs for it.
    """
    u, delta, A, B, C, D, delta_bias = _as_wanted(u, delta, A, B, C, D, delta_bias)
    y, states = _kernel().fwd(u, delta, A, B, C, D, None, delta_bias, delta_softplus)
    last_state = states[:, :, -1, 1::2]
    return y if z is None else y * F.silu(z.float()), last_state, states if keep else states.new_empty(0)


def backward(dy, dlast, kept, u, delta, A, B, C, D, z, delta_bias, delta_softplus):
    """See `make_operator`. The kernel ignores the gradient of the last state; `chunked` adds its contribution."""
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
