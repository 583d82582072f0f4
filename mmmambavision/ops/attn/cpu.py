"""Attention on a CPU. numba compiles the kernels at first use. They run in torch's number of threads.

The forward pass computes in float32. On CPUs with AVX512-BF16, it can also multiply in bfloat16 with sums in float32.
The backward pass computes in float32.
"""
import math
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F

from ..compiled import in_parallel, load_kernels, unavailable


@cache
def features():
    """The CPU's features by LLVM's names. The environment variable NUMBA_CPU_FEATURES can turn features off."""
    if unavailable():
        return {}
    from llvmlite import binding
    from numba.core import config
    if config.CPU_FEATURES is None:
        return dict(binding.get_host_cpu_features())
    return {name[1:]: name[0] == '+' for name in config.CPU_FEATURES.split(',') if name}


@torch.compiler.assume_constant_result  # torch.compile cannot trace imports
def has(feature):
    """Whether the CPU has a feature, by LLVM's name."""
    return features().get(feature, False)


@torch.compiler.assume_constant_result
def fewest_keys():
    """Number of keys from which our kernels are faster than torch's, measured by tools/benchmarks/attention.py.

    torch multiplies matrices through MKL, which uses a slower code path on AMD CPUs. Without AVX-512, vectors are half
    as long, and our kernels are slower.
    """
    if not _is_amds():
        return 2048
    return 512 if has('avx512f') else 1050


@cache
def _is_amds():
    if unavailable():
        return False
    from llvmlite import binding
    return binding.get_host_cpu_name().startswith('zn')


def refuses(q):
    """The reason why this implementation cannot process queries, or None."""
    if q.device.type != 'cpu':
        return f'it runs on the CPU, the input is on {q.device}'
    if not (has('avx512f') or (has('avx2') and has('fma'))):
        return 'it needs a CPU with AVX2 or AVX-512'
    if q.dtype == torch.bfloat16 and not has('avx512bf16'):
        return 'for bfloat16 it needs a CPU with AVX512-BF16'
    if q.dtype not in (torch.float32, torch.bfloat16):
        return f'it computes in float32 and bfloat16, the input is {q.dtype}'
    return None


def is_faster(q, k):
    """Whether this implementation is faster than torch's, for queries that it accepts. torch uses AMX for bfloat16."""
    return k.shape[2] >= fewest_keys() and not (q.dtype == torch.bfloat16 and has('amx-bf16'))


@cache
def _kernels():
    return load_kernels(f'{__package__}.cpu_kernels', _run_once)


def _run_once(kernels):
    q = torch.ones(1, 1, 2, 2, dtype=torch.float32)  # explicit, because users can change the default type
    out, lse = _forward(kernels, q, q, q)
    _backward(kernels, out, q, q, q, out, lse)
    if has('avx512bf16'):
        _forward(kernels, *[q.bfloat16()] * 3)


def _in_one_piece(tensor, rows, columns, last_again=False):
    """(B, heads, L, d) to contiguous (B heads, L', d').

    L is padded to a multiple of `rows` with zeros or copies of the last row, d to a multiple of `columns` with zeros.
    """
    if missing := -tensor.shape[2] % rows:
        more = tensor[:, :, -1:].expand(-1, -1, missing, -1)
        tensor = torch.cat([tensor, more if last_again else torch.zeros_like(more)], 2)
    if missing := -tensor.shape[3] % columns:
        tensor = F.pad(tensor, (0, missing))
    return tensor.reshape(-1, *tensor.shape[2:]).contiguous()


def _empty(*shape):
    return torch.empty(shape, dtype=torch.float32)


def _scale(dim):
    return np.float32(math.log2(math.e) / math.sqrt(dim))


def forward(q, k, v):
    """Attention of q, k, v (B, heads, queries or keys, d).

    Returns:
        The outputs in float32, and lse (B, heads, queries): log2 of the sum of 2^score.
    """
    return _forward(_kernels(), q, k, v)


def _forward(kernels, q, k, v):
    batch, heads, queries, dim = q.shape
    keys, is_bfloat16 = k.shape[2], q.dtype == torch.bfloat16
    q, k = _in_one_piece(q, 1, 2), _in_one_piece(k, kernels.ROWS, 2, last_again=True)
    v = _in_one_piece(v, kernels.ROWS, kernels.ROWS)
    if is_bfloat16:
        v = v.unflatten(1, (-1, 2)).transpose(2, 3).flatten(2)  # interleaves the values of two keys
        q, k, v = (tensor.view(torch.int32) for tensor in (q, k, v))
    out, lse = _empty(batch, queries, heads, dim), _empty(batch * heads, queries)
    in_parallel(kernels.forward, batch * heads * -(-queries // kernels.TILE), q.numpy(), k.numpy(), v.numpy(), keys,
                _scale(dim), out.numpy(), lse.numpy(), True if is_bfloat16 else None)
    return out.transpose(1, 2), lse.view(batch, heads, queries)


def backward(dout, q, k, v, out, lse):
    """Gradients of q, k and v in float32 from the gradient of the outputs."""
    return _backward(_kernels(), dout, q, k, v, out, lse)


def _backward(kernels, dout, q, k, v, out, lse):
    batch, heads, queries, dim = q.shape
    keys, scale = k.shape[2], _scale(dim)
    dout, q, k, v = (tensor.float() for tensor in (dout, q, k, v))
    D = (dout * out.float()).sum(-1).flatten(0, 1).numpy()  # D in the paper's algorithm 4
    lse = lse.flatten(0, 1).contiguous().numpy()
    dout, q, k, v = (_in_one_piece(tensor, kernels.ROWS, kernels.ROWS) for tensor in (dout, q, k, v))
    dq = _empty(batch * heads, -(-dim // kernels.TILE), q.shape[1], kernels.TILE).zero_()
    dk, dv = (_empty(batch, keys, heads, dim) for _ in range(2))
    in_parallel(kernels.backward, batch * heads, q.numpy(), k.numpy(), v.numpy(), dout.numpy(), queries, keys, scale,
                lse, D, dq.numpy(), dk.numpy(), dv.numpy())
    dq = dq.view(batch, heads, *dq.shape[1:]).permute(0, 3, 1, 2, 4).flatten(3)[:, :queries, :, :dim]
    return ((dq / math.sqrt(dim)).transpose(1, 2), *(gradient.transpose(1, 2) for gradient in (dk, dv)))
