"""The public function `attention`, its implementations, and the choice among them."""
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ...errors import UserError
from ..registry import Backend, Operator
from ..transforms import is_exporting, under_functional_transform
from . import cpu
from .operators import attention_cpu
from .reference import attention_reference

# In order of preference. On recent GPUs, torch prefers cuDNN. cuDNN builds a plan for every new number of tokens, which
# takes about a second. Training on images of many sizes would wait for hundreds of plans.
KERNELS_ON_CUDA = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
# For float32 there is only the memory-efficient kernel, and it reads 16 bytes at a time. For other head sizes, such as
# 49 in large and large2, torch would use the plain kernel. It stores all scores: 10 GB for an image of 12544 tokens.
HEAD_MULTIPLE = 8


def attention_torch(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`scaled_dot_product_attention`. On CUDA, heads are padded to a multiple of 8, and cuDNN's kernel is excluded if
    the caller has not selected kernels."""
    missing = -q.shape[-1] % HEAD_MULTIPLE
    if not runs_on_cuda(q) or not missing or is_exporting() or torch.jit.is_tracing():
        return attention_of_torchs_choice(q, k, v)
    padded = (F.pad(t, (0, missing)) for t in (q, k, v))  # zeros change no score; padded outputs are removed below
    return attention_of_torchs_choice(*padded, scale=q.shape[-1] ** -.5)[..., :q.shape[-1]]


def runs_on_cuda(q: Tensor) -> bool:
    return q.is_cuda


def attention_of_torchs_choice(q: Tensor, k: Tensor, v: Tensor, **scale: Any) -> Tensor:
    enabled = torch.backends.cuda
    if not runs_on_cuda(q) or torch.compiler.is_compiling() or not (
            enabled.flash_sdp_enabled() and enabled.mem_efficient_sdp_enabled() and enabled.math_sdp_enabled()
            and enabled.cudnn_sdp_enabled()):
        return F.scaled_dot_product_attention(q, k, v, **scale)
    with sdpa_kernel(KERNELS_ON_CUDA, set_priority=True):
        return F.scaled_dot_product_attention(q, k, v, **scale)


def _is_faster(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether 'auto' uses our kernel, for inputs that it accepts."""
    # Exported graphs keep torch's operator. If a user has disabled the flash kernel, for example because it has no
    # second derivatives, our kernel is not used either.
    if (is_exporting() or torch.jit.is_tracing() or under_functional_transform()
            or not (torch.compiler.is_compiling() or torch.backends.cuda.flash_sdp_enabled())):
        return False
    # If autocast changes types, use torch's operator, which follows autocast.
    return (0 not in q.shape and cpu.is_faster(q, k) and q.dtype == k.dtype == v.dtype
            and not (torch.is_autocast_enabled('cpu') and q.dtype != torch.get_autocast_dtype('cpu')))


BACKENDS = {
    'reference': Backend(attention_reference),
    'torch': Backend(attention_torch),
    'cpu': Backend(lambda q, k, v: attention_cpu(q, k, v)[0], cpu.unavailable, lambda q, k, v: cpu.refuses(q),
                   _is_faster),
}
ATTENTION = Operator('attention', 'attention', BACKENDS, ('cpu', 'torch'))
available_backends = ATTENTION.available


def attention(q: Tensor, k: Tensor, v: Tensor, backend: str = 'auto') -> Tensor:
    """softmax(q k^T / sqrt(d)) v, without mask or dropout (Vaswani et al. 2017, arXiv 1706.03762, eq. 1).

    Args:
        q: queries [B, heads, L, d], of any strides.
        k, v: keys and values [B, heads, M, d], in the type of q.
        backend: 'reference': the definition. 'torch': `scaled_dot_product_attention`. 'cpu': compiled by numba, first
            derivatives only. 'auto': the name from `ops.backend(attention=...)` or from the environment variable
            MMMAMBAVISION_ATTENTION; without them, 'cpu' if it is faster, otherwise 'torch'.

    Returns:
        [B, heads, L, d] in the type of q. On a CPU, the heads of a token are contiguous in memory.

    Raises:
        UserError: (a ValueError) the backend is unknown or cannot run on this input.
    """
    name = ATTENTION.asked_for(backend)
    if name == 'auto':
        name = ATTENTION.best(q, k, v)
    if name == 'cpu':
        ATTENTION.require(name, q, k, v)
        _check_shapes(q, k, v)
        if 0 in q.shape:  # kernels cannot run on empty inputs, and torch's backward pass crashes on them
            name = 'reference'
    return BACKENDS[name].run(q, k, v)


def _check_shapes(q: Tensor, k: Tensor, v: Tensor) -> None:
    fit = q.dim() == 4 and k.shape == v.shape == (*q.shape[:2], *k.shape[2:3], q.shape[3]) and k.shape[2] > 0
    if not fit or not q.dtype == k.dtype == v.dtype:
        raise UserError('attention needs q (B, heads, L, d) and k and v (B, heads, M, d) of the same type, got '
                        + ', '.join(f'{tuple(t.shape)} {t.dtype}' for t in (q, k, v)))
