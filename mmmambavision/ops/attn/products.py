"""Micro-kernels for matrix products with sums in a CPU's registers, for `cpu_kernels.py`.

numba's own loops keep sums in memory. Here ROWS x TILE sums stay in registers during the loop over the terms t:

                                      b[t, :], TILE numbers in VECTORS registers
                                     +----------+----------+----------+
                                     |  VECTOR  |  VECTOR  |  VECTOR  |
                                     +----------+----------+----------+
         a[0, t], in all lanes   ->  | sum[0,0] | sum[0,1] | sum[0,2] |
         a[1, t], in all lanes   ->  | sum[1,0] | sum[1,1] | sum[1,2] |   each sum a register of VECTOR numbers:
                   ...               |   ...    |   ...    |   ...    |   sum[i,j] += a[i, t] b[t, j-th vector]
         a[ROWS-1, t]            ->  |          |          |          |
                                     +----------+----------+----------+

They are written in LLVM IR, which numba passes to its compiler.
"""
from typing import NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .cpu import has

VECTORS = 3
VECTOR, ROWS = (16, 8) if has('avx512f') else (8, 4)  # 24 of 32 registers for sums, or 12 of 16
TILE = VECTORS * VECTOR

INDEX, INTEGER, FLOAT = ir.IntType(64), ir.IntType(32), ir.FloatType()
FLOATS = ir.VectorType(FLOAT, VECTOR)


class _BFloat16(ir.Type):
    """LLVM's type bfloat, which llvmlite does not define."""

    def _to_string(self):
        return 'bfloat'

    def __eq__(self, other):
        return isinstance(other, _BFloat16)

    def __hash__(self):
        return hash(_BFloat16)


class _Parameters(NamedTuple):
    """Parameters of `put_product` and `add_product`, in this order: types, or values in LLVM IR."""
    out: object
    out_at: object
    a: object
    a_at: object
    a_row: object
    a_term: object
    b: object
    b_at: object
    terms: object
    high: object = None


def _multiply_add(builder, a, b, sums):
    """a b + sums, for vectors of VECTOR numbers."""
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(FLOATS, [FLOATS] * 3),
                                              f'llvm.fmuladd.v{VECTOR}f32')
    return builder.call(function, [a, b, sums])


def _multiply_add_bfloat16(builder, a, b, sums):
    """a_0 b_0 + a_1 b_1 + sums, for vectors of VECTOR pairs of bfloat16 numbers (AVX512-BF16)."""
    pairs = ir.VectorType(_BFloat16(), 2 * VECTOR)
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(FLOATS, [FLOATS, pairs, pairs]),
                                              'llvm.x86.avx512bf16.dpbf16ps.512')
    return builder.call(function, [sums, builder.bitcast(a, pairs), builder.bitcast(b, pairs)])


def _in_all_lanes(builder, number):
    undefined = ir.Constant(ir.VectorType(number.type, VECTOR), ir.Undefined)
    lanes = ir.Constant(ir.VectorType(INTEGER, VECTOR), [0] * VECTOR)
    return builder.shuffle_vector(builder.insert_element(undefined, number, INTEGER(0)), undefined, lanes)


def _vectors(builder, start, element):
    """Pointers to the VECTORS vectors of the TILE numbers at a pointer."""
    return [builder.bitcast(builder.gep(start, [INDEX(VECTOR * j)]), ir.VectorType(element, VECTOR).as_pointer())
            for j in range(VECTORS)]


def _product(builder, a, a_row, a_term, b, terms, is_bfloat16):
    """Registers [ROWS][VECTORS] with the sum over t < terms of a[i a_row + t a_term] b[t TILE : (t + 1) TILE]."""
    element, multiply_add = (INTEGER, _multiply_add_bfloat16) if is_bfloat16 else (FLOAT, _multiply_add)
    entry, loop, after = builder.basic_block, *map(builder.append_basic_block, ('loop', 'after'))
    builder.branch(loop)

    builder.position_at_end(loop)
    t = builder.phi(INDEX)
    sums = [[builder.phi(FLOATS) for _ in range(VECTORS)] for _ in range(ROWS)]
    b_vectors = [builder.load(vector, align=4)
                 for vector in _vectors(builder, builder.gep(b, [builder.mul(t, INDEX(TILE))]), element)]
    a_column = builder.gep(a, [builder.mul(t, a_term)])
    results = []
    for i, row in enumerate(sums):
        number = _in_all_lanes(builder, builder.load(builder.gep(a_column, [builder.mul(a_row, INDEX(i))])))
        results.append([multiply_add(builder, number, vector, value) for vector, value in zip(b_vectors, row)])
    following = builder.add(t, INDEX(1))
    t.add_incoming(INDEX(0), entry)
    t.add_incoming(following, loop)
    for row, values in zip(sums, results):
        for phi, value in zip(row, values):
            phi.add_incoming(FLOATS([0.] * VECTOR), entry)
            phi.add_incoming(value, loop)
    builder.cbranch(builder.icmp_signed('<', following, terms), loop, after)

    builder.position_at_end(after)
    return results


def _start(context, builder, array_type, array):
    """Pointer to an array's first number."""
    return context.make_array(array_type)(context, builder, array).data


def _out_and_product(context, builder, kinds, values):
    """Common first part of `put_product` and `add_product`: [ROWS][VECTORS] pointers into `out`, and the product."""
    out, a, b = (builder.gep(_start(context, builder, kind, array), [at]) for kind, array, at in (
        (kinds.out, values.out, values.out_at), (kinds.a, values.a, values.a_at), (kinds.b, values.b, values.b_at)))
    targets = [_vectors(builder, builder.gep(out, [INDEX(TILE * i)]), FLOAT) for i in range(ROWS)]
    return targets, _product(builder, a, values.a_row, values.a_term, b, values.terms, kinds.a.dtype == types.int32)


def _signature(out, a, b, *more):
    index = types.intp
    return types.void(out, index, a, index, index, index, b, index, index, *more)


@intrinsic
def put_product(typing_context, out, out_at, a, a_at, a_row, a_term, b, b_at, terms, high):
    """out[i, :] = sum over t < terms of a[i, t] b[t, :], for i < ROWS; all arrays flat; high[:] = max(high, out).

    Args:
        out: float32; out[i, :] begins at out_at + i TILE.
        a: float32, or int32 with two bfloat16 numbers each, which count as one term. a[i, t] is at
            a_at + i a_row + t a_term.
        b: as a; b[t, :] begins at b_at + t TILE.
        terms: number of terms, at least 1.
        high: (TILE,). It does not change where out is NaN.
    """
    def generate(context, builder, signature, arguments):
        kinds, values = _Parameters(*signature.args), _Parameters(*arguments)
        targets, sums = _out_and_product(context, builder, kinds, values)
        maxima = _vectors(builder, _start(context, builder, kinds.high, values.high), FLOAT)
        highest = [builder.load(vector, align=4) for vector in maxima]
        for row, line in zip(targets, sums):
            for j, (target, value) in enumerate(zip(row, line)):
                builder.store(value, target, align=4)
                highest[j] = builder.select(builder.fcmp_ordered('>', value, highest[j]), value, highest[j])
        for vector, value in zip(maxima, highest):
            builder.store(value, vector, align=4)
        return context.get_dummy_value()

    return _signature(out, a, b, high), generate


@intrinsic
def add_product(typing_context, out, out_at, a, a_at, a_row, a_term, b, b_at, terms):
    """out[i, :] += sum over t < terms of a[i, t] b[t, :]. Arguments as in `put_product`."""
    def generate(context, builder, signature, arguments):
        targets, sums = _out_and_product(context, builder, _Parameters(*signature.args), _Parameters(*arguments))
        for row, line in zip(targets, sums):
            for target, value in zip(row, line):
                builder.store(builder.fadd(builder.load(target, align=4), value), target, align=4)
        return context.get_dummy_value()

    return _signature(out, a, b), generate


@intrinsic
def bfloat16_pair(typing_context, even, odd):
    """Round two float32 numbers to bfloat16, ties away from zero, and pack them into one int32. `even` is in the lower
    half."""
    def generate(context, builder, signature, arguments):
        even, odd = (builder.add(builder.bitcast(value, INTEGER), INTEGER(0x8000)) for value in arguments)
        return builder.or_(builder.lshr(even, INTEGER(16)), builder.and_(odd, INTEGER(-0x10000)))
    return types.int32(types.float32, types.float32), generate
