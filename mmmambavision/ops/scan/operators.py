"""Implementations as custom operators of torch, so that compilation, export and FLOP counters see one operation.

An operator takes (u, delta, A, B, C, D, z, delta_bias, delta_softplus) with B and C as (B, G, N, L), and returns
y (B, D, L) in the type of u, the last state (B, D, N) and what its backward pass needs besides the inputs.
"""
import math
from contextlib import nullcontext
from typing import List, Optional, Tuple  # torch before 2.7 reads no others

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from ..transforms import is_observed

NAMESPACE = 'mmmambavision'
SEQUENCES = (0, 1, 6)  # positions of u, delta and z among the inputs, all (B, D, L)


def like(tensor):
    """New tensor shaped and typed as (B, D, L) `tensor`, channels next to each other in memory."""
    return tensor.new_empty(tensor.shape[0], tensor.shape[2], tensor.shape[1]).transpose(1, 2)


def make_operator(name, implementation):
    """Make a custom operator of a module's functions `forward`, `backward` and `kept_shape`.

    Args:
        name: the implementation's name; the operators are `selective_scan_<name>` and `..._backward`.
        implementation: the module.

    Functions of the module:
        forward: (inputs..., delta_softplus, keep) to (y, last_state, kept), y in any type and layout; kept is empty,
            (0,), unless `keep`.
        backward: (dy, dlast_state, kept, inputs..., delta_softplus) to gradients of the eight inputs; anything for
            those that are None. dlast_state is None where nothing depends on the last state.
        kept_shape: (u, A, B) to the shape of `kept`. Between forward and backward pass it lies flat: exported graphs
            serve any length, and torch tells apart shapes with a 1 in them.

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
        # A multiply-add is two: decay and input of each state, its part of the output; step x input and D.
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
        raise NotImplementedError(f"selective_scan's backend '{name}' has no second derivatives: backend='reference' "
                                  "(of a model: scan_backend='reference', under "
                                  'torch.nn.attention.sdpa_kernel(SDPBackend.MATH)) has them')

    operator.register_autograd(differentiate, setup_context=setup_context)
    operator_backward.register_autograd(differentiate_again)

    class Gradients(torch.autograd.Function):
        """`run_backward`, which cannot be differentiated."""

        @staticmethod
        def forward(ctx, *arguments):
            return tuple(run_backward(*arguments))

        backward = staticmethod(differentiate_again)

    class Scan(torch.autograd.Function):
        """`run` without the layers that torch puts around a custom operator, which take longer than our own code."""

        @staticmethod
        def forward(ctx, *arguments):
            outputs = run(*arguments)
            setup_context(ctx, arguments, outputs)
            return outputs[:2]

        @staticmethod
        def backward(ctx, dy, dlast):
            # Gradients are recorded here only where they are to be differentiated again.
            return gradients_by(Gradients.apply if torch.is_grad_enabled() else run_backward, ctx, dy, dlast)

    def call(*arguments):
        keep = torch.is_grad_enabled() and any(isinstance(a, Tensor) and a.requires_grad for a in arguments)
        if is_observed(arguments):
            return operator(*arguments, keep)[:2]
        return Scan.apply(*arguments, keep) if keep else run(*arguments, keep)[:2]

    return call


def refusal(u, fits, where):
    """Why an implementation that runs on `where` and in float32 cannot take u, or None; `fits`: u is on
    such a device."""
    if not fits:
        return f'it runs on {where}, the input is on {u.device}'
    return 'it computes in float32, the input is float64' if u.dtype == torch.float64 else None


def laid_out(tensor):
    """Copy of a (B, D, L) tensor with channels next to each other in memory; itself where they are."""
    return tensor if tensor.transpose(1, 2).is_contiguous() else like(tensor).copy_(tensor)


def _as_it_is(u):
    """Context in which autocast changes no type: the implementations say themselves what they compute in."""
    kind = u.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def _detached(*values):
    return [None if value is None else value.detach() for value in values]
