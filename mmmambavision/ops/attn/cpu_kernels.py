"""Kernels of attention on a CPU, compiled by numba; see `cpu.py` for what they are given.

They are FlashAttention (Dao et al. 2022, arXiv 2205.14135, algorithms 1 and 4) with a tile of TILE queries in the lanes
of vectors and keys in blocks of BLOCK, one key in a row: maxima and sums over keys need no sums across lanes. The
backward pass has keys in the lanes and queries in rows. Scores are scaled to be exponents of 2.
"""
import numpy as np
from numba import njit

from ..compiled import jit_options
from ..cpu_math import exp2
from .products import ROWS, TILE, add_product, bfloat16_pair, put_product

BLOCK = 64
LOWEST = np.finfo(np.float32).min
RISE = np.float32(8.)
LOG_2 = np.float32(np.log(2))
JIT = dict(jit_options(), fastmath={'contract', 'nsz'})


@njit(**JIT)
def scratch(size, dtype):
    """`size` numbers of 4 bytes that begin where a cache line does."""
    array = np.empty(size + 16, dtype)
    start = -(array.ctypes.data // 4) % 16
    return array[start:start + size]


@njit(**JIT)
def put_rows(out, a, at, columns, count, tile, high):
    """out[t, :] = a[t, :] tile for t < count, or up to a multiple of ROWS, of a matrix at a[at]; `high` rises to it."""
    for t in range(0, count, ROWS):
        put_product(out, t * TILE, a, at + t * columns, columns, 1, tile, 0, columns, high)


@njit(**JIT)
def add_columns(tile, a, at, columns, count, weights):
    """tile[d, :] += sum over t < count of a[t, d] weights[t, :], of a matrix at a[at] whose columns ROWS divides."""
    for d in range(0, columns, ROWS):
        add_product(tile, d * TILE, a, at + d, 1, columns, weights, 0, count)


@njit(**JIT)
def load_tile(source, pair, first, tile):
    """Rows `first` to first + TILE of source[pair] as columns of `tile`; the last row fills it up."""
    for i in range(TILE):
        at = min(first + i, source.shape[1] - 1)
        for d in range(source.shape[2]):
            tile[d * TILE + i] = source[pair, at, d]


@njit(**JIT)
def store_tile(tile, factors, target, b, h, first):
    """Columns of `tile` times a factor each, as rows `first` to first + TILE of target[b, :, h], or fewer."""
    for i in range(min(TILE, target.shape[1] - first)):
        for d in range(target.shape[3]):
            target[b, first + i, h, d] = tile[d * TILE + i] * factors[i]


@njit(**JIT)
def rise(scale, top, high, total, out):
    """Raise the reference `top` of lanes to the maximum `high` of their scores so far, and fit sums so far to it.

    The reference may lag behind, which changes no result: weights grow to 2^RISE then.
    """
    risen = False
    for i in range(TILE):
        risen |= (high[i] - top[i]) * scale > RISE
    if risen:
        for i in range(TILE):
            top[i], high[i] = high[i], exp2((top[i] - high[i]) * scale)
            total[i] *= high[i]
        for d in range(out.shape[0] // TILE):
            for i in range(TILE):
                out[d * TILE + i] *= high[i]
        high[:] = top


@njit(**JIT)
def weigh(scores, count, scale, top, total, spare):
    """Scores to weights 2^((score - top) scale), and add them to the total of each lane."""
    spare[:] = 0
    for t in range(count):
        for i in range(TILE):
            weight = exp2((scores[t * TILE + i] - top[i]) * scale)
            scores[t * TILE + i] = weight
            spare[i] += weight
    for i in range(TILE):
        total[i] += spare[i]


@njit(**JIT)
def to_pairs(weights, count, pairs):
    """Weights of two keys, 2 t and 2 t + 1, rounded to bfloat16, as one int32 each; a key after the last weighs 0."""
    if count % 2:
        weights[count * TILE:(count + 1) * TILE] = 0
    for t in range((count + 1) // 2):
        for i in range(TILE):
            pairs[t * TILE + i] = bfloat16_pair(weights[2 * t * TILE + i], weights[(2 * t + 1) * TILE + i])


@njit(**JIT)
def forward(first, last, q, k, v, keys, scale, out, lse, in_pairs):
    """Tiles `first` to `last` of queries, of all (B heads tiles).

    Args:
        q, k: (B heads, queries or keys, d), float32, or int32 for d / 2 pairs of bfloat16 numbers. Keys are filled up
            to a multiple of ROWS with the last one.
        v: (B heads, keys, d), or (B heads, keys / 2, d) pairs of two keys. d is filled up to a multiple of ROWS.
        keys: how many there are.
        scale: what makes exponents of 2 of the scores.
        out: (B, queries, heads, d) float32 to write.
        lse: (B heads, queries) to write: log2 of the sum of 2^(scaled scores).
        in_pairs: None for float32.
    """
    heads, queries, columns, v_columns = out.shape[2], q.shape[1], q.shape[2], v.shape[2]
    tiles, k_flat, v_flat = -(-queries // TILE), k.reshape(-1), v.reshape(-1)
    q_tile, sums = scratch(columns * TILE, q.dtype), scratch(v_columns * TILE, np.float32)
    scores, pairs = scratch(BLOCK * TILE, np.float32), scratch(BLOCK // 2 * TILE, np.int32)
    top, high = scratch(TILE, np.float32), scratch(TILE, np.float32)
    total, spare = scratch(TILE, np.float32), scratch(TILE, np.float32)
    for task in range(first, last):
        pair, q0 = task // tiles, task % tiles * TILE
        load_tile(q, pair, q0, q_tile)
        sums[:], total[:], top[:], high[:] = 0, 0, LOWEST, LOWEST
        for k0 in range(0, keys, BLOCK):
            count = min(BLOCK, keys - k0)
            put_rows(scores, k_flat, (pair * k.shape[1] + k0) * columns, columns, count, q_tile, high)
            rise(scale, top, high, total, sums)
            weigh(scores, count, scale, top, total, spare)
            if in_pairs is None:
                add_columns(sums, v_flat, (pair * v.shape[1] + k0) * v_columns, v_columns, count, scores)
            else:
                to_pairs(scores, count, pairs)
                add_columns(sums, v_flat, (pair * v.shape[1] + k0 // 2) * v_columns, v_columns, (count + 1) // 2, pairs)
        for i in range(min(TILE, queries - q0)):
            lse[pair, q0 + i] = top[i] * scale + np.log2(total[i])
        for i in range(TILE):
            total[i] = np.float32(1) / total[i]
        store_tile(sums, total, out, pair // heads, pair % heads, q0)


@njit(**JIT)
def backward(first, last, q, k, v, dout, queries, keys, scale, lse, delta, dq, dk, dv):
    """Gradients of pairs `first` to `last` of (B heads); TILE keys in the lanes, queries in blocks.

    The gradient of a score with weight p is p (dout v - delta), where delta = dout out (ibid., B.4).

    Args:
        q, k, v, dout: (B heads, queries or keys, d) float32, both filled up to multiples of ROWS.
        queries, keys: how many there are.
        scale: what makes exponents of 2 of the scores.
        lse, delta: (B heads, queries).
        dq: (B heads, ceil(d / TILE), queries filled up, TILE), zeros to add to.
        dk, dv: (B, keys, heads, d) to write.
    """
    heads, rows, columns, planes = dk.shape[2], q.shape[1], q.shape[2], dq.shape[1]
    q_flat, dout_flat, dq_flat = q.reshape(-1), dout.reshape(-1), dq.reshape(-1)
    k_tile, v_tile = scratch(columns * TILE, np.float32), scratch(columns * TILE, np.float32)
    dk_tile, dv_tile = scratch(columns * TILE, np.float32), scratch(columns * TILE, np.float32)
    k_rows = scratch(planes * TILE * TILE, np.float32)
    weights, grads = scratch(BLOCK * TILE, np.float32), scratch(BLOCK * TILE, np.float32)
    factors, unused = scratch(TILE, np.float32), scratch(TILE, np.float32)
    k_rows[:], unused[:] = 0, 0
    for pair in range(first, last):
        for k0 in range(0, keys, TILE):
            here = min(TILE, keys - k0)
            load_tile(k, pair, k0, k_tile)
            load_tile(v, pair, k0, v_tile)
            for i in range(here):
                for d in range(columns):
                    k_rows[(d // TILE * TILE + i) * TILE + d % TILE] = k[pair, k0 + i, d]
            dk_tile[:], dv_tile[:] = 0, 0
            for q0 in range(0, queries, BLOCK):
                count, at = min(BLOCK, queries - q0), (pair * rows + q0) * columns
                put_rows(weights, q_flat, at, columns, count, k_tile, unused)
                put_rows(grads, dout_flat, at, columns, count, v_tile, unused)
                for t in range(count):
                    row_lse, row_delta = lse[pair, q0 + t], delta[pair, q0 + t]
                    for i in range(TILE):
                        exponent = weights[t * TILE + i] * scale - row_lse
                        # Above 0 by rounding alone, which may be by much where scores are large.
                        weights[t * TILE + i] = exp2(np.float32(0.) if exponent > np.float32(0.) else exponent)
                        grads[t * TILE + i] = weights[t * TILE + i] * (grads[t * TILE + i] - row_delta)
                add_columns(dv_tile, dout_flat, at, columns, count, weights)
                add_columns(dk_tile, q_flat, at, columns, count, grads)
                for plane in range(planes):
                    dq_at = ((pair * planes + plane) * rows + q0) * TILE
                    for t in range(0, count, ROWS):
                        add_product(dq_flat, dq_at + t * TILE, grads, t * TILE, TILE, 1,
                                    k_rows, plane * TILE * TILE, here)
            factors[:] = 1
            store_tile(dv_tile, factors, dv, pair // heads, pair % heads, k0)
            factors[:] = scale * LOG_2
            store_tile(dk_tile, factors, dk, pair // heads, pair % heads, k0)
