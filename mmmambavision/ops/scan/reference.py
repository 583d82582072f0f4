"""The definition of the selective scan, one step of the sequence at a time."""
import torch
import torch.nn.functional as F


def selective_scan_reference(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False):
    """The scan with the arguments of `selective_scan`, which checks them. B and C have the shape (B, G, N, L).

    It computes in float64 if any input is float64, otherwise in float32.

    Returns:
        The output [B, D, L] and the last state [B, D, N], both in the type of the computation.
    """
    given = (t for t in (u, delta, A, B, C, D, z, delta_bias) if t is not None)
    dtype = torch.float64 if any(t.dtype == torch.float64 for t in given) else torch.float32
    u, delta, A, B, C = (t.to(dtype) for t in (u, delta, A, B, C))
    if delta_bias is not None:
        delta = delta + delta_bias.to(dtype)[:, None]
    if delta_softplus:
        delta = F.softplus(delta)
    channels, groups = u.shape[1], B.shape[1]
    B, C = (t.repeat_interleave(channels // groups, dim=1) for t in (B, C))  # (B, D, N, L)
    state = u.new_zeros(*u.shape[:2], A.shape[1])
    outputs = []
    # unbind, because its gradient is one stack. The gradient of an index per step is a whole tensor of zeros.
    for u_t, step, b_t, c_t in zip(*(t.unbind(-1) for t in (u, delta, B, C))):
        state = torch.exp(step[..., None] * A) * state + (step * u_t)[..., None] * b_t
        outputs.append((state * c_t).sum(-1))
    y = torch.stack(outputs, dim=-1)
    if D is not None:
        y = y + D.to(dtype)[:, None] * u
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y, state
