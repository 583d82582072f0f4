"""Kernels of the CPU scan, compiled by numba; see `cpu.py` for what they are given.

A kernel works on blocks of WIDTH channels of one sequence, loaded so that they lie next to each other: every inner loop
is over WIDTH numbers and becomes vector instructions. Inputs are flat arrays with strides of their own.
"""
import numpy as np
from numba import njit

from ..compiled import jit_options
from ..cpu_math import exp, sigmoid, softplus

WIDTH = 16   # channels in a block: one vector of AVX-512, two of AVX2
CHUNK = 64   # steps between the states that the forward pass keeps for the backward pass
# Reordering of sums lets the compiler use vectors; it is the same order on every run.
JIT = dict(jit_options(), fastmath={'contract', 'reassoc', 'nsz'})


@njit(**JIT)
def load_block(width, d0, A, D, delta_bias, a, skip, bias):
    """Constants of a block of channels into a (N, WIDTH), skip and bias (WIDTH,), zero beyond `width`."""
    a[:], skip[:], bias[:] = 0., 0., 0.
    for j in range(width):
        skip[j], bias[j] = D[d0 + j], delta_bias[d0 + j]
        for n in range(a.shape[0]):
            a[n, j] = A[d0 + j, n]


@njit(**JIT)
def load_rows(count, width, source, at, strides, rows):
    """rows[i, j] for i < count, j < width from a flat array, at[i, j] in steps of strides[1] and strides[2]."""
    time, channel = strides[1], strides[2]
    if channel == 1:
        for i in range(count):
            for j in range(width):
                rows[i, j] = source[at + i * time + j]
    else:  # times are next to each other
        for j in range(width):
            for i in range(count):
                rows[i, j] = source[at + i * time + j * channel]


@njit(**JIT)
def load_chunk(count, width, b, start, d0, u, us, delta, ds, bias, with_softplus, x, raw, step):
    """Inputs and steps of a chunk of times into (CHUNK, WIDTH) buffers, which hold zeros beyond `width`."""
    load_rows(count, width, u, b * us[0] + start * us[1] + d0 * us[2], us, x)
    load_rows(count, width, delta, b * ds[0] + start * ds[1] + d0 * ds[2], ds, raw)
    for i in range(count):
        for j in range(WIDTH):
            raw[i, j] += bias[j]
        if with_softplus:
            for j in range(WIDTH):
                step[i, j] = softplus(raw[i, j])
        else:
            for j in range(WIDTH):
                step[i, j] = raw[i, j]


@njit(**JIT)
def run_chunk(count, a, skip, x, step, B, b_at, b_stride, C, c_at, c_stride, out, h, keep):
    """<C, h> + D x of a chunk into out (CHUNK, WIDTH), from the state before it, h[:, 0] of (N, CHUNK + 1, WIDTH).

    Writes the states after each step to h[:, 1:] if `keep`, else the last one to h[:, 0].
    """
    for i in range(count):
        for j in range(WIDTH):
            out[i, j] = skip[j] * x[i, j]
    state = np.empty(WIDTH, np.float32)  # of its own: the compiler cannot see that rows of h do not overlap
    for n in range(a.shape[0]):
        state[:] = h[n, 0]
        for i in range(count):
            b_weight, c_weight = B[b_at + i * b_stride + n], C[c_at + i * c_stride + n]
            for j in range(WIDTH):
                state[j] = exp(step[i, j] * a[n, j]) * state[j] + step[i, j] * x[i, j] * b_weight
                out[i, j] += c_weight * state[j]
            if keep:
                h[n, i + 1] = state
        if not keep:
            h[n, 0] = state


@njit(**JIT)
def forward(first, last, blocks, u, us, delta, ds, A, B, bs, C, cs, D, z, zs, delta_bias, with_z, with_softplus,
            length, y, kept, keep, last_state):
    """Scan blocks `first` to `last` of all (batch x blocks); strides are in elements, of u, delta and z
    (batch, time, channel), of B and C (batch, time, group) and beside them the number of groups.

    Writes y (B, L, D) flat, last_state (B, D, N) and, if `keep`, the states before every CHUNK steps into kept
    (B, blocks, chunks, N, WIDTH).
    """
    channels, states = A.shape
    groups = bs[3]
    per_group = channels // groups
    a, h = np.empty((states, WIDTH), np.float32), np.empty((states, 1, WIDTH), np.float32)
    skip, bias = np.empty(WIDTH, np.float32), np.empty(WIDTH, np.float32)
    x, raw = np.zeros((CHUNK, WIDTH), np.float32), np.zeros((CHUNK, WIDTH), np.float32)
    step, out = np.zeros((CHUNK, WIDTH), np.float32), np.zeros((CHUNK, WIDTH), np.float32)
    gate = np.zeros((CHUNK, WIDTH), np.float32)
    for task in range(first, last):
        b, block = task // blocks, task % blocks
        group, within = block // (blocks // groups), block % (blocks // groups)
        d0 = group * per_group + within * WIDTH
        width = min(WIDTH, per_group - within * WIDTH)
        load_block(width, d0, A, D, delta_bias, a, skip, bias)
        h[:, 0], x[:], raw[:] = 0., 0., 0.
        for start in range(0, length, CHUNK):
            count = min(CHUNK, length - start)
            if keep:
                kept[b, block, start // CHUNK] = h[:, 0]
            load_chunk(count, width, b, start, d0, u, us, delta, ds, bias, with_softplus, x, raw, step)
            run_chunk(count, a, skip, x, step, B, b * bs[0] + start * bs[1] + group * bs[2], bs[1], C,
                      b * cs[0] + start * cs[1] + group * cs[2], cs[1], out, h, False)
            if with_z:
                load_rows(count, width, z, b * zs[0] + start * zs[1] + d0 * zs[2], zs, gate)
            for i in range(count):
                if with_z:
                    for j in range(WIDTH):
                        out[i, j] *= gate[i, j] * sigmoid(gate[i, j])
                y_at = (b * length + start + i) * channels + d0
                for j in range(width):
                    y[y_at + j] = out[i, j]
        for j in range(width):
            for n in range(states):
                last_state[b, d0 + j, n] = h[n, 0, j]


@njit(**JIT)
def gate_chunk(count, width, z, out, y_at, y_stride, grad, dz):
    """Through y = out SiLU(z): dz from grad and out, and grad (CHUNK, WIDTH) becomes that of out, shaped as z is."""
    for i in range(count):
        for j in range(width):
            gate = sigmoid(z[i, j])
            silu = z[i, j] * gate
            dz[y_at + i * y_stride + j] = grad[i, j] * out[i, j] * (gate + silu * (np.float32(1.) - gate))
            grad[i, j] *= silu


@njit(**JIT)
def run_chunk_back(count, a, x, step, grad, B, b_at, b_stride, C, c_at, c_stride, h, g, da, dx, dstep, dB, dC):
    """Walk one chunk back: g (N, WIDTH) is the gradient of the state after it, then that of the state before it.

    Adds to da (N, WIDTH), dx and dstep (CHUNK, WIDTH), writes dB and dC (>= count, N).
    """
    for n in range(a.shape[0]):
        for i in range(count - 1, -1, -1):
            b_weight, c_weight = B[b_at + i * b_stride + n], C[c_at + i * c_stride + n]
            db, dc = np.float32(0.), np.float32(0.)
            for j in range(WIDTH):
                total = g[n, j] + c_weight * grad[i, j]
                before = h[n, i, j]
                through = total * exp(step[i, j] * a[n, j])
                dc += grad[i, j] * h[n, i + 1, j]
                db += total * step[i, j] * x[i, j]
                dstep[i, j] += through * before * a[n, j] + total * b_weight * x[i, j]
                dx[i, j] += total * b_weight * step[i, j]
                da[n, j] += through * before * step[i, j]
                g[n, j] = through
            dB[i, n] = db
            dC[i, n] = dc


@njit(**JIT)
def backward(first, last, blocks, u, us, delta, ds, A, B, bs, C, cs, D, z, zs, delta_bias, with_z, with_softplus,
             length, kept, dy, dlast, du, ddelta, dz, dA, dB, dC, dD, dbias):
    """Gradients of `forward`, walking back through chunks whose states are computed again from the kept ones.

    dy, du, ddelta and dz are (B, L, D) flat; dA (B, D, N), dD and dbias (B, D) are per batch entry, dB and dC
    (B, blocks, L, N) per block.
    """
    channels, states = A.shape
    groups = bs[3]
    per_group = channels // groups
    a, h = np.empty((states, WIDTH), np.float32), np.empty((states, CHUNK + 1, WIDTH), np.float32)
    g, da = np.empty((states, WIDTH), np.float32), np.empty((states, WIDTH), np.float32)
    skip, bias = np.empty(WIDTH, np.float32), np.empty(WIDTH, np.float32)
    dskip, dbias_part = np.empty(WIDTH, np.float32), np.empty(WIDTH, np.float32)
    # Sums over time: in float32 within a chunk, in float64 over chunks, of which there can be hundreds.
    da_sum, dskip_sum, dbias_sum = np.empty((states, WIDTH)), np.empty(WIDTH), np.empty(WIDTH)
    x, raw = np.zeros((CHUNK, WIDTH), np.float32), np.zeros((CHUNK, WIDTH), np.float32)
    step, out = np.zeros((CHUNK, WIDTH), np.float32), np.zeros((CHUNK, WIDTH), np.float32)
    grad, dx = np.zeros((CHUNK, WIDTH), np.float32), np.zeros((CHUNK, WIDTH), np.float32)
    dstep, gate = np.zeros((CHUNK, WIDTH), np.float32), np.zeros((CHUNK, WIDTH), np.float32)
    for task in range(first, last):
        b, block = task // blocks, task % blocks
        group, within = block // (blocks // groups), block % (blocks // groups)
        d0 = group * per_group + within * WIDTH
        width = min(WIDTH, per_group - within * WIDTH)
        load_block(width, d0, A, D, delta_bias, a, skip, bias)
        g[:], da_sum[:], dskip_sum[:], dbias_sum[:], x[:], raw[:], grad[:] = 0., 0., 0., 0., 0., 0., 0.
        for j in range(width):
            for n in range(states):
                g[n, j] = dlast[b, d0 + j, n]
        for start in range((length - 1) // CHUNK * CHUNK, -1, -CHUNK):
            count = min(CHUNK, length - start)
            b_at, c_at = b * bs[0] + start * bs[1] + group * bs[2], b * cs[0] + start * cs[1] + group * cs[2]
            y_at = (b * length + start) * channels + d0
            h[:, 0] = kept[b, block, start // CHUNK]
            load_chunk(count, width, b, start, d0, u, us, delta, ds, bias, with_softplus, x, raw, step)
            run_chunk(count, a, skip, x, step, B, b_at, bs[1], C, c_at, cs[1], out, h, True)
            for i in range(count):
                for j in range(width):
                    grad[i, j] = dy[y_at + i * channels + j]
            if with_z:
                load_rows(count, width, z, b * zs[0] + start * zs[1] + d0 * zs[2], zs, gate)
                gate_chunk(count, width, gate, out, y_at, channels, grad, dz)
            da[:], dskip[:], dbias_part[:] = 0., 0., 0.
            for i in range(count):
                for j in range(WIDTH):
                    dx[i, j] = grad[i, j] * skip[j]
                    dstep[i, j] = np.float32(0.)
                    dskip[j] += grad[i, j] * x[i, j]
            run_chunk_back(count, a, x, step, grad, B, b_at, bs[1], C, c_at, cs[1], h, g, da, dx, dstep,
                           dB[b, block, start:], dC[b, block, start:])
            for i in range(count):
                for j in range(WIDTH):
                    if with_softplus:
                        dstep[i, j] *= sigmoid(raw[i, j])
                    dbias_part[j] += dstep[i, j]
                for j in range(width):
                    du[y_at + i * channels + j] = dx[i, j]
                    ddelta[y_at + i * channels + j] = dstep[i, j]
            da_sum += da
            dskip_sum += dskip
            dbias_sum += dbias_part
        for j in range(width):
            dD[b, d0 + j], dbias[b, d0 + j] = dskip_sum[j], dbias_sum[j]
            for n in range(states):
                dA[b, d0 + j, n] = da_sum[n, j]
