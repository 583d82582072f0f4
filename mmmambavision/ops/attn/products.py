"""Products of small matrices that stay in a CPU's registers, for `cpu_kernels.py`.

numba's own loops keep sums in memory. Here ROWS x TILE of them stay in registers, as vectors of LANES numbers, while
the products' terms go by: each term takes a column of the left matrix, one number for each row, and a row of the right
one, TILE numbers next to each other in memory. Written in LLVM's language, which numba hands to its compiler.
"""
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .cpu import has

VECTORS = 3
LANES, ROWS = (16, 8) if has('avx512f') else (8, 4)  # 24 sums in 32 registers, 12 in 16
TILE = VECTORS * LANES

INDEX, INTEGER, FLOAT = ir.IntType(64), ir.IntType(32), ir.FloatType()
FLOATS = ir.VectorType(FLOAT, LANES)


class _BFloat16(ir.Type):
    """A type that llvmlite has no name for."""

    def _to_string(self):
        return 'bfloat'

    def __eq__(self, other):
        return isinstance(other, _BFloat16)

    def __hash__(self):
        return hash(_BFloat16)


def _multiply_add(builder, a, b, sums):
    """a b + sums, of vectors of LANES numbers."""
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(FLOATS, [FLOATS] * 3),
                                              f'llvm.fmuladd.v{LANES}f32')
    return builder.call(function, [a, b, sums])


def _multiply_add_pairs(builder, a, b, sums):
    """a_0 b_0 + a_1 b_1 + sums, of vectors of LANES pairs of bfloat16 numbers (AVX512-BF16)."""
    pairs = ir.VectorType(_BFloat16(), 2 * LANES)
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(FLOATS, [FLOATS, pairs, pairs]),
                                              'llvm.x86.avx512bf16.dpbf16ps.512')
    return builder.call(function, [sums, builder.bitcast(a, pairs), builder.bitcast(b, pairs)])


def _in_all_lanes(builder, number):
    undefined = ir.Constant(ir.VectorType(number.type, LANES), ir.Undefined)
    lanes = ir.Constant(ir.VectorType(INTEGER, LANES), [0] * LANES)
    return builder.shuffle_vector(builder.insert_element(undefined, number, INTEGER(0)), undefined, lanes)


def _vectors(builder, start, element):
    """Pointers to the VECTORS vectors of TILE numbers that begin at a pointer."""
    return [builder.bitcast(builder.gep(start, [INDEX(LANES * j)]), ir.VectorType(element, LANES).as_pointer())
            for j in range(VECTORS)]


def _product(builder, a, row, term, b, terms, pairs):
    """Vectors [ROWS][VECTORS] of sum over t < terms of a[i row + t term] b[t TILE : (t + 1) TILE], in registers."""
    element, multiply_add = (INTEGER, _multiply_add_pairs) if pairs else (FLOAT, _multiply_add)
    entry, loop, after = builder.basic_block, *map(builder.append_basic_block, ('loop', 'after'))
    builder.branch(loop)

    builder.position_at_end(loop)
    t = builder.phi(INDEX)
    sums = [[builder.phi(FLOATS) for _ in range(VECTORS)] for _ in range(ROWS)]
    weights = [builder.load(vector, align=4)
               for vector in _vectors(builder, builder.gep(b, [builder.mul(t, INDEX(TILE))]), element)]
    column = builder.gep(a, [builder.mul(t, term)])
    results = []
    for i, line in enumerate(sums):
        number = _in_all_lanes(builder, builder.load(builder.gep(column, [builder.mul(row, INDEX(i))])))
        results.append([multiply_add(builder, number, weight, value) for weight, value in zip(weights, line)])
    following = builder.add(t, INDEX(1))
    t.add_incoming(INDEX(0), entry)
    t.add_incoming(following, loop)
    for line, values in zip(sums, results):
        for phi, value in zip(line, values):
            phi.add_incoming(FLOATS([0.] * LANES), entry)
            phi.add_incoming(value, loop)
    builder.cbranch(builder.icmp_signed('<', following, terms), loop, after)

    builder.position_at_end(after)
    return results


def _out_and_product(context, builder, signature, arguments):
    """What `put_product` and `add_product` begin with: [ROWS][VECTORS] pointers into `out`, and the product."""
    def pointer(i):
        data = context.make_array(signature.args[i])(context, builder, arguments[i]).data
        return builder.gep(data, [arguments[i + 1]])

    out, a, b = (pointer(i) for i in (0, 2, 6))
    lines = [_vectors(builder, builder.gep(out, [INDEX(TILE * i)]), FLOAT) for i in range(ROWS)]
    pairs = signature.args[2].dtype == types.int32
    return lines, _product(builder, a, *arguments[4:6], b, arguments[8], pairs)


@intrinsic
def put_product(typing_context, out, out_at, a, a_at, row, term, b, b_at, terms, high):
    """out[i, :] = sum over t < terms of a[i, t] b[t, :], for i < ROWS; all arrays flat; high[:] = max(high, out).

    Args:
        out: float32; out[i, :] begins at out_at + i TILE.
        a: float32, or int32 that hold pairs of bfloat16 numbers each, which are two terms in one; a[i, t] is at
            a_at + i row + t term.
        b: as a; b[t, :] begins at b_at + t TILE.
        terms: 1 at least.
        high: (TILE,), which keeps its number where out has NaN.
    """
    def generate(context, builder, signature, arguments):
        out, sums = _out_and_product(context, builder, signature, arguments)
        high = _vectors(builder, context.make_array(signature.args[9])(context, builder, arguments[9]).data, FLOAT)
        highest = [builder.load(vector, align=4) for vector in high]
        for targets, line in zip(out, sums):
            for j, (target, value) in enumerate(zip(targets, line)):
                builder.store(value, target, align=4)
                highest[j] = builder.select(builder.fcmp_ordered('>', value, highest[j]), value, highest[j])
        for vector, value in zip(high, highest):
            builder.store(value, vector, align=4)
        return context.get_dummy_value()

    index = types.intp
    return types.void(out, index, a, index, index, index, b, index, index, high), generate


@intrinsic
def add_product(typing_context, out, out_at, a, a_at, row, term, b, b_at, terms):
    """out[i, :] += what `put_product` would put there."""
    def generate(context, builder, signature, arguments):
        out, sums = _out_and_product(context, builder, signature, arguments)
        for targets, line in zip(out, sums):
            for target, value in zip(targets, line):
                builder.store(builder.fadd(builder.load(target, align=4), value), target, align=4)
        return context.get_dummy_value()

    index = types.intp
    return types.void(out, index, a, index, index, index, b, index, index), generate


@intrinsic
def bfloat16_pair(typing_context, even, odd):
    """Two float32 numbers rounded to bfloat16, ties away from zero, as one int32, `even` in the lower half."""
    def generate(context, builder, signature, arguments):
        even, odd = (builder.add(builder.bitcast(value, INTEGER), INTEGER(0x8000)) for value in arguments)
        return builder.or_(builder.lshr(even, INTEGER(16)), builder.and_(odd, INTEGER(-0x10000)))
    return types.int32(types.float32, types.float32), generate
