"""The scan in plain tensor operations, parallel over chunks of the sequence: for any device that torch runs on.

With chunks of K steps, three passes take 2 K + L / K steps in a row instead of L, each over all chunks or channels at
once: the state that every chunk ends with if it begins with zero, and its decay; from these the state that it really
begins with; then the outputs. The backward pass does the same from the other end.
"""
import math

import torch
import torch.nn.functional as F


class _Parts:
    """Inputs in chunks, time to the front: (K, chunks, B, G, D / G) and (K, chunks, B, G, N) for B and C."""

    def __init__(self, u, delta, A, B, C, delta_bias, delta_softplus):
        self.dtype = torch.promote_types(u.dtype, torch.float32)
        self.batch, self.channels, self.length = u.shape
        self.groups, self.states = B.shape[1:3]
        self.per_group = self.channels // self.groups
        self.size = max(1, math.isqrt(self.length))
        self.chunks = -(-self.length // self.size)
        self.u = u.to(self.dtype)
        self.raw_step = delta.to(self.dtype)
        if delta_bias is not None:
            self.raw_step = self.raw_step + delta_bias.to(self.dtype)[:, None]
        step = F.softplus(self.raw_step) if delta_softplus else self.raw_step
        # The steps that fill up the last chunk are zero and leave the state as it is.
        self.step, self.x = self.split(step), self.split(self.u)
        self.b, self.c = self.split(B.to(self.dtype)), self.split(C.to(self.dtype))
        self.weighted = self.step * self.x
        self.rates = A.to(self.dtype).reshape(self.groups, self.per_group, self.states)

    def split(self, t):
        width = self.per_group if t.dim() == 3 else self.states
        t = F.pad(t, (0, self.chunks * self.size - self.length))
        t = t.reshape(self.batch, self.groups, width, self.chunks, self.size)
        return t.permute(4, 3, 0, 1, 2)

    def join(self, rows):
        """Inverse of `split` for a list of K (chunks, B, G, D / G), to (B, D, L), or of K (..., N), to (B, G, N, L)."""
        t = torch.stack(rows).permute(2, 3, 4, 1, 0)
        return t.flatten(3)[..., :self.length]

    def join_channels(self, rows):
        return self.join(rows).reshape(self.batch, self.channels, self.length)

    def decay(self, i):
        return torch.exp(self.step[i].unsqueeze(-1) * self.rates)

    def advance(self, state, i):
        """States (chunks, B, G, D / G, N) after step i of every chunk."""
        return self.decay(i) * state + self.weighted[i].unsqueeze(-1) * self.b[i].unsqueeze(-2)

    def total_decay(self):
        return torch.exp(self.step.sum(0).unsqueeze(-1) * self.rates)

    def begins(self):
        """States that the chunks begin with, and the last state of all."""
        state = self.x.new_zeros(self.chunks, self.batch, self.groups, self.per_group, self.states)
        for i in range(self.size):
            state = self.advance(state, i)
        decay, begins = self.total_decay(), [torch.zeros_like(state[0])]
        for chunk in range(self.chunks):
            begins.append(decay[chunk] * begins[-1] + state[chunk])
        return torch.stack(begins[:-1]), begins[-1]


def forward(u, delta, A, B, C, D, z, delta_bias, delta_softplus, keep=False):
    """As `operators.register` wants it; keeps nothing."""
    parts = _Parts(u, delta, A, B, C, delta_bias, delta_softplus)
    state, last = parts.begins()
    rows = []
    for i in range(parts.size):
        state = parts.advance(state, i)
        rows.append(torch.matmul(state, parts.c[i].unsqueeze(-1)).squeeze(-1))
    y = parts.join_channels(rows)
    if D is not None:
        y = y + D.to(y.dtype)[:, None] * parts.u
    if z is not None:
        y = y * F.silu(z.to(y.dtype))
    return y, last.reshape(parts.batch, parts.channels, parts.states), y.new_empty(0)


def backward(dy, dlast, kept, u, delta, A, B, C, D, z, delta_bias, delta_softplus):
    """As `operators.register` wants it; stores the states of all steps."""
    parts = _Parts(u, delta, A, B, C, delta_bias, delta_softplus)
    dy = dy.to(parts.dtype)
    state, _ = parts.begins()
    states = [state]
    for i in range(parts.size):
        states.append(parts.advance(states[-1], i))
    dz = None
    if z is not None:
        z = z.to(parts.dtype)
        y = parts.join_channels([torch.matmul(states[i + 1], parts.c[i].unsqueeze(-1)).squeeze(-1)
                                 for i in range(parts.size)])
        if D is not None:
            y = y + D.to(y.dtype)[:, None] * parts.u
        gate = torch.sigmoid(z)
        dz = dy * y * gate * (1 + z * (1 - gate))
        dy = dy * z * gate
    grad = parts.split(dy)

    # Gradient of the state that each chunk ends with: first from its own outputs alone, then from all that follow.
    own = torch.zeros_like(state)
    for i in reversed(range(parts.size)):
        own = parts.decay(i) * (own + grad[i].unsqueeze(-1) * parts.c[i].unsqueeze(-2))
    decay, ends = parts.total_decay(), [torch.zeros_like(state[0]) if dlast is None else
                                           dlast.to(parts.dtype).reshape(state[0].shape)]
    for chunk in reversed(range(1, parts.chunks)):
        ends.append(decay[chunk] * ends[-1] + own[chunk])
    incoming = torch.stack(ends[::-1])

    dA = parts.rates.new_zeros(parts.rates.shape)
    dstep, dweighted, dB, dC = [], [], [], []
    for i in reversed(range(parts.size)):
        total = incoming + grad[i].unsqueeze(-1) * parts.c[i].unsqueeze(-2)
        incoming = total * parts.decay(i)
        through = incoming * states[i]
        dstep.append((through * parts.rates).sum(-1))
        dA = dA + (through * parts.step[i].unsqueeze(-1)).sum((0, 1))
        dweighted.append(torch.matmul(total, parts.b[i].unsqueeze(-1)).squeeze(-1))
        dB.append(torch.matmul(parts.weighted[i].unsqueeze(-2), total).squeeze(-2))
        dC.append(torch.matmul(grad[i].unsqueeze(-2), states[i + 1]).squeeze(-2))
    dstep, dweighted = parts.join_channels(dstep[::-1]), parts.join_channels(dweighted[::-1])
    step = F.softplus(parts.raw_step) if delta_softplus else parts.raw_step
    du = dweighted * step
    ddelta = dstep + dweighted * parts.u
    if delta_softplus:
        ddelta = ddelta * torch.sigmoid(parts.raw_step)
    dD = (dy * parts.u).sum((0, 2))
    if D is not None:
        du = du + D.to(dy.dtype)[:, None] * dy
    return du, ddelta, dA.reshape(A.shape), parts.join(dB[::-1]), parts.join(dC[::-1]), dD, dz, ddelta.sum((0, 2))
