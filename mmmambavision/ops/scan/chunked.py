"""The scan in plain tensor operations, parallel over chunks of the sequence, for any device.

The linear recurrence h_t = a_t h_{t-1} + x_t (arXiv 2312.00752, algorithm 2, line 6) runs over chunks of 16 steps, all
chunks in parallel. A first pass starts every chunk from zero and gives its last state. A second pass starts every chunk
from its true initial state. The initial states follow a recurrence of the same form with one step per chunk, and are
computed recursively. The gradients follow a recurrence in reverse. Long sequences are processed in stretches, one after
the other, so that the states of all steps are never in memory together.
"""
import torch
import torch.nn.functional as F

STEPS_PER_CHUNK = 16
STATES_PER_STRETCH = 2 ** 20  # size of all states of a stretch for which a CPU's cache is still useful


class _Parts:
    """Inputs in M chunks: step, step u and others (B, M, 16, G, 1, D / G); B and C (B, M, 16, G, N, 1)."""

    def __init__(self, u, delta, A, B, C, delta_bias, delta_softplus):
        self.dtype = torch.promote_types(u.dtype, torch.float32)
        self.length, self.groups = u.shape[2], B.shape[1]
        self.u = u.to(self.dtype)
        self.raw_step = delta.to(self.dtype)
        if delta_bias is not None:
            self.raw_step = self.raw_step + delta_bias.to(self.dtype)[:, None]
        self.step = F.softplus(self.raw_step) if delta_softplus else self.raw_step
        self.rates = self.state(A.to(self.dtype)[None])[0].contiguous()
        b, c = (_cut(t.to(self.dtype).permute(0, 3, 1, 2).unsqueeze(-1)) for t in (B, C))
        self.sequences = self.split(self.step), self.split(self.step * self.u), b, c
        self.zero = self.rates.new_zeros(u.shape[0], *self.rates.shape)
        # On a GPU, launches can take longer than the arithmetic. There, any length gives about four stretches at most.
        per_stretch = STATES_PER_STRETCH if u.device.type == 'cpu' else max(STATES_PER_STRETCH, 2 * u.numel())
        self.blocks = max(1, per_stretch // (STEPS_PER_CHUNK ** 2 * max(1, self.zero.numel())))

    def state(self, t):
        """(B, D, N) to (B, G, N, D / G)."""
        return t.unflatten(1, (self.groups, -1)).transpose(2, 3)

    def split(self, t):
        """(B, D, L) to (B, M, 16, G, 1, D / G). The last chunk is padded with steps of zero, which keep the state."""
        return _cut(t.unflatten(1, (self.groups, -1)).permute(0, 3, 1, 2).unsqueeze(3))

    def stretches(self, *more):
        """Split `sequences` and `more` into stretches of 16 `blocks` chunks; the last stretch can be shorter.

        Returns:
            A tuple of tensors for each stretch.
        """
        return list(zip(*(t.split(STEPS_PER_CHUNK * self.blocks, 1) for t in (*self.sequences, *more))))

    def join(self, stretches):
        """Rows (B, M', G, ...), 16 for each stretch, to (B, G, ..., L). A dimension of size 1 is removed."""
        t = torch.cat([torch.stack(rows, 2) for rows in stretches], 1)
        return t.flatten(1, 2)[:, :self.length].flatten(3).permute(0, 2, 3, 1)


def _cut(t):
    """(B, M, ...) to (B, M / 16, 16, ...), padded with zeros."""
    missing = -t.shape[1] % STEPS_PER_CHUNK
    t = F.pad(t, (0, 0) * (t.dim() - 2) + (0, missing)) if missing else t
    return t.unflatten(1, (-1, STEPS_PER_CHUNK))


def _run(decays, inputs, state):
    """The state before the first step, and the states after every step."""
    states = [state]
    for decay, value in zip(decays, inputs):
        states.append(torch.addcmul(value, decay, states[-1]))
    return states


def _scan(step, inputs, rates, state, decay=None, way=1):
    """States between the steps of M chunks.

    Args:
        step: (B, M, 16, G, 1, D / G).
        inputs: what each step adds to the state, (B, M, 16, G, N, D / G).
        rates: (G, N, D / G).
        state: (B, G, N, D / G), before the first step; for way = -1 after the last step.
        decay: exp(step rates), if it is already computed.
        way: 1, or -1 for the reverse recurrence: before = decay after + input.

    Returns:
        17 states (B, M, G, N, D / G): before the first step of every chunk, ..., after the last.
    """
    decay = (step * rates).exp_() if decay is None else decay
    decays, inputs, chunks = decay.unbind(2)[::way], inputs.unbind(2)[::way], step.shape[1]
    begins = state.unsqueeze(1)
    if chunks > 1:
        ends = _run(decays[1:], inputs[1:], inputs[0])[-1]
        # The decay of a chunk is one exponential of a sum, which rounds less often than a product of 16 factors.
        outer = _scan(_cut(step.sum(2)), _cut(ends), rates, state, way=way)
        begins = torch.stack(outer[:-1] if way == 1 else outer[1:], 2).flatten(1, 2)[:, :chunks]
    return _run(decays, inputs, begins)[::way]


def kept_shape(u, A, B):
    """Shape of the states kept for the backward pass, one before every 256 steps: (B, L / 256, G, N, D / G)."""
    return u.shape[0], -(-u.shape[2] // STEPS_PER_CHUNK ** 2), B.shape[1], A.shape[1], u.shape[1] // B.shape[1]


def forward(u, delta, A, B, C, D, z, delta_bias, delta_softplus, keep=False):
    """See `make_operator`."""
    parts = _Parts(u, delta, A, B, C, delta_bias, delta_softplus)
    state, kept, rows = parts.zero, [], []
    for step, weighted, b, c in parts.stretches():
        states = _scan(step, weighted * b, parts.rates, state)
        state = states[-1][:, -1]
        rows.append([torch.matmul(c[:, :, i].mT, states[i + 1]) for i in range(STEPS_PER_CHUNK)])
        if keep:
            kept.append(states[0][:, ::STEPS_PER_CHUNK])
    y = parts.join(rows).flatten(1, 2)
    if D is not None:
        y = y + D.to(y.dtype)[:, None] * parts.u
    if z is not None:
        y = y * F.silu(z.to(y.dtype))
    return y, state.transpose(2, 3).flatten(1, 2), torch.cat(kept, 1) if keep else y.new_empty(0)


def backward(dy, dlast, kept, u, delta, A, B, C, D, z, delta_bias, delta_softplus):
    """See `make_operator`. If `kept` is None, it is computed here."""
    if kept is None:
        kept = forward(u, delta, A, B, C, D, z, delta_bias, delta_softplus, keep=True)[2]
    parts = _Parts(u, delta, A, B, C, delta_bias, delta_softplus)
    dout = dy = dy.to(parts.dtype)
    if z is not None:
        z = z.to(parts.dtype)
        dy = dout * F.silu(z)
    outgoing = parts.zero if dlast is None else parts.state(dlast.to(parts.dtype))
    stretches, dA, rows = parts.stretches(parts.split(dy)), torch.zeros_like(parts.rates), []
    starts = kept[:, ::parts.blocks].unbind(1)
    for start, (step, weighted, b, c, grad) in zip(starts[::-1], stretches[::-1]):
        decay, own = (step * parts.rates).exp_(), grad * c
        states = _scan(step, weighted * b, parts.rates, start, decay)
        # Gradients of the states. grads[i + 1] is the gradient of the state after step i without the output of step i.
        # grads[i] is the gradient of the state before step i: decay (grads[i + 1] + own).
        grads = _scan(step, decay * own, parts.rates, outgoing, decay, way=-1)
        outgoing = grads[0][:, 0]
        drates, found = torch.zeros_like(grads[0]), []
        for i in range(STEPS_PER_CHUNK):
            dh, dexponent = grads[i + 1] + own[:, :, i], grads[i] * states[i]
            drates = torch.addcmul(drates, dexponent, step[:, :, i])
            found.append(((dexponent * parts.rates).sum(-2), torch.matmul(b[:, :, i].mT, dh),
                          torch.matmul(dh, weighted[:, :, i].mT), torch.matmul(states[i + 1], grad[:, :, i].mT),
                          *([] if z is None else [torch.matmul(c[:, :, i].mT, states[i + 1])])))
        dA = dA + drates.sum((0, 1))
        rows.append(zip(*found))
    dstep, dweighted, dB, dC, *y = (parts.join(column) for column in zip(*rows[::-1]))
    dstep, dweighted = dstep.flatten(1, 2), dweighted.flatten(1, 2)
    du, ddelta, dz = dweighted * parts.step, dstep + dweighted * parts.u, None
    if delta_softplus:
        ddelta = ddelta * torch.sigmoid(parts.raw_step)
    if z is not None:
        gate, y = torch.sigmoid(z), y[0].flatten(1, 2)
        y = y if D is None else y + D.to(y.dtype)[:, None] * parts.u
        dz = dout * y * gate * (1 + z * (1 - gate))
    dD = (dy * parts.u).sum((0, 2))
    if D is not None:
        du = du + D.to(dy.dtype)[:, None] * dy
    return du, ddelta, dA.transpose(1, 2).flatten(0, 1), dB, dC, dD, dz, ddelta.sum((0, 2))
