"""Attention by its definition. All other implementations are tested against it."""
import torch


def attention_reference(q, k, v):
    """softmax(q k^T / sqrt(d)) v (Vaswani et al. 2017, eq. 1), in float32 or float64; see `attention`."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    weights = (q.to(dtype) @ k.to(dtype).mT / q.shape[-1] ** .5).softmax(-1)
    return (weights @ v.to(dtype)).to(q.dtype)
