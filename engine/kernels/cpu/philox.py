"""Philox-4x32-10 on vectors: the random numbers of 64 elements at once, from the bits of `kernels/philox.py`."""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .. import philox
from .simd import I32, I64, LANES, Vector, spread

GROUP = 4 * LANES  # elements of one round

# The order of the counters in a vector of 64-bit lanes: interleaving the lanes of two such vectors, first those with
# an even number, then the odd ones, puts the counters into ascending order, within registers of any width.
_COUNTERS = [8 * half + c for half in (0, 1) for c in (0, 4, 1, 5, 2, 6, 3, 7)]
_PLACES = [_COUNTERS.index(c) for c in range(LANES)]


@intrinsic
def random_numbers(typingctx, key, counter):
    """The 64 elements from 4 counter: four vectors of int32, the upper 24 bits of the words of 16 counters of a key."""
    wide, words = ir.VectorType(I64, LANES), ir.VectorType(I32, 2 * LANES)
    result = types.UniTuple(Vector(types.int32), 4)

    def codegen(context, builder, sig, values):
        key, counter = values

        def every(number):
            return spread(builder, number)

        def low(x):  # what the multiplication reads: an instruction for 32 x 32 bits needs no masking
            return builder.and_(x, every(I64(0xFFFFFFFF)))

        def high(x):
            return builder.lshr(x, every(I64(32)))

        counters = builder.add(every(counter), ir.Constant(wide, _COUNTERS))
        nothing = ir.Constant(wide, [0] * LANES)
        x0, x1, x2, x3 = counters, high(counters), nothing, nothing
        k0, k1 = key, builder.lshr(key, I64(32))
        for _ in range(philox.ROUNDS):  # the upper halves of the lanes hold anything
            a = builder.mul(low(x0), every(I64(int(philox.MULTIPLIER_0))))
            b = builder.mul(low(x2), every(I64(int(philox.MULTIPLIER_1))))
            x0 = builder.xor(builder.xor(high(b), x1), every(k0))
            x2 = builder.xor(builder.xor(high(a), x3), every(k1))
            x1, x3 = b, a
            k0 = builder.add(k0, I64(int(philox.WEYL_0)))
            k1 = builder.add(k1, I64(int(philox.WEYL_1)))
        pairs = [builder.or_(low(x), builder.shl(y, every(I64(32)))) for x, y in ((x0, x1), (x2, x3))]
        vectors = []
        for first in range(0, LANES, LANES // 2):
            lanes = [p + LANES * pair for p in _PLACES[first : first + LANES // 2] for pair in (0, 1)]
            both = builder.shuffle_vector(*pairs, ir.Constant(ir.VectorType(I32, LANES), lanes))
            both = builder.lshr(builder.bitcast(both, words), ir.Constant(words, [8] * 2 * LANES))
            for at in (0, LANES):
                quarter = ir.Constant(ir.VectorType(I32, LANES), list(range(at, at + LANES)))
                vectors.append(builder.shuffle_vector(both, ir.Constant(words, ir.Undefined), quarter))
        return cgutils.pack_array(builder, vectors)

    return result(types.uint64, types.uint64), codegen
