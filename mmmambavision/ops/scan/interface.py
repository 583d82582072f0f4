"""The public function `selective_scan`, its implementations, and the choice among them."""
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..registry import Backend, Operator
from ..transforms import under_functional_transform
from . import chunked, cpu, mamba_ssm, triton
from .operators import make_operator
from .reference import selective_scan_reference

BACKENDS = {
    # Not a custom operator. Autograd computes its gradients, so the others are tested against independent gradients.
    'reference': Backend(selective_scan_reference),
    'chunked': Backend(make_operator('chunked', chunked)),
    'cpu': Backend(make_operator('cpu', cpu), cpu.unavailable, cpu.refuses),
    'triton': Backend(make_operator('triton', triton), triton.unavailable, triton.refuses),
    'mamba_ssm': Backend(make_operator('mamba_ssm', mamba_ssm), mamba_ssm.unavailable, mamba_ssm.refuses),
}
# The order of triton and mamba_ssm is not measured yet.
SCAN = Operator('scan', 'selective_scan', BACKENDS, ('cpu', 'triton', 'mamba_ssm', 'chunked'))
available_backends, check_backend_name = SCAN.available, SCAN.check


def choose_backend(name: str, u: Tensor) -> Callable[..., tuple[Tensor, Tensor]]:
    """The function of a backend, or with 'auto' the best function for the input.

    Raises:
        UserError: the name is unknown, or the backend cannot run here or on this input.
    """
    name = SCAN.asked_for(name)
    if name == 'auto':
        name = SCAN.best(u)
        if name == 'chunked' and u.dtype != torch.float64 and u.device.type in PRICES:
            _warn_of_slow_scan(u.device.type)
    if name == 'reference':
        return selective_scan_reference
    if under_functional_transform() or torch.jit.is_tracing():  # traced graphs are loaded without our operators
        return _chunked_operations
    if u.shape[0] == 0:
        name = 'chunked'  # the other backends cannot launch kernels for an empty batch
    SCAN.require(name, u)
    return BACKENDS[name].run


# By device: the implementation that is missing if 'auto' falls back to 'chunked', and the cost of the fallback (from
# docs/selective_scan.md).
PRICES = {'cpu': ('cpu', 'takes about four times as long'),
          'cuda': ('triton', 'moves about 40 times as many bytes through memory, in hundreds of launches')}


@cache
def _warn_of_slow_scan(device: str) -> None:
    missing, price = PRICES[device]
    warnings.warn(f'the selective scan runs in plain tensor operations, which {price}: {SCAN.absent(missing)}',
                  stacklevel=4)


def _chunked_operations(*arguments: Any) -> tuple[Tensor, Tensor]:
    with torch.autocast(arguments[0].device.type, enabled=False):
        return chunked.forward(*arguments)[:2]


def selective_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None,
                   z: Tensor | None = None, delta_bias: Tensor | None = None, delta_softplus: bool = False,
                   return_last_state: bool = False,
                   backend: str = 'auto') -> Tensor | tuple[Tensor, Tensor]:
    """Scan each channel with a linear recurrence whose coefficients depend on the input (arXiv 2312.00752,
    eq. 2 and 4).

    With step_t = delta_t + delta_bias, or its softplus if `delta_softplus` is set, per channel d and state n:

        h_t = exp(step_t A) h_{t-1} + step_t B_t u_t,  h_{-1} = 0,  y_t = sum_n C_t h_t + D u_t

    The result is y, multiplied by SiLU(z) if z is given. Inputs may have any strides. The recurrence is computed in
    float32 or float64 for all input types, also under autocast. All implementations except 'reference' have first
    derivatives only.

    Args:
        u: input [B, D, L].
        delta: steps [B, D, L].
        A: real decay rates [D, N], usually negative.
        B: input weights [B, N, L] or, for G groups of D / G successive channels, [B, G, N, L].
        C: output weights, shaped as B.
        D: weight of the input in the output [D].
        z: gate [B, D, L].
        delta_bias: added to the steps [D].
        delta_softplus: whether to apply softplus to the steps.
        return_last_state: whether to return h_{L-1} too.
        backend: a name from `available_backends()`, or 'auto'. 'auto' uses the name from `ops.backend(scan=...)` or
            from the environment variable MMMAMBAVISION_SCAN. Without them, it chooses the fastest for the input.

    Returns:
        y [B, D, L] in the type of u; with `return_last_state` also the state [B, D, N] after the last step.

    Raises:
        ValueError: shapes do not match, A is complex, B or C does not depend on the input, or the backend is unknown
            or cannot run on this input.
    """
    _check(u, delta, A, B, C, D, z, delta_bias)
    B, C = (t.unsqueeze(1) if t.dim() == 3 else t for t in (B, C))
    y, last_state = choose_backend(backend, u)(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    y = y.to(u.dtype)
    return (y, last_state) if return_last_state else y


def _check(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
           delta_bias: Tensor | None) -> None:
    if u.dim() != 3 or 0 in u.shape[1:]:
        raise ValueError(f'u must be (B, D, L) with D and L at least 1, got {tuple(u.shape)}')
    if A.is_complex():
        raise ValueError('complex A is not supported: give a real A of shape (D, N)')
    batch, channels, length = u.shape
    for name, value in dict(delta=delta, A=A, B=B, C=C, D=D, z=z, delta_bias=delta_bias).items():
        if value is not None and value.device != u.device:
            raise ValueError(f'{name} is on the device {value.device}, and u is on {u.device}. Move them to one device')
    if A.dim() != 2 or A.shape[0] != channels:
        raise ValueError(f'A must be (D, N) with D = {channels} as in u, got {tuple(A.shape)}')
    for name, value in (('delta', delta), ('z', z)):
        if value is not None and value.shape != u.shape:
            raise ValueError(f'{name} must have the shape of u, {tuple(u.shape)}, got {tuple(value.shape)}')
    for name, value in (('D', D), ('delta_bias', delta_bias)):
        if value is not None and value.shape != (channels,):
            raise ValueError(f'{name} must be ({channels},), one value per channel of u, got {tuple(value.shape)}')
    states = A.shape[1]
    for name, value in (('B', B), ('C', C)):
        if value.dim() == 2:
            raise ValueError(f'{name} of shape {tuple(value.shape)} is constant over the sequence, which is not '
                             'supported: give it as (B, N, L) or (B, G, N, L)')
        groups = value.shape[1] if value.dim() == 4 else 1
        expected = (batch, groups, states, length) if value.dim() == 4 else (batch, states, length)
        if value.shape != expected or channels % groups:
            raise ValueError(f'{name} must be (B, N, L) = {(batch, states, length)} or (B, G, N, L) with G a divisor '
                             f'of {channels}, got {tuple(value.shape)}')
    if B.dim() != C.dim() or B.shape != C.shape:
        raise ValueError(f'B and C must have the same shape, got {tuple(B.shape)} and {tuple(C.shape)}')
