"""Kernels of attention on a CPU, compiled by numba. `cpu.py` calls them.

They implement FlashAttention (Dao et al. 2022, arXiv 2205.14135, algorithms 1 and 4) with the paper's symbols. The
outer loop holds a tile in the lanes of vectors: TILE queries in the forward pass, TILE keys in the backward pass. Tiles
are stored transposed (names with _T). The inner loop processes rows in blocks of BLOCK. Maxima and sums over keys
therefore need no sums across lanes. Exponentials are powers of 2: scale = log2(e) / sqrt(d).
"""
# ruff: noqa: E741 (l and O are the paper's symbols)
import numpy as np
from numba import njit

from ..compiled import jit_options
from ..cpu_math import exp2
from .products import ROWS, TILE, add_product, bfloat16_pair, put_product

BLOCK = 64
LOWEST = np.finfo(np.float32).min
MAX_LAG = np.float32(8.)  # largest difference between the true maximum and m, as an exponent of 2
LOG_2 = np.float32(np.log(2))
JIT = dict(jit_options(), fastmath={'contract', 'nsz'})


@njit(**JIT)
def scratch(size, dtype):
    """An array of `size` numbers of 4 bytes, aligned to a cache line."""
    array = np.empty(size + 16, dtype)
    start = -(array.ctypes.data // 4) % 16
    return array[start:start + size]


@njit(**JIT)
def put_rows_times_tile(out, a, at, columns, count, tile, high):
    """out[t, :] = a[t, :] tile for t < count, rounded up to a multiple of ROWS. The matrix a[t, :] begins at a[at].
    high[:] = max(high, out)."""
    for t in range(0, count, ROWS):
        put_product(out, t * TILE, a, at + t * columns, columns, 1, tile, 0, columns, high)


@njit(**JIT)
def add_transposed_times_rows(tile, a, at, columns, count, rows):
    """tile[d, :] += sum over t < count of a[t, d] rows[t, :]. The matrix a[t, d] begins at a[at]. ROWS divides the
    number of columns d."""
    for d in range(0, columns, ROWS):
        add_product(tile, d * TILE, a, at + d, 1, columns, rows, 0, count)


@njit(**JIT)
def load_tile(source, head, first, tile):
    """Load the rows `first` to first + TILE of source[head] as columns of `tile`. The last row pads it."""
    for i in range(TILE):
        at = min(first + i, source.shape[1] - 1)
        for d in range(source.shape[2]):
            tile[d * TILE + i] = source[head, at, d]


@njit(**JIT)
def store_tile(tile, factors, target, b, h, first):
    """Store the columns of `tile`, each times its factor, as rows `first` to at most first + TILE of target[b, :, h].
    """
    for i in range(min(TILE, target.shape[1] - first)):
        for d in range(target.shape[3]):
            target[b, first + i, h, d] = tile[d * TILE + i] * factors[i]


@njit(**JIT)
def raise_maximum(scale, m, m_new, l, O_T, alpha):
    """Online softmax: m <- m_new, and l and O_T are multiplied by alpha = 2^((m - m_new) scale).

    This happens only if m_new exceeds m by more than MAX_LAG. Otherwise P can be as large as 2^MAX_LAG, and the result
    is the same.
    """
    lags = False
    for i in range(TILE):
        lags |= (m_new[i] - m[i]) * scale > MAX_LAG
    if lags:
        for i in range(TILE):
            alpha[i] = exp2((m[i] - m_new[i]) * scale)
            m[i] = m_new[i]
            l[i] *= alpha[i]
        for d in range(O_T.shape[0] // TILE):
            for i in range(TILE):
                O_T[d * TILE + i] *= alpha[i]


@njit(**JIT)
def exponentiate(S_T, count, scale, m, l, row_sum):
    """S_T becomes P_T = 2^((S_T - m) scale), and l <- l + sum of P_T over keys."""
    row_sum[:] = 0
    for t in range(count):
        for i in range(TILE):
            p = exp2((S_T[t * TILE + i] - m[i]) * scale)
            S_T[t * TILE + i] = p
            row_sum[i] += p
    for i in range(TILE):
        l[i] += row_sum[i]


@njit(**JIT)
def to_bfloat16(P_T, count, P_T16):
    """Round P_T to bfloat16 and pack the keys 2 t and 2 t + 1 into one int32. A key after the last one gets 0."""
    if count % 2:
        P_T[count * TILE:(count + 1) * TILE] = 0
    for t in range((count + 1) // 2):
        for i in range(TILE):
            P_T16[t * TILE + i] = bfloat16_pair(P_T[2 * t * TILE + i], P_T[(2 * t + 1) * TILE + i])


# Algorithm 1. Parallel over tiles of TILE queries of all heads. For each tile:
#
#     Q_T (d, TILE) <- the queries;  O_T (d, TILE) <- 0;  l (TILE) <- 0;  m, m_new (TILE) <- the lowest float
#     for each block of BLOCK keys:
#         S_T (BLOCK, TILE) <- K Q_T
#         m_new <- max(m_new, maximum of S_T over the block)
#         if m_new is well above m:                                        online softmax
#             alpha <- 2^((m - m_new) scale);  l <- alpha l;  O_T <- alpha O_T;  m <- m_new
#         P_T <- 2^((S_T - m) scale), in the place of S_T
#         l <- l + sum of P_T over the block
#         O_T <- O_T + V^T P_T
#     O <- (O_T / l)^T;  lse <- m scale + log2(l)
#
# All buffers fit into the L2 cache. Only O and lse are written to memory. The backward pass recomputes S and P.
@njit(**JIT)
def forward(first, last, Q, K, V, keys, scale, O, lse, is_bfloat16):
    """Attention for the tiles `first` to `last` of queries. There are B x heads x tiles tiles.

    Args:
        Q, K: (B heads, queries or keys, d), float32, or int32 for d / 2 pairs of bfloat16 numbers. Keys are padded to a
            multiple of ROWS with the last key.
        V: (B heads, keys, d), or (B heads, keys / 2, d) pairs of two keys. d is padded to a multiple of ROWS.
        keys: number of keys.
        scale: log2(e) / sqrt(d).
        O: (B, queries, heads, d) float32 to write.
        lse: (B heads, queries) to write: log2 of the sum of 2^(S scale).
        is_bfloat16: True, or None for float32.
    """
    heads, queries, columns, V_columns = O.shape[2], Q.shape[1], Q.shape[2], V.shape[2]
    tiles, K_flat, V_flat = -(-queries // TILE), K.reshape(-1), V.reshape(-1)
    Q_T, O_T = scratch(columns * TILE, Q.dtype), scratch(V_columns * TILE, np.float32)
    S_T, P_T16 = scratch(BLOCK * TILE, np.float32), scratch(BLOCK // 2 * TILE, np.int32)
    m, m_new = scratch(TILE, np.float32), scratch(TILE, np.float32)
    l, row_sum, alpha = scratch(TILE, np.float32), scratch(TILE, np.float32), scratch(TILE, np.float32)
    for task in range(first, last):
        head, q0 = task // tiles, task % tiles * TILE
        load_tile(Q, head, q0, Q_T)
        O_T[:], l[:], m[:], m_new[:] = 0, 0, LOWEST, LOWEST
        for k0 in range(0, keys, BLOCK):
            count = min(BLOCK, keys - k0)
            put_rows_times_tile(S_T, K_flat, (head * K.shape[1] + k0) * columns, columns, count, Q_T, m_new)
            raise_maximum(scale, m, m_new, l, O_T, alpha)
            exponentiate(S_T, count, scale, m, l, row_sum)  # S_T now contains P_T
            if is_bfloat16 is None:
                add_transposed_times_rows(O_T, V_flat, (head * V.shape[1] + k0) * V_columns, V_columns, count, S_T)
            else:
                to_bfloat16(S_T, count, P_T16)
                add_transposed_times_rows(O_T, V_flat, (head * V.shape[1] + k0 // 2) * V_columns, V_columns,
                                          (count + 1) // 2, P_T16)
        for i in range(min(TILE, queries - q0)):
            lse[head, q0 + i] = m[i] * scale + np.log2(l[i])
        for i in range(TILE):
            l[i] = np.float32(1) / l[i]
        store_tile(O_T, l, O, head // heads, head % heads, q0)


# Algorithm 4. Parallel over heads. For each head, with dQ <- 0:
#
#     for each tile of TILE keys:
#         K_T, V_T (d, TILE) <- its keys and values;  dK_T, dV_T (d, TILE) <- 0
#         for each block of BLOCK queries:
#             S  (BLOCK, TILE) <- Q K_T
#             dP (BLOCK, TILE) <- dO V_T
#             P  <- 2^(S scale - lse), in the place of S
#             dS <- P (dP - D), in the place of dP
#             dV_T <- dV_T + dO^T P
#             dK_T <- dK_T + Q^T dS
#             dQ   <- dQ + dS K
#         dK <- (dK_T)^T scale log 2;  dV <- (dV_T)^T
#
# Kept from the forward pass: lse, and O, from which the caller computes D = rowsum(dO O) (appendix B.4). S and P are
# recomputed. The caller multiplies dQ by 1 / sqrt(d).
@njit(**JIT)
def backward(first, last, Q, K, V, dO, queries, keys, scale, lse, D, dQ, dK, dV):
    """Gradients for the heads `first` to `last` of all B x heads heads.

    Args:
        Q, K, V, dO: (B heads, queries or keys, d) float32, the last two sizes padded to multiples of ROWS.
        queries, keys: their numbers without padding.
        scale: log2(e) / sqrt(d).
        lse, D: (B heads, queries).
        dQ: (B heads, ceil(d / TILE), padded queries, TILE), zeros to add to.
        dK, dV: (B, keys, heads, d) to write.
    """
    heads, rows, columns, planes = dK.shape[2], Q.shape[1], Q.shape[2], dQ.shape[1]
    Q_flat, dO_flat, dQ_flat = Q.reshape(-1), dO.reshape(-1), dQ.reshape(-1)
    K_T, V_T = scratch(columns * TILE, np.float32), scratch(columns * TILE, np.float32)
    dK_T, dV_T = scratch(columns * TILE, np.float32), scratch(columns * TILE, np.float32)
    K_planes = scratch(planes * TILE * TILE, np.float32)  # keys as rows, in the layout of dQ
    P, dS = scratch(BLOCK * TILE, np.float32), scratch(BLOCK * TILE, np.float32)
    factors, unused = scratch(TILE, np.float32), scratch(TILE, np.float32)
    K_planes[:], unused[:] = 0, 0
    for head in range(first, last):
        for k0 in range(0, keys, TILE):
            count_k = min(TILE, keys - k0)
            load_tile(K, head, k0, K_T)
            load_tile(V, head, k0, V_T)
            for i in range(count_k):
                for d in range(columns):
                    K_planes[(d // TILE * TILE + i) * TILE + d % TILE] = K[head, k0 + i, d]
            dK_T[:], dV_T[:] = 0, 0
            for q0 in range(0, queries, BLOCK):
                count, at = min(BLOCK, queries - q0), (head * rows + q0) * columns
                put_rows_times_tile(P, Q_flat, at, columns, count, K_T, unused)  # S, becomes P in the next loop
                put_rows_times_tile(dS, dO_flat, at, columns, count, V_T, unused)  # dP, becomes dS
                for t in range(count):
                    lse_t, D_t = lse[head, q0 + t], D[head, q0 + t]
                    for i in range(TILE):
                        exponent = P[t * TILE + i] * scale - lse_t
                        # Only rounding makes the exponent positive. For large scores, this error can be large.
                        P[t * TILE + i] = exp2(np.float32(0.) if exponent > np.float32(0.) else exponent)
                        dS[t * TILE + i] = P[t * TILE + i] * (dS[t * TILE + i] - D_t)
                add_transposed_times_rows(dV_T, dO_flat, at, columns, count, P)
                add_transposed_times_rows(dK_T, Q_flat, at, columns, count, dS)
                for plane in range(planes):
                    dQ_at = ((head * planes + plane) * rows + q0) * TILE
                    for t in range(0, count, ROWS):
                        add_product(dQ_flat, dQ_at + t * TILE, dS, t * TILE, TILE, 1,
                                    K_planes, plane * TILE * TILE, count_k)
            factors[:] = 1
            store_tile(dV_T, factors, dV, head // heads, head % heads, k0)
            factors[:] = scale * LOG_2
            store_tile(dK_T, factors, dK, head // heads, head % heads, k0)
