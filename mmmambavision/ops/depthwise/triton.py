"""Depthwise convolution and SiLU in one kernel. The triton that comes with torch compiles it at first use.

cuDNN is slow for depthwise convolutions in float16, builds a plan for every new length, and needs a second kernel for
SiLU. This kernel has not been measured on a GPU yet.
"""
import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from ..scan.operators import NAMESPACE, refusal
from ..scan.triton import interpreted, unavailable

__all__ = ['forward', 'refuses', 'unavailable']

TILE = dict(TIME=16, WIDTH=64, num_warps=4, num_stages=1)
TILES = 4  # tiles of a program in the backward pass; a program writes one sum for each weight


def refuses(x):
    """The reason why this implementation cannot process an input, or None."""
    return refusal(x, x.device.type == 'cuda' or (interpreted() and x.device.type == 'cpu'), 'a GPU')


def _launch(kernel, tiles, x, weight, *tensors, **strides):
    """Launch a kernel whose programs process `tiles` tiles along the time axis each.

    `tensors` are functions that make the other tensors from the number of programs.
    """
    batch, length, channels = x.shape
    blocks = -(-length // (TILE['TIME'] * tiles))
    made = [make(batch * blocks) for make in tensors]
    with torch.cuda.device_of(x):
        kernel[batch * blocks, -(-channels // TILE['WIDTH'])](
            x, weight.contiguous(), *made, *x.stride(), channels=channels, length=length, blocks=blocks, **strides,
            **TILE)
    return made


@torch.library.custom_op(f'{NAMESPACE}::depthwise_silu_triton', mutates_args=())
def forward(x: Tensor, weight: Tensor) -> Tensor:
    from .triton_kernels import depthwise_silu_fwd_kernel
    y, = _launch(depthwise_silu_fwd_kernel, 1, x.detach(), weight.detach(), lambda _: x.new_empty(x.shape))
    return y


@torch.library.custom_op(f'{NAMESPACE}::depthwise_silu_triton_backward', mutates_args=())
def backward(dy: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    from .triton_kernels import depthwise_silu_bwd_kernel
    dy = dy.detach()
    _, dx, sums = _launch(
        depthwise_silu_bwd_kernel, TILES, x.detach(), weight.detach(), lambda _: dy, lambda _: x.new_empty(x.shape),
        lambda programs: x.new_empty(programs, 3, x.shape[2], dtype=torch.float32), dy_b=dy.stride(0),
        dy_t=dy.stride(1), dy_c=dy.stride(2), TILES=TILES)
    return dx, sums.sum(0).t().unsqueeze(1).contiguous().to(weight.dtype)


@forward.register_fake
def _(x, weight):
    return x.new_empty(x.shape)


@backward.register_fake
def _(dy, x, weight):
    return x.new_empty(x.shape), weight.new_empty(weight.shape)


@register_flop_formula(getattr(torch.ops, NAMESPACE).depthwise_silu_triton)
def _(x, weight, out_shape=None, **options):
    return 2 * 3 * x[0] * x[1] * x[2]  # FLOPs of the convolution; a multiply-add counts as 2


def _save(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _differentiate_again(ctx, *_):
    raise NotImplementedError("depthwise_silu's backend 'triton' has no second derivatives. Use backend='torch' (for a "
                              'model: MMMAMBAVISION_DEPTHWISE=torch)')


forward.register_autograd(lambda ctx, dy: backward(dy, *ctx.saved_tensors), setup_context=_save)
backward.register_autograd(_differentiate_again)
