"""Kernels of the Triton scan; see `triton.py` for how they are launched and docs/selective_scan.md for the derivation.

A program is one warp. It takes WIDTH channels of a sequence, a few per lane, and walks over a segment of the time with
the N states of its channels in registers, a tuple of N tensors [WIDTH]: no step needs another lane, but for the sums
over channels in dB and dC, and weights B and C, the same for all channels, are scalars. Time goes by chunks of CHUNK
steps, unrolled, so that a chunk's loads are under way together. Loops over chunks are written with while: Triton's
interpreter cannot take the bounds of a range from numpy since its release 2.4.
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
def load_rates(A, d, here, N: tl.constexpr):
    """A log2 e as N tensors [WIDTH]: the instruction that there is takes powers of two."""
    values = ()
    for n in tl.static_range(N):
        values += (read(A + d * N + n, here) * LOG2E,)
    return values


@triton.jit
def load_step(delta, bias, mask, SOFTPLUS: tl.constexpr):
    """Steps [WIDTH], 0 where `mask` is not; and what went into the softplus."""
    raw = read(delta, mask) + bias
    step = softplus(raw) if SOFTPLUS else raw
    return tl.where(mask, step, 0.), raw


@triton.jit
def fold(values, HALF: tl.constexpr):
    """Sums over the channels of each lane: [HALF x channels] to [HALF]."""
    return tl.sum(tl.reshape(values, [HALF, values.shape[0] // HALF]), axis=1)


@triton.jit
def merge(first, second, lane, apart: tl.constexpr):
    """Sums over two lanes that are `apart`: of `first` in the lower one, of `second` in the upper one. One exchange
    between lanes does the work of two."""
    upper = (lane & apart) != 0
    kept, sent = tl.where(upper, second, first), tl.where(upper, first, second)
    return kept + tl.gather(sent, lane ^ apart, 0)


@triton.jit
def sum_lanes(pairs, lane):
    """Sums over 32 lanes of 16 numbers, in 16 exchanges instead of 80.

    Args:
        pairs: 8 tensors [32] from `merge` with 16: sums of two numbers over two lanes each, in either half.
        lane: [32].

    Returns:
        [32]: in the lanes l and l + 1, l even, the first or the second (bit 4 of l) number of pair n, whose bits 0, 1
        and 2 are the bits 3, 2 and 1 of l.
    """
    a, b = merge(pairs[0], pairs[1], lane, 8), merge(pairs[2], pairs[3], lane, 8)
    c, d = merge(pairs[4], pairs[5], lane, 8), merge(pairs[6], pairs[7], lane, 8)
    total = merge(merge(a, b, lane, 4), merge(c, d, lane, 4), lane, 2)
    return total + tl.gather(total, lane ^ 1, 0)


@triton.jit
def advance(h, step, weighted, rates, B, B_n, N: tl.constexpr):
    """States after a step of decay A, with rates = A log2 e."""
    after = ()
    for n in tl.static_range(N):
        after += (tl.exp2(step * rates[n]) * h[n] + weighted * load(B + n * B_n),)
    return after


@triton.jit(do_not_specialize=SIZES)
def segment_ends(u, delta, A, weights, z, bias, ends, sums, u_b, u_d, u_t, delta_b, delta_d, delta_t,
                 B_b, B_g, B_n, B_t, z_b, z_d, z_t, blocks, group_blocks, group_channels, length, segments,
                 segment_chunks, REVERSE: tl.constexpr, SOFTPLUS: tl.constexpr, HAS_Z: tl.constexpr,
                 HAS_BIAS: tl.constexpr, N: tl.constexpr, WIDTH: tl.constexpr, CHUNK: tl.constexpr):
    """What a segment makes of a zero state, into ends (B, blocks, segments, N, WIDTH), and the sum of its steps.

    Forward the state after it, with u and weights = B. With REVERSE the gradient of the state before it, from its own
    outputs alone, with u = dy and weights = C; z, if there is one, gates dy.
    """
    lane, segment = tl.arange(0, WIDTH), tl.program_id(1)
    b, block, group, d, here = locate(lane, blocks, group_blocks, group_channels, WIDTH)
    rates = load_rates(A, d, here, N)
    shift = read(bias + d, here) if HAS_BIAS else tl.zeros([WIDTH], tl.float32)
    u += b * u_b + d * u_d
    delta += b * delta_b + d * delta_d
    z += b * z_b + d * z_d
    weights += b * B_b + group * B_g
    h, total = zero_states(N, WIDTH), tl.zeros([WIDTH], tl.float32)
    i = 0
    while i < segment_chunks:
        for k in tl.static_range(CHUNK):
            position = i * CHUNK + k
            t = segment * segment_chunks * CHUNK + (segment_chunks * CHUNK - 1 - position if REVERSE else position)
            mask, t = in_time(here, t, length, lane), tl.minimum(t, length - 1)
            x = read(u + t * u_t, mask)
            step, _ = load_step(delta + t * delta_t, shift, mask, SOFTPLUS)
            if REVERSE:
                if HAS_Z:
                    value = read(z + t * z_t, mask)
                    x *= value * sigmoid(value)
                before = ()
                for n in tl.static_range(N):
                    decay = tl.exp2(step * rates[n])
                    before += (decay * (h[n] + x * load(weights + t * B_t + n * B_n)),)
                h = before
            else:
                h = advance(h, step, step * x, rates, weights + t * B_t, B_n, N)
            total += step
        i += 1
    at = (b * blocks + block) * segments + segment
    store_states(ends + at * N * WIDTH + lane, h, lane < WIDTH, WIDTH, N)
    tl.store(sums + at * WIDTH + lane, total)


@triton.jit(do_not_specialize=SIZES)
def segment_starts(ends, sums, A, last, starts, blocks, group_blocks, group_channels, channels, segments,
                   REVERSE: tl.constexpr, HAS_LAST: tl.constexpr, N: tl.constexpr, WIDTH: tl.constexpr,
                   LANES: tl.constexpr, TOGETHER: tl.constexpr):
    """Starts (B, blocks, segments, N, WIDTH) of the segments from all the ends before them; a program takes a state of
    LANES channels.

    With REVERSE from the last segment to the first, the last one starting with `last` (B, D, N). TOGETHER segments are
    loaded at a time, so that their latency counts once.
    """
    n, lane = tl.program_id(1), tl.program_id(2) * LANES + tl.arange(0, LANES)
    b, block, group, d, here = locate(lane, blocks, group_blocks, group_channels, WIDTH)
    rate = read(A + d * N + n, here) * LOG2E
    state = read(last + (b * channels + d) * N + n, here) if HAS_LAST else tl.zeros([LANES], tl.float32)
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
            end, total, there = loaded[k]
            tl.store(starts + place + (-k if REVERSE else k) * N * WIDTH, state, there)
            state = tl.exp2(total * rate) * state + end
        first += TOGETHER


@triton.jit(do_not_specialize=SIZES)
def forward(u, delta, A, B, C, D, z, bias, starts, y, kept, last, u_b, u_d, u_t, delta_b, delta_d, delta_t,
            B_b, B_g, B_n, B_t, C_b, C_g, C_n, C_t, z_b, z_d, z_t, blocks, group_blocks, group_channels, channels,
            length, chunks, segments, segment_chunks, SPLIT: tl.constexpr, KEEP: tl.constexpr, SOFTPLUS: tl.constexpr,
            HAS_D: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, N: tl.constexpr, WIDTH: tl.constexpr,
            CHUNK: tl.constexpr):
    """Outputs y (B, L, D) of a segment from its start, zero without SPLIT; the last one's state into last (B, D, N).

    With KEEP the states before every chunk go into kept (B, blocks, chunks, N, WIDTH).
    """
    lane, segment = tl.arange(0, WIDTH), tl.program_id(1)
    b, block, group, d, here = locate(lane, blocks, group_blocks, group_channels, WIDTH)
    rates = load_rates(A, d, here, N)
    skip = read(D + d, here) if HAS_D else tl.zeros([WIDTH], tl.float32)
    shift = read(bias + d, here) if HAS_BIAS else tl.zeros([WIDTH], tl.float32)
    u += b * u_b + d * u_d
    delta += b * delta_b + d * delta_d
    z += b * z_b + d * z_d
    B += b * B_b + group * B_g
    C += b * C_b + group * C_g
    y += b * length * channels + d
    kept += (b * blocks + block) * chunks * N * WIDTH + lane
    if SPLIT:
        at = (b * blocks + block) * segments + segment
        h = load_states(starts + at * N * WIDTH + lane, WIDTH, N)
    else:
        h = zero_states(N, WIDTH)
    chunk = segment * segment_chunks
    end = tl.minimum(chunk + segment_chunks, chunks)
    while chunk < end:
        if KEEP:
            store_states(kept + chunk.to(tl.int64) * N * WIDTH, h, lane < WIDTH, WIDTH, N)
        for k in tl.static_range(CHUNK):
            t = chunk * CHUNK + k
            mask, t = in_time(here, t, length, lane), tl.minimum(t, length - 1)
            x = read(u + t * u_t, mask)
            step, _ = load_step(delta + t * delta_t, shift, mask, SOFTPLUS)
            h = advance(h, step, step * x, rates, B + t * B_t, B_n, N)
            out = skip * x
            for n in tl.static_range(N):
                out += h[n] * load(C + t * C_t + n * C_n)
            if HAS_Z:
                value = read(z + t * z_t, mask)
                out *= value * sigmoid(value)
            tl.store(y + t * channels, out, mask=mask)
        chunk += 1
    if segment == segments - 1:
        store_states(last + (b * channels + d) * N, h, here, 1, N)


@triton.jit(do_not_specialize=SIZES)
def backward(u, delta, A, B, C, D, z, bias, kept, starts, dy, du, ddelta, dz, sums, dBC, u_b, u_d, u_t,
             delta_b, delta_d, delta_t, B_b, B_g, B_n, B_t, C_b, C_g, C_n, C_t, z_b, z_d, z_t, dy_b, dy_d, dy_t, blocks,
             group_blocks, group_channels, channels, length, chunks, segments, segment_chunks, SPLIT: tl.constexpr,
             SOFTPLUS: tl.constexpr, HAS_D: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, N: tl.constexpr,
             WIDTH: tl.constexpr, CHUNK: tl.constexpr, LANES: tl.constexpr):
    """Gradients of a segment, walking back from the gradient of the state after it in `starts`, zero without SPLIT.

    du, ddelta and dz are (B, L, D). Sums over time are per segment: dA, dD and dbias one behind the other, sums
    (B, blocks, segments, N + 2, WIDTH); sums over channels per block: dB and dC side by side, dBC (B, blocks, L, 2, N).
    """
    lane, segment = tl.arange(0, WIDTH), tl.program_id(1)
    b, block, group, d, here = locate(lane, blocks, group_blocks, group_channels, WIDTH)
    rates = load_rates(A, d, here, N)
    skip = read(D + d, here) if HAS_D else tl.zeros([WIDTH], tl.float32)
    shift = read(bias + d, here) if HAS_BIAS else tl.zeros([WIDTH], tl.float32)
    u += b * u_b + d * u_d
    delta += b * delta_b + d * delta_d
    z += b * z_b + d * z_d
    dy += b * dy_b + d * dy_d
    B += b * B_b + group * B_g
    C += b * C_b + group * C_g
    to_outputs = b * length * channels + d
    dBC += (b * blocks + block) * length * 2 * N
    # What `sum_lanes` leaves in each lane: dB or dC of which of 8 states.
    half = tl.arange(0, LANES)
    state = (half >> 3 & 1) + (half >> 2 & 1) * 2 + (half >> 1 & 1) * 4
    kept += (b * blocks + block) * chunks * N * WIDTH + lane
    at = (b * blocks + block) * segments + segment
    if SPLIT:
        g = load_states(starts + at * N * WIDTH + lane, WIDTH, N)
    else:
        g = zero_states(N, WIDTH)
    sum_A = zero_states(N, WIDTH)
    sum_D, sum_bias = tl.zeros([WIDTH], tl.float32), tl.zeros([WIDTH], tl.float32)
    first = segment * segment_chunks
    chunk = tl.minimum(first + segment_chunks, chunks) - 1
    while chunk >= first:
        states = (load_states(kept + chunk.to(tl.int64) * N * WIDTH, WIDTH, N),)
        inputs = ()
        for k in tl.static_range(CHUNK):
            t = chunk * CHUNK + k
            mask, t = in_time(here, t, length, lane), tl.minimum(t, length - 1)
            x = read(u + t * u_t, mask)
            step, raw = load_step(delta + t * delta_t, shift, mask, SOFTPLUS)
            states += (advance(states[k], step, step * x, rates, B + t * B_t, B_n, N),)
            inputs += ((x, step, raw),)
        for k in tl.static_range(CHUNK - 1, -1, -1):
            t = chunk * CHUNK + k
            there = t < length
            mask, writes = in_time(here, t, length, lane), in_time(half % 2 == 0, t, length, half)
            t = tl.minimum(t, length - 1)
            x, step, raw = inputs[k]
            C_weights = load_states(C + t * C_t, C_n, N)
            grad = read(dy + t * dy_t, mask)
            if HAS_Z:
                value = read(z + t * z_t, mask)
                gate = sigmoid(value)
                out = skip * x
                for n in tl.static_range(N):
                    out += states[k + 1][n] * C_weights[n]
                tl.store(dz + to_outputs + t * channels, grad * out * gate * (1. + value * (1. - gate)), mask=mask)
                grad *= value * gate
            # total is the gradient of the state after the step, through its output and through the next step.
            before, accumulated, pairs = (), (), ()
            weighted, dstep = tl.zeros([WIDTH], tl.float32), tl.zeros([WIDTH], tl.float32)
            for n in tl.static_range(N):
                total = C_weights[n] * grad + g[n]
                carried = total * tl.exp2(step * rates[n])
                through = carried * states[k][n]
                weighted += total * load(B + t * B_t + n * B_n)
                dstep += through * rates[n]
                before += (carried,)
                # A state that is infinite stays so beyond the last step, and 0 times it is NaN.
                accumulated += (sum_A[n] + tl.where(there, through * step, 0.),)
                pairs += (merge(fold(total * (step * x), LANES), fold(states[k + 1][n] * grad, LANES), half, 16),)
            for n in tl.static_range(-N % 8):
                pairs += (tl.zeros([LANES], tl.float32),)
            for n in tl.static_range(0, N, 8):
                tl.store(dBC + t * 2 * N + (half >> 4) * N + n + state, sum_lanes(pairs[n:n + 8], half),
                         mask=writes & (n + state < N))
            g, sum_A = before, accumulated
            dstep = dstep / LOG2E + weighted * x
            if SOFTPLUS:
                dstep *= sigmoid(raw)
            dstep = tl.where(mask, dstep, 0.)
            sum_D += grad * x
            sum_bias += dstep
            tl.store(du + to_outputs + t * channels, weighted * step + skip * grad, mask=mask)
            tl.store(ddelta + to_outputs + t * channels, dstep, mask=mask)
        chunk -= 1
    sums += at * (N + 2) * WIDTH + lane
    store_states(sums, sum_A, lane < WIDTH, WIDTH, N)
    tl.store(sums + N * WIDTH, sum_D)
    tl.store(sums + (N + 1) * WIDTH, sum_bias)
