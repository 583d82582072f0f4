"""Implementations as custom operators of torch, so that compilation, export and FLOP counters see one operation.

An operator takes (u, delta, A, B, C, D, z, delta_bias, delta_softplus) with B and C as (B, G, N, L). It returns
y (B, D, L) in the type of u, the last state (B, D, N), and the states that its backward pass needs besides the inputs.
"""
import math
from contextlib import nullcontext
from typing import List, Optional, Tuple  # torch before 2.7 does not support list and tuple

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from ..transforms import is_observed

NAMESPACE = 'mmmambavision'
SEQUENCES = (0, 1, 6)  # positions of u, delta and z among the inputs, all (B, D, L)


def like(tensor):
    """New channels-last tensor with the shape and type of `tensor`, (B, D, L)."""
    return tensor.new_empty(tensor.shape[0], tensor.shape[2], tensor.shape[1]).transpose(1, 2)


def make_operator(name, implementation):
    """Make a custom operator from the functions `forward`, `backward` and `kept_shape` of a module.

    Args:
        name: the implementation's name; the operators are `selective_scan_<name>` and `..._backward`.
        implementation: the module.

    Functions of the module:
        forward: (inputs..., delta_softplus, keep) to (y, last_state, kept). y has any type and layout. Without `keep`,
            kept is empty, (0,).
        backward: (dy, dlast_state, kept, inputs..., delta_softplus) to the gradients of the eight inputs. For inputs
            that are None, any value. dlast_state is None if nothing depends on the last state.
        kept_shape: (u, A, B) to the shape of `kept`. `kept` is stored flat between forward and backward pass, because
            exported graphs must accept any length, and torch specialises graphs for sizes of 1.

    Returns:
        The operator, called as (inputs..., delta_softplus), returning (y, last_state).
    """
    forward, backward, kept_shape = implementation.forward, implementation.backward, implementation.kept_shape

    def run(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Optional[Tensor], z: Optional[Tensor],
            delta_bias: Optional[Tensor], delta_softplus: bool, keep: bool) -> Tuple[Tensor, Tensor, Tensor]:
        with _as_it_is(u):
            y, last_state, kept = forward(*_detached(u, delta, A, B, C, D, z, delta_bias), delta_softplus, keep)
        return laid_out(y.to(u.dtype)), last_state.contiguous(), kept.flatten()

    operator = torch.library.custom_op(f'{NAMESPACE}::selective_scan_{name}', mutates_args=())(run)

    @operator.register_fake
    def _(u, delta, A, B, C, D, z, delta_bias, delta_softplus, keep):
        state_type = torch.promote_types(u.dtype, torch.float32)
        return (like(u), u.new_empty(*u.shape[:2], A.shape[1], dtype=state_type),
                u.new_empty(math.prod(kept_shape(u, A, B)) if keep else 0, dtype=state_type))

    @register_flop_formula(getattr(getattr(torch.ops, NAMESPACE), f'selective_scan_{name}'))
    def _(u, delta, A, *rest, out_shape=None, **options):
        # A multiply-add counts as 2. 3 per state: decay, input, output. 2 per step: step times input, D times input.
        batch, channels, length = u
        return 2 * batch * channels * length * (3 * A[1] + 2)

    def run_backward(dy: Tensor, dlast: Optional[Tensor], kept: Tensor, u: Tensor, delta: Tensor, A: Tensor, B: Tensor,
                     C: Tensor, D: Optional[Tensor], z: Optional[Tensor], delta_bias: Optional[Tensor],
                     delta_softplus: bool) -> List[Tensor]:
        dy, dlast, kept, *inputs = _detached(dy, dlast, kept, u, delta, A, B, C, D, z, delta_bias)
        with _as_it_is(u):
            gradients = backward(dy, dlast, kept.view(kept_shape(u, A, B)), *inputs, delta_softplus)
        return [dy.new_empty(0) if value is None else
                (laid_out(gradient) if i in SEQUENCES else gradient.contiguous()).to(value.dtype)
                for i, (gradient, value) in enumerate(zip(gradients, inputs, strict=True))]

    operator_backward = torch.library.custom_op(
        f'{NAMESPACE}::selective_scan_{name}_backward', mutates_args=())(run_backward)

    @operator_backward.register_fake
    def _(dy, dlast, kept, u, delta, A, B, C, D, z, delta_bias, delta_softplus):
        return [dy.new_empty(0) if value is None else like(value) if i in SEQUENCES else value.new_empty(value.shape)
                for i, value in enumerate((u, delta, A, B, C, D, z, delta_bias))]

    def setup_context(ctx, inputs, output):
        *tensors, ctx.delta_softplus, _ = inputs
        ctx.save_for_backward(output[2], *tensors)
        ctx.set_materialize_grads(False)

    def gradients_by(function, ctx, dy, dlast):
        kept, *inputs = ctx.saved_tensors
        dy = torch.zeros_like(inputs[0]) if dy is None else dy
        gradients = function(dy, dlast, kept, *inputs, ctx.delta_softplus)
        return *(None if value is None else gradient for gradient, value in zip(gradients, inputs)), None, None

    def differentiate(ctx, dy, dlast, _):
        return gradients_by(operator_backward, ctx, dy, dlast)

    def differentiate_again(ctx, *_):
        raise NotImplementedError(f"selective_scan's backend '{name}' has no second derivatives. Use "
                                  "backend='reference' (for a model: scan_backend='reference', inside "
                                  'torch.nn.attention.sdpa_kernel(SDPBackend.MATH))')

    operator.register_autograd(differentiate, setup_context=setup_context)
    operator_backward.register_autograd(differentiate_again)

    class Gradients(torch.autograd.Function):
        """`run_backward`, which cannot be differentiated."""

        @staticmethod
        def forward(ctx, *arguments):
            return tuple(run_backward(*arguments))

        backward = staticmethod(differentiate_again)

    class Scan(torch.autograd.Function):
        """`run` without torch's wrappers of a custom operator, which take longer than our own code."""

        @staticmethod
        def forward(ctx, *arguments):
            outputs = run(*arguments)
            setup_context(ctx, arguments, outputs)
            return outputs[:2]

        @staticmethod
        def backward(ctx, dy, dlast):
            # Autograd is enabled here only for second derivatives.
            return gradients_by(Gradients.apply if torch.is_grad_enabled() else run_backward, ctx, dy, dlast)

    def call(*arguments):
        keep = torch.is_grad_enabled() and any(isinstance(a, Tensor) and a.requires_grad for a in arguments)
        if is_observed(arguments):
            return operator(*arguments, keep)[:2]
        return Scan.apply(*arguments, keep) if keep else run(*arguments, keep)[:2]

    return call


def refusal(u, fits, where):
    """The reason why an implementation on the device `where`, in float32, cannot process u, or None.

    `fits` says whether u is on this device.
    """
    if not fits:
        return f'it runs on {where}, the input is on {u.device}'
    return 'it computes in float32, the input is float64' if u.dtype == torch.float64 else None


def laid_out(tensor):
    """A (B, D, L) tensor in channels-last memory. It is copied only if its layout differs."""
    return tensor if tensor.transpose(1, 2).is_contiguous() else like(tensor).copy_(tensor)


def _as_it_is(u):
    """Context without autocast, because each implementation chooses its own type."""
    kind = u.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def _detached(*values):
    return [None if value is None else value.detach() for value in values]
