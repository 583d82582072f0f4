"""Kernels of the CPU scan, compiled by numba; see `cpu.py` for what they are given.

A kernel works on blocks of WIDTH channels of one sequence: channels lie next to each other in memory, so every inner
loop is over WIDTH numbers and becomes vector instructions. Inputs are flat arrays with strides of their own.
"""
import numpy as np
from llvmlite import ir
from numba import int64, njit, types
from numba.extending import intrinsic

WIDTH = 16   # channels in a block: one vector of AVX-512, two of AVX2
CHUNK = 64   # steps between the states that the forward pass keeps for the backward pass
# Reordering of sums lets the compiler use vectors; it is the same order on every run.
FASTMATH = {'contract', 'reassoc', 'nsz'}
JIT = dict(nogil=True, cache=True, fastmath=FASTMATH, error_model='numpy', boundscheck=False)


@intrinsic
def bits_to_float(typing_context, bits):
    """The float32 with the bit pattern of an int32."""
    return types.float32(types.int32), lambda context, builder, signature, args: builder.bitcast(
        args[0], ir.FloatType())


@njit(inline='always', **JIT)
def exp(x):
    """e^x in float32 to 2 units in the last place: 2^k times a polynomial (Cody and Waite's reduction)."""
    x = min(max(x, np.float32(-87.)), np.float32(88.))
    k = np.floor(x * np.float32(1.44269504) + np.float32(.5))
    r = x - k * np.float32(0.693359375) + k * np.float32(2.12194440e-4)
    p = np.float32(1 / 5040)
    p = p * r + np.float32(1 / 720)
    p = p * r + np.float32(1 / 120)
    p = p * r + np.float32(1 / 24)
    p = p * r + np.float32(1 / 6)
    p = p * r + np.float32(1 / 2)
    p = p * r + np.float32(1.)
    p = p * r + np.float32(1.)
    return p * bits_to_float((np.int32(k) + np.int32(127)) << np.int32(23))


@njit(inline='always', **JIT)
def softplus(x):
    """log(1 + e^x) in float32: max(x, 0) + log(1 + e), e = e^-|x|, by the series of 2 artanh(e / (2 + e))."""
    e = exp(-abs(x))
    s = e / (e + np.float32(2.))
    q = s * s
    p = np.float32(1 / 15)
    p = p * q + np.float32(1 / 13)
    p = p * q + np.float32(1 / 11)
    p = p * q + np.float32(1 / 9)
    p = p * q + np.float32(1 / 7)
    p = p * q + np.float32(1 / 5)
    p = p * q + np.float32(1 / 3)
    p = p * q + np.float32(1.)
    return max(x, np.float32(0.)) + np.float32(2.) * s * p


@njit(inline='always', **JIT)
def sigmoid(x):
    return np.float32(1.) / (np.float32(1.) + exp(-x))


@njit(**JIT)
def load_block(rows, width, A, D, delta_bias, d0, a, skip, bias):
    """Constants of a block of channels into (N, WIDTH) and (WIDTH,) buffers, zero beyond `width`."""
    a[:], skip[:], bias[:] = 0., 0., 0.
    for j in range(width):
        skip[j], bias[j] = D[d0 + j], delta_bias[d0 + j]
        for n in range(rows):
            a[n, j] = A[d0 + j, n]


@njit(**JIT)
def load_step(u, u_at, delta, delta_at, width, bias, with_softplus, raw, step, x):
    """Inputs and steps of one time into (WIDTH,) buffers, which hold zeros beyond `width`."""
    for j in range(width):
        x[j] = u[u_at + j]
        raw[j] = delta[delta_at + j] + bias[j]
    if with_softplus:
        for j in range(WIDTH):
            step[j] = softplus(raw[j])
    else:
        for j in range(WIDTH):
            step[j] = raw[j]


@njit(**JIT)
def advance(states, a, step, x, B, b_at, h_from, h_to):
    """One step of the recurrence from state (N, WIDTH) to state."""
    for n in range(states):
        weight = B[b_at + n]
        for j in range(WIDTH):
            h_to[n, j] = exp(step[j] * a[n, j]) * h_from[n, j] + step[j] * x[j] * weight


@njit(**JIT)
def forward(first, last, blocks, u, us, delta, ds, A, B, bs, C, cs, D, z, zs, delta_bias, with_z, with_softplus,
            length, y, kept, last_state):
    """Scan blocks `first` to `last` of all (batch x blocks); strides are (batch, time, group) in elements.

    Writes y (B, L, D), the states before every CHUNK steps into kept (B, blocks, chunks, N, WIDTH) unless that is
    empty, and last_state (B, D, N).
    """
    channels, states = A.shape
    channels_per_group = channels // bs[3]
    a, h = np.empty((states, WIDTH), np.float32), np.empty((states, WIDTH), np.float32)
    skip, bias = np.empty(WIDTH, np.float32), np.empty(WIDTH, np.float32)
    x, raw, step, out = (np.zeros(WIDTH, np.float32), np.zeros(WIDTH, np.float32), np.zeros(WIDTH, np.float32),
                         np.zeros(WIDTH, np.float32))
    for task in range(first, last):
        b, block = task // blocks, task % blocks
        group, within = block // (blocks // bs[3]), block % (blocks // bs[3])
        d0 = group * channels_per_group + within * WIDTH
        width = min(WIDTH, channels_per_group - within * WIDTH)
        load_block(states, width, A, D, delta_bias, d0, a, skip, bias)
        h[:], x[:], raw[:] = 0., 0., 0.
        for t in range(length):
            if kept.shape[2] and t % CHUNK == 0:
                kept[b, block, t // CHUNK] = h
            load_step(u, b * us[0] + t * us[1] + d0, delta, b * ds[0] + t * ds[1] + d0, width, bias, with_softplus,
                      raw, step, x)
            advance(states, a, step, x, B, b * bs[0] + t * bs[1] + group * bs[2], h, h)
            c_at = b * cs[0] + t * cs[1] + group * cs[2]
            for j in range(WIDTH):
                out[j] = skip[j] * x[j]
            for n in range(states):
                weight = C[c_at + n]
                for j in range(WIDTH):
                    out[j] += weight * h[n, j]
            if with_z:
                z_at = b * zs[0] + t * zs[1] + d0
                for j in range(width):
                    out[j] *= z[z_at + j] * sigmoid(z[z_at + j])
            y_at = (b * length + t) * channels + d0
            for j in range(width):
                y[y_at + j] = out[j]
        for j in range(width):
            for n in range(states):
                last_state[b, d0 + j, n] = h[n, j]


@njit(**JIT)
def backward(first, last, blocks, u, us, delta, ds, A, B, bs, C, cs, D, z, zs, delta_bias, with_z, with_softplus,
             length, kept, dy, dlast, du, ddelta, dz, dA, dB, dC, dD, dbias):
    """Gradients of `forward`, walking back through chunks whose states are computed again from the kept ones.

    dy is (B, L, D) flat; dA (B, D, N), dD and dbias (B, D) are per batch entry, dB and dC (B, blocks, L, N) per block.
    """
    channels, states = A.shape
    channels_per_group = channels // bs[3]
    a, g, da = (np.empty((states, WIDTH), np.float32), np.empty((states, WIDTH), np.float32),
                np.empty((states, WIDTH), np.float32))
    skip, bias, dskip, dstep_bias = (np.empty(WIDTH, np.float32), np.empty(WIDTH, np.float32),
                                     np.empty(WIDTH, np.float32), np.empty(WIDTH, np.float32))
    xs, raws, steps = (np.zeros((CHUNK, WIDTH), np.float32), np.zeros((CHUNK, WIDTH), np.float32),
                       np.zeros((CHUNK, WIDTH), np.float32))
    h = np.empty((CHUNK + 1, states, WIDTH), np.float32)
    grad, out, dstep, dx, products = (np.zeros(WIDTH, np.float32), np.zeros(WIDTH, np.float32),
                                      np.zeros(WIDTH, np.float32), np.zeros(WIDTH, np.float32),
                                      np.zeros(WIDTH, np.float32))
    for task in range(first, last):
        b, block = task // blocks, task % blocks
        group, within = block // (blocks // bs[3]), block % (blocks // bs[3])
        d0 = group * channels_per_group + within * WIDTH
        width = min(WIDTH, channels_per_group - within * WIDTH)
        load_block(states, width, A, D, delta_bias, d0, a, skip, bias)
        g[:], da[:], dskip[:], dstep_bias[:], xs[:], raws[:], grad[:] = 0., 0., 0., 0., 0., 0., 0.
        for j in range(width):
            for n in range(states):
                g[n, j] = dlast[b, d0 + j, n]
        for chunk in range((length - 1) // CHUNK, -1, -1):
            start = chunk * CHUNK
            count = min(CHUNK, length - start)
            h[0] = kept[b, block, chunk]
            for i in range(count):
                t = start + i
                load_step(u, b * us[0] + t * us[1] + d0, delta, b * ds[0] + t * ds[1] + d0, width, bias, with_softplus,
                          raws[i], steps[i], xs[i])
                advance(states, a, steps[i], xs[i], B, b * bs[0] + t * bs[1] + group * bs[2], h[i], h[i + 1])
            for i in range(count - 1, -1, -1):
                t = start + i
                b_at, c_at = b * bs[0] + t * bs[1] + group * bs[2], b * cs[0] + t * cs[1] + group * cs[2]
                x, step = xs[i], steps[i]
                y_at = (b * length + t) * channels + d0
                for j in range(width):
                    grad[j] = dy[y_at + j]
                if with_z:
                    for j in range(WIDTH):
                        out[j] = skip[j] * x[j]
                    for n in range(states):
                        weight = C[c_at + n]
                        for j in range(WIDTH):
                            out[j] += weight * h[i + 1, n, j]
                    z_at = b * zs[0] + t * zs[1] + d0
                    for j in range(width):
                        gate = sigmoid(z[z_at + j])
                        silu = z[z_at + j] * gate
                        dz[y_at + j] = grad[j] * out[j] * (gate + silu * (np.float32(1.) - gate))
                        grad[j] *= silu
                for j in range(WIDTH):
                    dstep[j] = np.float32(0.)
                    dx[j] = grad[j] * skip[j]
                    dskip[j] += grad[j] * x[j]
                for n in range(states):
                    b_weight, c_weight = B[b_at + n], C[c_at + n]
                    db, dc = np.float32(0.), np.float32(0.)
                    for j in range(WIDTH):
                        total = g[n, j] + c_weight * grad[j]
                        decay = exp(step[j] * a[n, j])
                        through = total * decay
                        dc += grad[j] * h[i + 1, n, j]
                        db += total * step[j] * x[j]
                        dstep[j] += through * h[i, n, j] * a[n, j] + total * b_weight * x[j]
                        dx[j] += total * b_weight * step[j]
                        da[n, j] += through * h[i, n, j] * step[j]
                        g[n, j] = through
                    dB[b, block, t, n] = db
                    dC[b, block, t, n] = dc
                if with_softplus:
                    for j in range(WIDTH):
                        dstep[j] *= sigmoid(raws[i, j])
                for j in range(WIDTH):
                    dstep_bias[j] += dstep[j]
                for j in range(width):
                    du[y_at + j] = dx[j]
                    ddelta[y_at + j] = dstep[j]
        for j in range(width):
            dD[b, d0 + j], dbias[b, d0 + j] = dskip[j], dstep_bias[j]
            for n in range(states):
                dA[b, d0 + j, n] = da[n, j]
