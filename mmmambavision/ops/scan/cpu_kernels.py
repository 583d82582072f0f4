"""Kernels of the CPU scan, compiled by numba. `cpu.py` calls them.

Symbols as in Mamba (arXiv 2312.00752, algorithm 2): x is the input (u in `selective_scan`), Delta is the step after its
bias and softplus, h is the state. dq is the gradient of the loss with respect to q. A kernel processes blocks of WIDTH
channels of one sequence. A block is loaded into contiguous memory, so every inner loop runs over WIDTH numbers and
becomes vector instructions. Inputs are flat arrays with any strides.
"""
import numpy as np
from numba import njit

from ..compiled import jit_options
from ..cpu_math import exp, sigmoid, softplus

WIDTH = 16       # channels in a block: one vector of AVX-512, two of AVX2
KEPT_EVERY = 64  # steps of a chunk: the forward pass keeps the state before each chunk for the backward pass
# The compiler may reorder sums to vectorise them. The order is the same in every run.
JIT = dict(jit_options(), fastmath={'contract', 'reassoc', 'nsz'})


@njit(inline='always', **JIT)
def find_block(task, blocks, channels, groups):
    """Batch entry, block, group, first channel and number of channels of a task. There are batch x blocks tasks."""
    block, in_group = task % blocks, channels // groups
    group, within = block // (blocks // groups), block % (blocks // groups)
    return task // blocks, block, group, group * in_group + within * WIDTH, min(WIDTH, in_group - within * WIDTH)


@njit(**JIT)
def load_parameters(width, d0, A, D, bias, A_T, D_block, bias_block):
    """Parameters of a block of channels into A_T (N, WIDTH), D_block and bias_block (WIDTH,), zero beyond `width`."""
    A_T[:], D_block[:], bias_block[:] = 0., 0., 0.
    for j in range(width):
        D_block[j], bias_block[j] = D[d0 + j], bias[d0 + j]
        for n in range(A_T.shape[0]):
            A_T[n, j] = A[d0 + j, n]


@njit(**JIT)
def load_rows(count, width, source, at, strides, rows):
    """rows[i, j] = source[at + i strides[1] + j strides[2]] for i < count, j < width."""
    time, channel = strides[1], strides[2]
    if channel == 1:
        for i in range(count):
            for j in range(width):
                rows[i, j] = source[at + i * time + j]
    else:  # time steps are contiguous
        for j in range(width):
            for i in range(count):
                rows[i, j] = source[at + i * time + j * channel]


@njit(**JIT)
def load_inputs(count, width, b, start, d0, u, us, delta, ds, bias, with_softplus, x, raw, Delta):
    """Load x, raw (the step before softplus) and Delta of a chunk into (KEPT_EVERY, WIDTH) buffers.

    They are zero beyond `width`.
    """
    load_rows(count, width, u, b * us[0] + start * us[1] + d0 * us[2], us, x)
    load_rows(count, width, delta, b * ds[0] + start * ds[1] + d0 * ds[2], ds, raw)
    for i in range(count):
        for j in range(WIDTH):
            raw[i, j] += bias[j]
        if with_softplus:
            for j in range(WIDTH):
                Delta[i, j] = softplus(raw[i, j])
        else:
            for j in range(WIDTH):
                Delta[i, j] = raw[i, j]


@njit(**JIT)
def scan_chunk(count, A_T, D, x, Delta, B, b_at, b_stride, C, c_at, c_stride, y, h, keep):
    """Compute y (KEPT_EVERY, WIDTH) of a chunk from the state before it, h[:, 0]; h is (N, KEPT_EVERY + 1, WIDTH).

    With `keep`, the states after each step are written to h[:, 1:]. Otherwise, the last state is written to h[:, 0].
    """
    for i in range(count):
        for j in range(WIDTH):
            y[i, j] = D[j] * x[i, j]
    h_n = np.empty(WIDTH, np.float32)  # a separate array, because the compiler does not know that rows of h differ
    for n in range(A_T.shape[0]):
        h_n[:] = h[n, 0]
        for i in range(count):
            B_n, C_n = B[b_at + i * b_stride + n], C[c_at + i * c_stride + n]
            for j in range(WIDTH):
                h_n[j] = exp(Delta[i, j] * A_T[n, j]) * h_n[j] + Delta[i, j] * x[i, j] * B_n
                y[i, j] += C_n * h_n[j]
            if keep:
                h[n, i + 1] = h_n
        if not keep:
            h[n, 0] = h_n


# Algorithm 2. Parallel over blocks of WIDTH channels of all sequences. For each block, with h (N, WIDTH) <- 0:
#
#     for each chunk of KEPT_EVERY steps:
#         keep h, if there will be a backward pass
#         x, Delta (KEPT_EVERY, WIDTH) <- u, softplus(delta + bias)
#         y <- D x
#         for each state n, for each step t of the chunk:      h_n stays in registers over the chunk
#             h_n <- exp(Delta_t A_n) h_n + Delta_t B_tn x_t
#             y_t <- y_t + C_tn h_n
#         y <- y SiLU(z)
#
# Kept: h before every chunk, N / KEPT_EVERY times the size of u. The backward pass recomputes all other states.
@njit(**JIT)
def forward(first, last, blocks, u, us, delta, ds, A, B, bs, C, cs, D, z, zs, delta_bias, with_z, with_softplus,
            length, y, kept, keep, last_state):
    """Scan the blocks `first` to `last` of all batch x blocks blocks.

    Args:
        u, delta, z: flat; us, ds, zs: their strides in elements (batch, time, channel).
        B, C: flat, states contiguous; bs, cs: strides (batch, time, group) and the number of groups.
        y: (B, L, D) flat, to write.
        kept: (B, blocks, chunks, N, WIDTH) to write, if `keep`.
        last_state: (B, D, N) to write.
    """
    channels, states = A.shape
    A_T, h = np.empty((states, WIDTH), np.float32), np.empty((states, 1, WIDTH), np.float32)
    D_block, bias_block = np.empty(WIDTH, np.float32), np.empty(WIDTH, np.float32)
    x, raw = np.zeros((KEPT_EVERY, WIDTH), np.float32), np.zeros((KEPT_EVERY, WIDTH), np.float32)
    Delta, y_chunk = np.zeros((KEPT_EVERY, WIDTH), np.float32), np.zeros((KEPT_EVERY, WIDTH), np.float32)
    z_chunk = np.zeros((KEPT_EVERY, WIDTH), np.float32)
    for task in range(first, last):
        b, block, group, d0, width = find_block(task, blocks, channels, bs[3])
        load_parameters(width, d0, A, D, delta_bias, A_T, D_block, bias_block)
        h[:, 0], x[:], raw[:] = 0., 0., 0.
        for start in range(0, length, KEPT_EVERY):
            count = min(KEPT_EVERY, length - start)
            if keep:
                kept[b, block, start // KEPT_EVERY] = h[:, 0]
            load_inputs(count, width, b, start, d0, u, us, delta, ds, bias_block, with_softplus, x, raw, Delta)
            scan_chunk(count, A_T, D_block, x, Delta, B, b * bs[0] + start * bs[1] + group * bs[2], bs[1], C,
                       b * cs[0] + start * cs[1] + group * cs[2], cs[1], y_chunk, h, False)
            if with_z:
                load_rows(count, width, z, b * zs[0] + start * zs[1] + d0 * zs[2], zs, z_chunk)
            for i in range(count):
                if with_z:
                    for j in range(WIDTH):
                        y_chunk[i, j] *= z_chunk[i, j] * sigmoid(z_chunk[i, j])
                y_at = (b * length + start + i) * channels + d0
                for j in range(width):
                    y[y_at + j] = y_chunk[i, j]
        for j in range(width):
            for n in range(states):
                last_state[b, d0 + j, n] = h[n, 0, j]


@njit(**JIT)
def gate_backward(count, width, z, y, dz_at, dz_stride, dy, dz):
    """Backward pass of y SiLU(z): dz from dy and y. dy (KEPT_EVERY, WIDTH) is the gradient of the gated output, and
    becomes the gradient of y."""
    for i in range(count):
        for j in range(width):
            gate = sigmoid(z[i, j])
            silu = z[i, j] * gate
            dz[dz_at + i * dz_stride + j] = dy[i, j] * y[i, j] * (gate + silu * (np.float32(1.) - gate))
            dy[i, j] *= silu


@njit(**JIT)
def scan_chunk_backward(count, A_T, x, Delta, dy, B, b_at, b_stride, C, c_at, c_stride, h, dh, dA_T, dx, dDelta, dB,
                        dC):
    """Backward pass of one chunk, from its last step to its first.

    dh (N, WIDTH) is the gradient of the state after the chunk from all later steps, and becomes the gradient of the
    state before the chunk. Adds to dA_T (N, WIDTH), dx and dDelta (KEPT_EVERY, WIDTH). Writes dB and dC (>= count, N).
    """
    for n in range(A_T.shape[0]):
        for i in range(count - 1, -1, -1):
            B_n, C_n = B[b_at + i * b_stride + n], C[c_at + i * c_stride + n]
            dB_n, dC_n = np.float32(0.), np.float32(0.)
            for j in range(WIDTH):
                dh_t = dh[n, j] + C_n * dy[i, j]
                h_before = h[n, i, j]
                dh_before = dh_t * exp(Delta[i, j] * A_T[n, j])
                dC_n += dy[i, j] * h[n, i + 1, j]
                dB_n += dh_t * Delta[i, j] * x[i, j]
                dDelta[i, j] += dh_before * h_before * A_T[n, j] + dh_t * B_n * x[i, j]
                dx[i, j] += dh_t * B_n * Delta[i, j]
                dA_T[n, j] += dh_before * h_before * Delta[i, j]
                dh[n, j] = dh_before
            dB[i, n] = dB_n
            dC[i, n] = dC_n


# Parallel over blocks of WIDTH channels of all sequences, as `forward`. For each block, with dh (N, WIDTH) <- dlast:
#
#     for each chunk of KEPT_EVERY steps, in reverse order:
#         h <- the kept state; recompute all states of the chunk (N, KEPT_EVERY + 1, WIDTH) and y
#         dz <- dy y SiLU'(z);  dy <- dy SiLU(z)
#         dx <- D dy;  dDelta <- 0
#         for each state n, for each step t of the chunk, in reverse order:
#             dh_t <- dh_n + C_tn dy_t                      h_t is used in y_t and in h_{t+1}
#             dC_tn <- sum over channels of dy_t h_t;       dB_tn <- sum over channels of dh_t Delta_t x_t
#             dh_n <- dh_t exp(Delta_t A_n)                 gradient of h_{t-1} from all steps after t - 1
#             dDelta_t <- dDelta_t + dh_n h_{t-1} A_n + dh_t B_tn x_t
#             dx_t <- dx_t + dh_t B_tn Delta_t;             dA_n <- dA_n + dh_n h_{t-1} Delta_t
#         ddelta <- dDelta sigmoid(raw);  dbias <- dbias + ddelta;  dD <- dD + dy x
#
# Sums over time are in float32 within a chunk, and in float64 over chunks, because there can be hundreds of chunks.
@njit(**JIT)
def backward(first, last, blocks, u, us, delta, ds, A, B, bs, C, cs, D, z, zs, delta_bias, with_z, with_softplus,
             length, kept, dy, dlast, du, ddelta, dz, dA, dB, dC, dD, dbias):
    """Gradients of `forward` for the blocks `first` to `last` of all batch x blocks blocks.

    Args:
        dy: (B, L, D) flat.
        dlast: (B, D, N).
        du, ddelta, dz: (B, L, D) flat, to write.
        dA, dD, dbias: (B, D, N), (B, D) and (B, D) to write, one sum for each batch entry.
        dB, dC: (B, blocks, L, N) to write, one sum for each block.
    """
    channels, states = A.shape
    A_T, h = np.empty((states, WIDTH), np.float32), np.empty((states, KEPT_EVERY + 1, WIDTH), np.float32)
    dh, dA_T = np.empty((states, WIDTH), np.float32), np.empty((states, WIDTH), np.float32)
    D_block, bias_block = np.empty(WIDTH, np.float32), np.empty(WIDTH, np.float32)
    dD_chunk, dbias_chunk = np.empty(WIDTH, np.float32), np.empty(WIDTH, np.float32)
    dA_sum, dD_sum, dbias_sum = np.empty((states, WIDTH)), np.empty(WIDTH), np.empty(WIDTH)
    x, raw = np.zeros((KEPT_EVERY, WIDTH), np.float32), np.zeros((KEPT_EVERY, WIDTH), np.float32)
    Delta, y = np.zeros((KEPT_EVERY, WIDTH), np.float32), np.zeros((KEPT_EVERY, WIDTH), np.float32)
    dy_chunk, dx = np.zeros((KEPT_EVERY, WIDTH), np.float32), np.zeros((KEPT_EVERY, WIDTH), np.float32)
    dDelta, z_chunk = np.zeros((KEPT_EVERY, WIDTH), np.float32), np.zeros((KEPT_EVERY, WIDTH), np.float32)
    for task in range(first, last):
        b, block, group, d0, width = find_block(task, blocks, channels, bs[3])
        load_parameters(width, d0, A, D, delta_bias, A_T, D_block, bias_block)
        dh[:], dA_sum[:], dD_sum[:], dbias_sum[:], x[:], raw[:], dy_chunk[:] = 0., 0., 0., 0., 0., 0., 0.
        for j in range(width):
            for n in range(states):
                dh[n, j] = dlast[b, d0 + j, n]
        for start in range((length - 1) // KEPT_EVERY * KEPT_EVERY, -1, -KEPT_EVERY):
            count = min(KEPT_EVERY, length - start)
            b_at, c_at = b * bs[0] + start * bs[1] + group * bs[2], b * cs[0] + start * cs[1] + group * cs[2]
            y_at = (b * length + start) * channels + d0
            h[:, 0] = kept[b, block, start // KEPT_EVERY]
            load_inputs(count, width, b, start, d0, u, us, delta, ds, bias_block, with_softplus, x, raw, Delta)
            scan_chunk(count, A_T, D_block, x, Delta, B, b_at, bs[1], C, c_at, cs[1], y, h, True)
            for i in range(count):
                for j in range(width):
                    dy_chunk[i, j] = dy[y_at + i * channels + j]
            if with_z:
                load_rows(count, width, z, b * zs[0] + start * zs[1] + d0 * zs[2], zs, z_chunk)
                gate_backward(count, width, z_chunk, y, y_at, channels, dy_chunk, dz)
            dA_T[:], dD_chunk[:], dbias_chunk[:] = 0., 0., 0.
            for i in range(count):
                for j in range(WIDTH):
                    dx[i, j] = dy_chunk[i, j] * D_block[j]
                    dDelta[i, j] = np.float32(0.)
                    dD_chunk[j] += dy_chunk[i, j] * x[i, j]
            scan_chunk_backward(count, A_T, x, Delta, dy_chunk, B, b_at, bs[1], C, c_at, cs[1], h, dh, dA_T, dx, dDelta,
                                dB[b, block, start:], dC[b, block, start:])
            for i in range(count):
                for j in range(WIDTH):
                    if with_softplus:
                        dDelta[i, j] *= sigmoid(raw[i, j])
                    dbias_chunk[j] += dDelta[i, j]
                for j in range(width):
                    du[y_at + i * channels + j] = dx[i, j]
                    ddelta[y_at + i * channels + j] = dDelta[i, j]
            dA_sum += dA_T
            dD_sum += dD_chunk
            dbias_sum += dbias_chunk
        for j in range(width):
            dD[b, d0 + j], dbias[b, d0 + j] = dD_sum[j], dbias_sum[j]
            for n in range(states):
                dA[b, d0 + j, n] = dA_sum[n, j]
