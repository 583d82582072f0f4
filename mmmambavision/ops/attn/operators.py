"""Attention on a CPU as a custom operator of torch, so that compilation and FLOP counters see one operation."""
from typing import Tuple  # torch before 2.7 does not support tuple

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula, sdpa_backward_flop_count, sdpa_flop_count

from . import cpu


@torch.library.custom_op('mmmambavision::attention_cpu', mutates_args=())
def attention_cpu(q: Tensor, k: Tensor, v: Tensor) -> Tuple[Tensor, Tensor]:
    """Outputs with the shape and type of q and contiguous heads, and lse (B, heads, queries)."""
    out, lse = cpu.forward(q.detach(), k.detach(), v.detach())
    return out.to(q.dtype), lse


@attention_cpu.register_fake
def _(q, k, v):
    return _like(q), q.new_empty(q.shape[:3], dtype=torch.float32)


@torch.library.custom_op('mmmambavision::attention_cpu_backward', mutates_args=())
def attention_cpu_backward(dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor,
                           lse: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
    dq, dk, dv = cpu.backward(*(tensor.detach() for tensor in (dout, q, k, v, out, lse)))
    return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype)


@attention_cpu_backward.register_fake
def _(dout, q, k, v, out, lse):
    return _like(q), _like(k), _like(v)


def _like(tensor):
    batch, heads, length, dim = tensor.shape
    return tensor.new_empty(batch, length, heads, dim).transpose(1, 2)


def _setup_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs, *output)
    ctx.set_materialize_grads(False)


def _differentiate(ctx, dout, dlse):
    if dout is None:
        return None, None, None
    return attention_cpu_backward(dout, *ctx.saved_tensors)


def _differentiate_again(ctx, *_):
    raise NotImplementedError("attention's backend 'cpu' has no second derivatives. Set the environment variable "
                              'MMMAMBAVISION_ATTENTION=reference')


attention_cpu.register_autograd(_differentiate, setup_context=_setup_context)
attention_cpu_backward.register_autograd(_differentiate_again)


@register_flop_formula(torch.ops.mmmambavision.attention_cpu)
def _(q, k, v, *_, out_shape=None, **options):
    return sdpa_flop_count(q, k, v)


@register_flop_formula(torch.ops.mmmambavision.attention_cpu_backward)
def _(dout, q, k, v, *_, out_shape=None, **options):
    return sdpa_backward_flop_count(dout, q, k, v)
