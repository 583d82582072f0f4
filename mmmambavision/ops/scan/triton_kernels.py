"""Kernels of the Triton scan: what all of them share, and those of the forward pass; see `triton.py` for their launches
and docs/selective_scan.md for the derivation.

Mamba's symbols (arXiv 2312.00752, algorithm 2): x is the input, which `selective_scan` calls u, Delta the step after
its bias and softplus, h the state. dq means the gradient of the loss by q.

A program is one warp. It takes WIDTH channels of a sequence, a few per lane, and walks over a segment of the time with
the N states of its channels in registers, a tuple of N tensors [WIDTH]: no step needs another lane, but for the sums
over channels in dB and dC, and B_t and C_t, the same for all channels, are scalars. Time goes by chunks of CHUNK steps,
unrolled, so that a chunk's loads are under way together. Loops over chunks are written with while: Triton's interpreter
cannot take the bounds of a range from numpy since its release 2.4. Tensors that a call does not have are None, for
which Triton compiles a variant of its own.
"""
import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
# Different in every image, so not worth a compiled variant each.
SIZES = ['length', 'chunks', 'segments', 'segment_chunks']


@triton.jit
def sigmoid(x):
    return 1. / (1. + tl.exp(-x))


@triton.jit
def softplus(x):
    """log(1 + e^x) as max(x, 0) + log(1 + e), e = e^-|x|, by the series of 2 artanh(e / (2 + e)): exact
    for small e, too."""
    e = tl.exp(-tl.abs(x))
    s = e / (e + 2.)
    q = s * s
    p = q * (1 / 15) + (1 / 13)
    p = p * q + (1 / 11)
    p = p * q + (1 / 9)
    p = p * q + (1 / 7)
    p = p * q + (1 / 5)
    p = p * q + (1 / 3)
    p = p * q + 1.
    return tl.maximum(x, 0.) + 2. * s * p


@triton.jit
def locate(lane, blocks, group_blocks, group_channels, WIDTH: tl.constexpr):
    """This program's batch entry, block and group; for each place in `lane` its channel and whether it really has one.

    Places beyond the last channel, and times beyond the last one, read inputs of 0 and have a step of 0, which leaves a
    state as it is. Channels are lane plus a constant, so that the compiler loads those of a lane together.
    """
    program = tl.program_id(0)
    block = program % blocks
    within = block % group_blocks * WIDTH + lane
    group = block // group_blocks
    d = group * group_channels + within
    return (program // blocks).to(tl.int64), block, group, d, within < group_channels


@triton.jit
def load(pointers):
    return tl.load(pointers).to(tl.float32)


@triton.jit
def read(pointers, mask):
    """Values in float32, 0 where `mask` is not."""
    return tl.load(pointers, mask, 0.).to(tl.float32)


@triton.jit
def in_time(here, t, length, lane):
    """`here` where t < length too. Compared in every lane: Triton 3.9.0's interpreter cannot broadcast a bool."""
    return here & (t + 0 * lane < length)


@triton.jit
def load_states(pointers, stride, N: tl.constexpr):
    """N float32 tensors, `stride` apart."""
    values = ()
    for n in tl.static_range(N):
        values += (load(pointers + n * stride),)
    return values


@triton.jit
def store_states(pointers, values, mask, stride, N: tl.constexpr):
    for n in tl.static_range(N):
        tl.store(pointers + n * stride, values[n], mask=mask)


@triton.jit
def zero_states(N: tl.constexpr, WIDTH: tl.constexpr):
    values = ()
    for n in tl.static_range(N):
        values += (tl.zeros([WIDTH], tl.float32),)
    return values


@triton.jit
def begin(lane, u, delta, A, B, C, D, bias, u_b, u_d, delta_b, delta_d, B_b, B_g, C_b, C_g, blocks, group_blocks,
          group_channels, N: tl.constexpr, WIDTH: tl.constexpr):
    """What every kernel that walks over time begins with.

    Returns:
        b, block, d, here: as `locate`.
        A2: A log2 e, N tensors [WIDTH]: GPUs have an instruction for powers of two.
        D_d, bias_d: [WIDTH], 0 where there are none.
        u, delta, B, C: pointers to this program's channels or group, at time 0.
    """
    b, block, group, d, here = locate(lane, blocks, group_blocks, group_channels, WIDTH)
    A2 = ()
    for n in tl.static_range(N):
        A2 += (read(A + d * N + n, here) * LOG2E,)
    D_d = read(D + d, here) if D is not None else tl.zeros([WIDTH], tl.float32)
    bias_d = read(bias + d, here) if bias is not None else tl.zeros([WIDTH], tl.float32)
    return (b, block, d, here, A2, D_d, bias_d, u + (b * u_b + d * u_d), delta + (b * delta_b + d * delta_d),
            B + (b * B_b + group * B_g), C + (b * C_b + group * C_g))


@triton.jit
def load_inputs(u, delta, bias, t, u_t, delta_t, here, length, lane, SOFTPLUS: tl.constexpr):
    """The time t, or the last one beyond it; where there is a channel and a time; x, Delta and what went into its
    softplus, [WIDTH], x and Delta 0 elsewhere."""
    mask, t = in_time(here, t, length, lane), tl.minimum(t, length - 1)
    x = read(u + t * u_t, mask)
    raw = read(delta + t * delta_t, mask) + bias
    Delta = softplus(raw) if SOFTPLUS else raw
    return t, mask, x, tl.where(mask, Delta, 0.), raw


@triton.jit
def advance(h, Delta, Delta_x, A2, B, B_n, N: tl.constexpr):
    """h_t = exp(Delta A) h_{t-1} + Delta B x, with A2 = A log2 e."""
    after = ()
    for n in tl.static_range(N):
        after += (tl.exp2(Delta * A2[n]) * h[n] + Delta_x * load(B + n * B_n),)
    return after


# Parallel over batch x blocks of WIDTH channels, and over segments. For each segment:
#
#     E (N, WIDTH) <- 0;  S (WIDTH) <- 0
#     forward, for each step t:                E_n <- exp(Delta_t A_n) E_n + Delta_t B_tn x_t
#     REVERSE, for each step t from the last:  E_n <- exp(Delta_t A_n) (E_n + C_tn dy_t),    dy_t times SiLU(z_t)
#     S <- S + Delta_t
#
# The segment makes exp(S A) h + E of a state h before it, or with REVERSE of a gradient after it: the next kernel needs
# no more of it.
@triton.jit(do_not_specialize=SIZES)
def selective_scan_segment_ends_kernel(
        u, delta, A, weights, z, bias, ends, sums, u_b, u_d, u_t, delta_b, delta_d, delta_t, B_b, B_g, B_n, B_t,
        z_b, z_d, z_t, blocks, group_blocks, group_channels, length, segments, segment_chunks, REVERSE: tl.constexpr,
        SOFTPLUS: tl.constexpr, N: tl.constexpr, WIDTH: tl.constexpr, CHUNK: tl.constexpr):
    """E into ends (B, blocks, segments, N, WIDTH), S into sums (B, blocks, segments, WIDTH).

    `weights` is B, or with REVERSE C; `u` is u, or with REVERSE dy, gated by z if there is one.
    """
    lane, segment = tl.arange(0, WIDTH), tl.program_id(1)
    b, block, d, here, A2, no_D, bias_d, u, delta, weights, same = begin(
        lane, u, delta, A, weights, weights, None, bias, u_b, u_d, delta_b, delta_d, B_b, B_g, B_b, B_g, blocks,
        group_blocks, group_channels, N, WIDTH)
    if z is not None:
        z += b * z_b + d * z_d
    E, S = zero_states(N, WIDTH), tl.zeros([WIDTH], tl.float32)
    i = 0
    while i < segment_chunks:
        for k in tl.static_range(CHUNK):
            position = i * CHUNK + k
            t = segment * segment_chunks * CHUNK + (segment_chunks * CHUNK - 1 - position if REVERSE else position)
            t, mask, x, Delta, raw = load_inputs(u, delta, bias_d, t, u_t, delta_t, here, length, lane, SOFTPLUS)
            if REVERSE:
                if z is not None:
                    z_t_d = read(z + t * z_t, mask)
                    x *= z_t_d * sigmoid(z_t_d)
                before = ()
                for n in tl.static_range(N):
                    before += (tl.exp2(Delta * A2[n]) * (E[n] + x * load(weights + t * B_t + n * B_n)),)
                E = before
            else:
                E = advance(E, Delta, Delta * x, A2, weights + t * B_t, B_n, N)
            S += Delta
        i += 1
    at = (b * blocks + block) * segments + segment
    store_states(ends + at * N * WIDTH + lane, E, lane < WIDTH, WIDTH, N)
    tl.store(sums + at * WIDTH + lane, S)


# Parallel over batch x blocks, states n and groups of LANES channels. For each of them, with H <- 0 or `last`:
#
#     for each segment j, with REVERSE from the last one:
#         starts_j <- H
#         H <- exp(S_j A_n) H + E_j
#
# This is the only serial part. TOGETHER segments are loaded at a time, so that the latency of loads counts once.
@triton.jit(do_not_specialize=SIZES)
def selective_scan_segment_starts_kernel(
        ends, sums, A, last, starts, blocks, group_blocks, group_channels, channels, segments, REVERSE: tl.constexpr,
        N: tl.constexpr, WIDTH: tl.constexpr, LANES: tl.constexpr, TOGETHER: tl.constexpr):
    """Starts (B, blocks, segments, N, WIDTH) of the segments from `ends` and `sums` of `..._segment_ends_kernel`: the
    states before them, or with REVERSE the gradients after them, the last one's being `last` (B, D, N) or 0."""
    n, lane = tl.program_id(1), tl.program_id(2) * LANES + tl.arange(0, LANES)
    b, block, group, d, here = locate(lane, blocks, group_blocks, group_channels, WIDTH)
    A2 = read(A + d * N + n, here) * LOG2E
    H = read(last + (b * channels + d) * N + n, here) if last is not None else tl.zeros([LANES], tl.float32)
    first = 0
    while first < segments:
        segment = (b * blocks + block) * segments + (segments - 1 - first if REVERSE else first)
        place = (segment * N + n) * WIDTH + lane
        loaded = ()
        for k in tl.static_range(TOGETHER):
            there = 0 * lane + first + k < segments
            # The distances are constants, so that addresses cost nothing.
            loaded += ((tl.load(ends + place + (-k if REVERSE else k) * N * WIDTH, there, 0.),
                        tl.load(sums + segment * WIDTH + lane + (-k if REVERSE else k) * WIDTH, there, 0.), there),)
        for k in tl.static_range(TOGETHER):
            E, S, there = loaded[k]
            tl.store(starts + place + (-k if REVERSE else k) * N * WIDTH, H, there)
            H = tl.exp2(S * A2) * H + E
        first += TOGETHER


# Algorithm 2. Parallel over batch x blocks of WIDTH channels, and over segments. For each segment, with h (N, WIDTH)
# from `starts`, or 0 without it:
#
#     for each chunk of CHUNK steps:
#         kept <- h, if there will be a backward pass
#         for each step t of the chunk:
#             h_n <- exp(Delta_t A_n) h_n + Delta_t B_tn x_t
#             y_t <- D x_t + sum over n of C_tn h_n;  y_t <- y_t SiLU(z_t)
#     last <- h, of the last segment
#
# Kept: h before every chunk, N / CHUNK of u's size. All other states are computed again by the backward pass.
@triton.jit(do_not_specialize=SIZES)
def selective_scan_fwd_kernel(
        u, delta, A, B, C, D, z, bias, starts, y, kept, last, u_b, u_d, u_t, delta_b, delta_d, delta_t,
        B_b, B_g, B_n, B_t, C_b, C_g, C_n, C_t, z_b, z_d, z_t, blocks, group_blocks, group_channels, channels, length,
        chunks, segments, segment_chunks, SOFTPLUS: tl.constexpr, N: tl.constexpr, WIDTH: tl.constexpr,
        CHUNK: tl.constexpr):
    """Outputs y (B, L, D), the last state into last (B, D, N), and states into kept (B, blocks, chunks, N, WIDTH)."""
    lane, segment = tl.arange(0, WIDTH), tl.program_id(1)
    b, block, d, here, A2, D_d, bias_d, u, delta, B, C = begin(
        lane, u, delta, A, B, C, D, bias, u_b, u_d, delta_b, delta_d, B_b, B_g, C_b, C_g, blocks, group_blocks,
        group_channels, N, WIDTH)
    if z is not None:
        z += b * z_b + d * z_d
    y += b * length * channels + d
    if kept is not None:
        kept += (b * blocks + block) * chunks * N * WIDTH + lane
    if starts is not None:
        at = (b * blocks + block) * segments + segment
        h = load_states(starts + at * N * WIDTH + lane, WIDTH, N)
    else:
        h = zero_states(N, WIDTH)
    chunk = segment * segment_chunks
    end = tl.minimum(chunk + segment_chunks, chunks)
    while chunk < end:
        if kept is not None:
            store_states(kept + chunk.to(tl.int64) * N * WIDTH, h, lane < WIDTH, WIDTH, N)
        for k in tl.static_range(CHUNK):
            t, mask, x, Delta, raw = load_inputs(u, delta, bias_d, chunk * CHUNK + k, u_t, delta_t, here, length, lane,
                                                 SOFTPLUS)
            h = advance(h, Delta, Delta * x, A2, B + t * B_t, B_n, N)
            y_t = D_d * x
            for n in tl.static_range(N):
                y_t += h[n] * load(C + t * C_t + n * C_n)
            if z is not None:
                z_t_d = read(z + t * z_t, mask)
                y_t *= z_t_d * sigmoid(z_t_d)
            tl.store(y + t * channels, y_t, mask=mask)
        chunk += 1
    if segment == segments - 1:
        store_states(last + (b * channels + d) * N, h, here, 1, N)
