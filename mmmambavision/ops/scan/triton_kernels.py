"""Triton kernels of the scan's forward pass, and functions that all kernels of the scan share.

`triton.py` launches the kernels. docs/selective_scan.md has the derivation.

Symbols as in Mamba (arXiv 2312.00752, algorithm 2): x is the input (u in `selective_scan`), Delta is the step after its
bias and softplus, h is the state. dq is the gradient of the loss with respect to q.

A program is one warp. It processes WIDTH channels of a sequence, a few channels per lane, over one segment of the time
axis. The N states of the channels stay in registers, as a tuple of N tensors [WIDTH]. Only the sums over channels in dB
and dC need data from other lanes. B_t and C_t are the same for all channels, so they are scalars. A chunk of CHUNK
steps is unrolled, so that its loads run together. Loops over chunks use `while`, because Triton's interpreter does not
accept numpy's integers as bounds of a range since numpy 2.4. A missing tensor is None, and Triton compiles a separate
variant for it.
"""
import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
# These sizes differ from image to image, so Triton must not compile a variant for each value.
SIZES = ['length', 'chunks', 'segments', 'segment_chunks']


@triton.jit
def sigmoid(x):
    return 1. / (1. + tl.exp(-x))


@triton.jit
def softplus(x):
    """log(1 + e^x) as max(x, 0) + log(1 + e) with e = e^-|x|.

    log(1 + e) is the series of 2 artanh(e / (2 + e)), which is also accurate for small e.
    """
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
    """This program's batch entry, block and group; for each entry of `lane` its channel, and whether it exists.

    Beyond the last channel and the last time step, inputs and steps are 0, which leaves the state unchanged. Channels
    are lane plus a constant, so that the compiler loads the channels of a lane together.
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
    """Values in float32, 0 where `mask` is false."""
    return tl.load(pointers, mask, 0.).to(tl.float32)


@triton.jit
def in_time(here, t, length, lane):
    """`here` and t < length, compared in every lane, because Triton 3.9.0's interpreter cannot broadcast a bool."""
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
    """Common first part of the kernels that loop over time.

    Returns:
        b, block, d, here: as `locate`.
        A2: A log2 e, N tensors [WIDTH], because GPUs have an instruction for powers of two.
        D_d, bias_d: [WIDTH], 0 if D or the bias is None.
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
    """Load the inputs of one step.

    Returns:
        t: the time step, at most the last one.
        mask: whether the channel and the time step exist, [WIDTH].
        x, Delta: [WIDTH], 0 where `mask` is false.
        raw: the step before softplus, [WIDTH].
    """
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
# If h is the state before the segment, exp(S A) h + E is the state after it. With REVERSE, the same formula gives the
# gradient before the segment from the gradient after it. The next kernel needs only E and S.
@triton.jit(do_not_specialize=SIZES)
def selective_scan_segment_ends_kernel(
        u, delta, A, weights, z, bias, ends, sums, u_b, u_d, u_t, delta_b, delta_d, delta_t, B_b, B_g, B_n, B_t,
        z_b, z_d, z_t, blocks, group_blocks, group_channels, length, segments, segment_chunks, REVERSE: tl.constexpr,
        SOFTPLUS: tl.constexpr, N: tl.constexpr, WIDTH: tl.constexpr, CHUNK: tl.constexpr):
    """Write E to ends (B, blocks, segments, N, WIDTH) and S to sums (B, blocks, segments, WIDTH).

    `weights` is B, with REVERSE it is C. `u` is u, with REVERSE it is dy, which is gated by z if z is given.
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


# Parallel over batch x blocks, states n and groups of LANES channels. For each program, with H <- 0 or `last`:
#
#     for each segment j (with REVERSE in reverse order):
#         starts_j <- H
#         H <- exp(S_j A_n) H + E_j
#
# Only this kernel is serial over segments. It loads TOGETHER segments at once, so that their latencies overlap.
@triton.jit(do_not_specialize=SIZES)
def selective_scan_segment_starts_kernel(
        ends, sums, A, last, starts, blocks, group_blocks, group_channels, channels, segments, REVERSE: tl.constexpr,
        N: tl.constexpr, WIDTH: tl.constexpr, LANES: tl.constexpr, TOGETHER: tl.constexpr):
    """Write the initial states of the segments to starts (B, blocks, segments, N, WIDTH).

    They are computed from `ends` and `sums` of `..._segment_ends_kernel`. With REVERSE, starts has the gradients of the
    states after the segments. For the last segment, this is `last` (B, D, N) or 0.
    """
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
            # The offsets are constants, so they need no address arithmetic.
            loaded += ((tl.load(ends + place + (-k if REVERSE else k) * N * WIDTH, there, 0.),
                        tl.load(sums + segment * WIDTH + lane + (-k if REVERSE else k) * WIDTH, there, 0.), there),)
        for k in tl.static_range(TOGETHER):
            E, S, there = loaded[k]
            tl.store(starts + place + (-k if REVERSE else k) * N * WIDTH, H, there)
            H = tl.exp2(S * A2) * H + E
        first += TOGETHER


# Algorithm 2. Parallel over batch x blocks of WIDTH channels, and over segments. For each segment, with h (N, WIDTH)
# from `starts`, or 0 if `starts` is None:
#
#     for each chunk of CHUNK steps:
#         kept <- h, if there will be a backward pass
#         for each step t of the chunk:
#             h_n <- exp(Delta_t A_n) h_n + Delta_t B_tn x_t
#             y_t <- D x_t + sum over n of C_tn h_n;  y_t <- y_t SiLU(z_t)
#     last <- h, of the last segment
#
# Kept: h before every chunk, N / CHUNK times the size of u. The backward pass recomputes all other states.
@triton.jit(do_not_specialize=SIZES)
def selective_scan_fwd_kernel(
        u, delta, A, B, C, D, z, bias, starts, y, kept, last, u_b, u_d, u_t, delta_b, delta_d, delta_t,
        B_b, B_g, B_n, B_t, C_b, C_g, C_n, C_t, z_b, z_d, z_t, blocks, group_blocks, group_channels, channels, length,
        chunks, segments, segment_chunks, SOFTPLUS: tl.constexpr, N: tl.constexpr, WIDTH: tl.constexpr,
        CHUNK: tl.constexpr):
    """Write the outputs to y (B, L, D), the last state to last (B, D, N) and states to kept (B, blocks, chunks, N,
    WIDTH)."""
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
