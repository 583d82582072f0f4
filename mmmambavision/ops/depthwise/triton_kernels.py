"""Kernels of the depthwise convolution with SiLU. `triton.py` launches them.

x_t is 0 beyond the ends, w_k are the three taps of a channel, and s is the sigmoid. dq is the gradient of the loss with
respect to q. A program processes tiles [TIME, WIDTH] of a sequence, with channels in the lanes. Neighbours in time are
loaded several times, but from the L1 cache, so each number is read from memory once and written once. Each program
writes one sum over time. torch adds these sums in a fixed order.
"""
import triton
import triton.language as tl

SIZES = ['length', 'blocks']  # they differ from image to image, so Triton must not compile a variant for each value


@triton.jit
def load_at(pointers, t, stride, length, here):
    """Values [TIME, WIDTH] at times t, 0 beyond the ends."""
    return tl.load(pointers + t * stride, mask=here & (t >= 0) & (t < length), other=0.).to(tl.float32)


@triton.jit
def load_taps(weight, d, here):
    return (tl.load(weight + 3 * d, mask=here, other=0.).to(tl.float32),
            tl.load(weight + 3 * d + 1, mask=here, other=0.).to(tl.float32),
            tl.load(weight + 3 * d + 2, mask=here, other=0.).to(tl.float32))


# Parallel over batch x tiles of time, and tiles of channels:
#
#     p_t <- w_0 x_{t-1} + w_1 x_t + w_2 x_{t+1}
#     y_t <- p_t s(p_t)
@triton.jit(do_not_specialize=SIZES)
def depthwise_silu_fwd_kernel(x, weight, y, x_b, x_t, x_c, channels, length, blocks, TIME: tl.constexpr,
                              WIDTH: tl.constexpr):
    """Write y (B, L, C). Each program computes one tile."""
    b = (tl.program_id(0) // blocks).to(tl.int64)
    t = tl.program_id(0) % blocks * TIME + tl.arange(0, TIME)[:, None]
    d = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)[None, :]
    here = d < channels
    w = load_taps(weight, d, here)
    x += b * x_b + d * x_c
    p = tl.zeros([TIME, WIDTH], tl.float32)
    for k in tl.static_range(3):
        p += w[k] * load_at(x, t + (k - 1), x_t, length, here)
    tl.store(y + b * length * channels + t * channels + d, p / (1. + tl.exp(-p)), mask=here & (t < length))


# Parallel over batch x groups of TILES tiles of time, and tiles of channels. It keeps nothing from the forward pass:
#
#     p_t  <- w_0 x_{t-1} + w_1 x_t + w_2 x_{t+1}                       recomputed
#     dp_t <- dy_t s(p_t) (1 + p_t (1 - s(p_t)))
#     dx_t <- w_2 dp_{t-1} + w_1 dp_t + w_0 dp_{t+1}
#     dw_k <- sum over t of dp_t x_{t+k-1}
@triton.jit(do_not_specialize=SIZES)
def depthwise_silu_bwd_kernel(x, weight, dy, dx, dw, x_b, x_t, x_c, dy_b, dy_t, dy_c, channels, length, blocks,
                              TIME: tl.constexpr, WIDTH: tl.constexpr, TILES: tl.constexpr):
    """Write dx (B, L, C) for TILES tiles, and their sums for the weights to dw (programs in time, 3, C)."""
    b = (tl.program_id(0) // blocks).to(tl.int64)
    lane = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    d = lane[None, :]
    here = d < channels
    w = load_taps(weight, d, here)
    x += b * x_b + d * x_c
    dy += b * dy_b + d * dy_c
    dx += b * length * channels + d
    dw_0 = tl.zeros([TIME, WIDTH], tl.float32)
    dw_1 = tl.zeros([TIME, WIDTH], tl.float32)
    dw_2 = tl.zeros([TIME, WIDTH], tl.float32)
    i = 0
    while i < TILES:
        t = (tl.program_id(0) % blocks * TILES + i) * TIME + tl.arange(0, TIME)[:, None]
        values = ()
        for k in tl.static_range(5):
            values += (load_at(x, t + (k - 2), x_t, length, here),)
        dp = ()
        for k in tl.static_range(3):
            p = w[0] * values[k] + w[1] * values[k + 1] + w[2] * values[k + 2]
            s = 1. / (1. + tl.exp(-p))
            dp += (load_at(dy, t + (k - 1), dy_t, length, here) * s * (1. + p * (1. - s)),)
        tl.store(dx + t * channels, w[2] * dp[0] + w[1] * dp[1] + w[0] * dp[2], mask=here & (t < length))
        dw_0 += dp[1] * values[1]
        dw_1 += dp[1] * values[2]
        dw_2 += dp[1] * values[3]
        i += 1
    dw += tl.program_id(0).to(tl.int64) * 3 * channels + lane
    tl.store(dw, tl.sum(dw_0, axis=0), mask=lane < channels)
    tl.store(dw + channels, tl.sum(dw_1, axis=0), mask=lane < channels)
    tl.store(dw + 2 * channels, tl.sum(dw_2, axis=0), mask=lane < channels)
