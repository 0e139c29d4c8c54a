"""Philox-4x32-10 on vectors: the random words of 64 elements at once, the same as those of `kernels/philox.py`."""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .jit import jit
from .simd import LANES, Vector, address, spread

WORDS = 4 * LANES  # elements of one round
_ROUNDS = 10
_MULTIPLIER_0, _MULTIPLIER_1 = 0xD2511F53, 0xCD9E8D57
_WEYL_0, _WEYL_1 = 0x9E3779B9, 0xBB67AE85
_LOW = 0xFFFFFFFF
I32, I64 = ir.IntType(32), ir.IntType(64)


@intrinsic
def _counters(typingctx, first):
    """first, first + 1, ..., first + 15."""
    vector = Vector(types.int64)

    def codegen(context, builder, sig, values):
        return builder.add(spread(builder, values[0]), ir.Constant(vector.native, list(range(LANES))))

    return vector(types.int64), codegen


@intrinsic
def _interleave(typingctx, w0, w1, w2, w3, words, at):
    """Write the low halves of w0[0], w1[0], w2[0], w3[0], w0[1] and so on to an int32 array."""
    vector = Vector(types.int64)

    def codegen(context, builder, sig, values):
        *four, array, at = values
        low, high = ir.Constant(vector.native, [_LOW] * LANES), ir.Constant(vector.native, [32] * LANES)
        even, odd = (
            builder.or_(builder.and_(x, low), builder.shl(y, high)) for x, y in (four[:2], four[2:])
        )  # fmt: skip
        order = [lane // 2 + LANES * (lane % 2) for lane in range(2 * LANES)]
        pairs = builder.shuffle_vector(even, odd, ir.Constant(ir.VectorType(I32, 2 * LANES), order))
        native = ir.VectorType(I32, WORDS)
        pointer = address(context, builder, words, array, at, I64(WORDS))
        builder.store(builder.bitcast(pairs, native), builder.bitcast(pointer, native.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(vector, vector, vector, vector, words, types.int64), codegen


@jit
def random_words(key, counter, words, at):
    """Words 0 .. 3 of counters `counter` .. `counter` + 15 under a key, both int64, to words[at : at + 64] (int32).

    Only the low halves of the lanes count.
    """
    k0, k1 = key & _LOW, (key >> 32) & _LOW
    count = _counters(counter)
    x0, x1, x2, x3 = count & _LOW, count >> 32, count & 0, count & 0
    for _ in range(_ROUNDS):
        a, b = (x0 & _LOW) * _MULTIPLIER_0, (x2 & _LOW) * _MULTIPLIER_1
        x0, x1, x2, x3 = (b >> 32) ^ x1 ^ k0, b, (a >> 32) ^ x3 ^ k1, a
        k0, k1 = (k0 + _WEYL_0) & _LOW, (k1 + _WEYL_1) & _LOW
    _interleave(x0, x1, x2, x3, words, at)
