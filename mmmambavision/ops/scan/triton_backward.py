"""Triton kernel of the scan's backward pass. `triton_kernels.py` explains the symbols and the work of a program."""
import triton
import triton.language as tl

from .triton_kernels import (
    LOG2E,
    SIZES,
    advance,
    begin,
    in_time,
    load,
    load_inputs,
    load_states,
    read,
    sigmoid,
    store_states,
    zero_states,
)


@triton.jit
def fold(values, HALF: tl.constexpr):
    """Sums over the channels of each lane: [HALF x channels] to [HALF]."""
    return tl.sum(tl.reshape(values, [HALF, values.shape[0] // HALF]), axis=1)


@triton.jit
def merge(first, second, lane, apart: tl.constexpr):
    """Sums over pairs of lanes with the distance `apart`, with one exchange instead of two.

    The lower lane of a pair gets the sum of `first`, the upper lane the sum of `second`.
    """
    upper = (lane & apart) != 0
    kept, sent = tl.where(upper, second, first), tl.where(upper, first, second)
    return kept + tl.gather(sent, lane ^ apart, 0)


@triton.jit
def sum_lanes(pairs, lane):
    """Sums over 32 lanes of 16 numbers, in 16 exchanges instead of 80.

    Args:
        pairs: 8 tensors [32] from `merge` with apart = 16. Each has the sums of one number over two lanes in the lower
            half, and of another number in the upper half.
        lane: [32].

    Returns:
        [32]: for even l, lanes l and l + 1 have the same sum. Bit 4 of l selects the first or the second number of a
        pair. Bits 3, 2 and 1 of l are bits 0, 1 and 2 of the pair's index.
    """
    a, b = merge(pairs[0], pairs[1], lane, 8), merge(pairs[2], pairs[3], lane, 8)
    c, d = merge(pairs[4], pairs[5], lane, 8), merge(pairs[6], pairs[7], lane, 8)
    total = merge(merge(a, b, lane, 4), merge(c, d, lane, 4), lane, 2)
    return total + tl.gather(total, lane ^ 1, 0)


# Parallel over batch x blocks of WIDTH channels, and over segments. For each segment, with dh (N, WIDTH) from `starts`,
# or 0 if `starts` is None:
#
#     for each chunk of CHUNK steps, in reverse order:
#         h <- kept; recompute the states of the chunk's steps into registers
#         for each step t of the chunk, in reverse order:
#             dz_t <- dy_t y_t SiLU'(z_t);  dy_t <- dy_t SiLU(z_t)
#             dh_tn <- dh_n + C_tn dy_t                       h_t is used in y_t and in h_{t+1}
#             dC_tn <- sum over channels of dy_t h_tn;        dB_tn <- sum over channels of dh_tn Delta_t x_t
#             dh_n <- dh_tn exp(Delta_t A_n)                  gradient of h_{t-1} from all steps after t - 1
#             dDelta_t <- sum over n of dh_n h_{t-1,n} A_n + dh_tn B_tn x_t;  ddelta_t <- dDelta_t sigmoid(raw_t)
#             du_t <- D dy_t + sum over n of dh_tn B_tn Delta_t
#             dA_n <- dA_n + dh_n h_{t-1,n} Delta_t;  dD <- dD + dy_t x_t;  dbias <- dbias + ddelta_t
#
# dA, dD and dbias are sums over one segment. dB and dC are sums over one block. The caller adds them in a fixed order.
@triton.jit(do_not_specialize=SIZES)
def selective_scan_bwd_kernel(
        u, delta, A, B, C, D, z, bias, kept, starts, dy, du, ddelta, dz, sums, dBC, u_b, u_d, u_t,
        delta_b, delta_d, delta_t, B_b, B_g, B_n, B_t, C_b, C_g, C_n, C_t, z_b, z_d, z_t, dy_b, dy_d, dy_t, blocks,
        group_blocks, group_channels, channels, length, chunks, segments, segment_chunks, SOFTPLUS: tl.constexpr,
        N: tl.constexpr, WIDTH: tl.constexpr, CHUNK: tl.constexpr, LANES: tl.constexpr):
    """Write du, ddelta and dz (B, L, D); dA, dD and dbias, concatenated, to sums (B, blocks, segments, N + 2, WIDTH);
    dB and dC, stacked, to dBC (B, blocks, L, 2, N)."""
    lane, segment = tl.arange(0, WIDTH), tl.program_id(1)
    b, block, d, here, A2, D_d, bias_d, u, delta, B, C = begin(
        lane, u, delta, A, B, C, D, bias, u_b, u_d, delta_b, delta_d, B_b, B_g, C_b, C_g, blocks, group_blocks,
        group_channels, N, WIDTH)
    if z is not None:
        z += b * z_b + d * z_d
    dy += b * dy_b + d * dy_d
    to_outputs = b * length * channels + d
    dBC += (b * blocks + block) * length * 2 * N
    # The state (of 8) whose dB or dC `sum_lanes` leaves in each lane.
    half = tl.arange(0, LANES)
    state = (half >> 3 & 1) + (half >> 2 & 1) * 2 + (half >> 1 & 1) * 4
    kept += (b * blocks + block) * chunks * N * WIDTH + lane
    at = (b * blocks + block) * segments + segment
    if starts is not None:
        dh = load_states(starts + at * N * WIDTH + lane, WIDTH, N)
    else:
        dh = zero_states(N, WIDTH)
    dA = zero_states(N, WIDTH)
    dD, dbias = tl.zeros([WIDTH], tl.float32), tl.zeros([WIDTH], tl.float32)
    first = segment * segment_chunks
    chunk = tl.minimum(first + segment_chunks, chunks) - 1
    while chunk >= first:
        h = (load_states(kept + chunk.to(tl.int64) * N * WIDTH, WIDTH, N),)  # h[k]: before step k of the chunk
        inputs = ()
        for k in tl.static_range(CHUNK):
            t, mask, x, Delta, raw = load_inputs(u, delta, bias_d, chunk * CHUNK + k, u_t, delta_t, here, length, lane,
                                                 SOFTPLUS)
            h += (advance(h[k], Delta, Delta * x, A2, B + t * B_t, B_n, N),)
            inputs += ((x, Delta, raw),)
        for k in tl.static_range(CHUNK - 1, -1, -1):
            t = chunk * CHUNK + k
            there = t < length
            mask, writes = in_time(here, t, length, lane), in_time(half % 2 == 0, t, length, half)
            t = tl.minimum(t, length - 1)
            x, Delta, raw = inputs[k]
            C_t_n = load_states(C + t * C_t, C_n, N)
            dy_t_d = read(dy + t * dy_t, mask)
            if z is not None:
                z_t_d = read(z + t * z_t, mask)
                gate = sigmoid(z_t_d)
                y_t = D_d * x
                for n in tl.static_range(N):
                    y_t += h[k + 1][n] * C_t_n[n]
                tl.store(dz + to_outputs + t * channels, dy_t_d * y_t * gate * (1. + z_t_d * (1. - gate)), mask=mask)
                dy_t_d *= z_t_d * gate
            dh_before, dA_after, dBC_lanes = (), (), ()
            dDelta_x, dDelta = tl.zeros([WIDTH], tl.float32), tl.zeros([WIDTH], tl.float32)
            for n in tl.static_range(N):
                dh_t = C_t_n[n] * dy_t_d + dh[n]
                carried = dh_t * tl.exp2(Delta * A2[n])
                dexponent = carried * h[k][n]
                dDelta_x += dh_t * load(B + t * B_t + n * B_n)
                dDelta += dexponent * A2[n]
                dh_before += (carried,)
                # An infinite state stays infinite beyond the last step, and 0 times infinity is NaN.
                dA_after += (dA[n] + tl.where(there, dexponent * Delta, 0.),)
                dBC_lanes += (merge(fold(dh_t * (Delta * x), LANES), fold(h[k + 1][n] * dy_t_d, LANES), half, 16),)
            for n in tl.static_range(-N % 8):
                dBC_lanes += (tl.zeros([LANES], tl.float32),)
            for n in tl.static_range(0, N, 8):
                tl.store(dBC + t * 2 * N + (half >> 4) * N + n + state, sum_lanes(dBC_lanes[n:n + 8], half),
                         mask=writes & (n + state < N))
            dh, dA = dh_before, dA_after
            ddelta_t = dDelta / LOG2E + dDelta_x * x
            if SOFTPLUS:
                ddelta_t *= sigmoid(raw)
            ddelta_t = tl.where(mask, ddelta_t, 0.)
            dD += dy_t_d * x
            dbias += ddelta_t
            tl.store(du + to_outputs + t * channels, dDelta_x * Delta + D_d * dy_t_d, mask=mask)
            tl.store(ddelta + to_outputs + t * channels, ddelta_t, mask=mask)
        chunk -= 1
    sums += at * (N + 2) * WIDTH + lane
    store_states(sums, dA, lane < WIDTH, WIDTH, N)
    tl.store(sums + N * WIDTH, dD)
    tl.store(sums + (N + 1) * WIDTH, dbias)
