"""Elementary functions in float32 for the kernels that numba compiles.

They are polynomials, so that the compiler can vectorise them. They are inlined into the calling kernel and compiled
with the kernel's `fastmath`. Errors are relative, in units of 2^-24 (half a unit in the last place, or a little more).
tests/ops/test_cpu_math.py checks them against float64. numba's cache does not notice changes in an imported file:
delete the `__pycache__` folders of `ops` after a change here.
"""
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from .compiled import jit_options

# The lowest bits of ROUND are 127. x + ROUND, for x from -126 to 127, rounds x to an integer k. Its lowest bits are
# k + 127.
ROUND = np.float32(1.5 * 2 ** 23 + 127)
JIT = dict(jit_options(), inline='always')
INTEGER = ir.IntType(32)


def _as_exponent(builder, bits):
    """The float32 2^k for an integer whose lowest bits are k + 127. These bits become the exponent."""
    return builder.bitcast(builder.shl(bits, INTEGER(23)), ir.FloatType())


@intrinsic
def power_of_two(typing_context, k):
    """2^k, exact, for a float32 k that is an integer from -126 to 127."""
    def generate(context, builder, signature, arguments):
        return _as_exponent(builder, builder.add(builder.fptosi(arguments[0], INTEGER), INTEGER(127)))
    return types.float32(types.float32), generate


@intrinsic
def power_of_two_rounded(typing_context, shifted):
    """2^k, exact, for shifted = x + ROUND. The addition of ROUND has already rounded x to k."""
    def generate(context, builder, signature, arguments):
        return _as_exponent(builder, builder.bitcast(arguments[0], INTEGER))
    return types.float32(types.float32), generate


@njit(**JIT)
def exp2(x):
    """2^x for x up to 126, error 2; 0 for x below -126, NaN for NaN. Not for kernels that reassociate sums.

    2^k times a minimax polynomial of degree 6 in r = x - k, -1/2 <= r <= 1/2, with a relative error of 2e-9.
    """
    low = x < np.float32(-126.)
    x = np.float32(-126.) if low else x
    shifted = x + ROUND
    r = x - (shifted - ROUND)
    p = np.float32(1.534581182e-4)
    p = p * r + np.float32(1.339993122e-3)
    p = p * r + np.float32(9.618488958e-3)
    p = p * r + np.float32(5.550328777e-2)
    p = p * r + np.float32(2.402264689e-1)
    p = p * r + np.float32(6.931472057e-1)
    p = p * r + np.float32(1.)
    return np.float32(0.) if low else p * power_of_two_rounded(shifted)


@njit(**JIT)
def exp(x):
    """e^x for x from -87 to 88, error 2; beyond that, the value at the end of this range.

    2^k times the Taylor polynomial of degree 7 in r = x - k log 2, with log 2 in two parts (Cody and Waite 1980).
    """
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
    return p * power_of_two(k)


@njit(**JIT)
def softplus(x):
    """log(1 + e^x), error 5 for x from -87 up; below that, the value at -87.

    max(x, 0) + log(1 + e), e = e^-|x|, where log(1 + e) is the series of 2 artanh(s), s = e / (2 + e) <= 1/3.
    """
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


@njit(**JIT)
def sigmoid(x):
    """1 / (1 + e^-x), error 3 for x from -87 to 88; beyond that, the value at the end of this range."""
    return np.float32(1.) / (np.float32(1.) + exp(-x))
