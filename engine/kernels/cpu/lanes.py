"""Mathematics on 16 numbers side by side: what a kernel that works in vectors of `simd` calls.

Each function takes and returns a vector and keeps its dtype. Fused multiply-adds, so the bits are those of every
machine that rounds as IEEE 754 says.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from ..compiled import log
from .jit import jit, separate
from .philox import GROUP, random_numbers
from .reduce import CHUNK
from .simd import (
    I32,
    I64,
    LANES,
    Vector,
    as_vector,
    bits,
    call,
    clipped,
    element_address,
    fma,
    load,
    select,
    splat,
    store,
)
from .simd import first_lanes as mask_of

INLINE = {"error_model": "numpy", "forceinline": True}


def inline(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: compile the function into its callers, however long it is: for rows so short that a call costs."""
    overload(function, INLINE, strict=False)(lambda *_: function)
    return function


@intrinsic
def scratch(typingctx, like):
    """A flat array of 16 numbers, not set, in the dtype of the array `like`; it lives until the kernel returns."""
    line = types.Array(like.dtype, 1, "C")

    def codegen(context, builder, sig, values):
        native, size = context.get_value_type(like.dtype), I64(like.dtype.bitwidth // 8)
        result = context.make_array(line)(context, builder)
        result.data = cgutils.alloca_once(builder, native, LANES)
        result.nitems, result.itemsize = I64(LANES), size
        result.shape = cgutils.pack_array(builder, [I64(LANES)], I64)
        result.strides = cgutils.pack_array(builder, [size], I64)
        result.meminfo = cgutils.get_null_value(result.meminfo.type)
        result.parent = cgutils.get_null_value(result.parent.type)
        return result._getvalue()

    return line(like), codegen


@intrinsic
def count(typingctx, like):
    """The lanes' numbers 0 .. 15, in the integers of `like`."""
    vector = Vector(like.dtype)
    return vector(like), lambda context, builder, sig, values: ir.Constant(vector.native, list(range(LANES)))


@intrinsic
def broadcast(typingctx, x, i):
    """Element i >= 0 of an array in every lane."""
    vector = Vector(x.dtype)

    def codegen(context, builder, sig, values):
        number = builder.load(element_address(context, builder, x, *values))
        return as_vector(context, builder, x.dtype, vector, number)

    return vector(x, types.int64), codegen


@intrinsic
def lanes_below(typingctx, n):
    """The mask of lanes 0 .. n - 1."""
    mask = Vector(types.boolean)
    return mask(types.int64), lambda context, builder, sig, values: mask_of(builder, clipped(builder, values[0]))


@intrinsic
def sqrt(typingctx, x):
    """The square root of each lane; NaN below 0."""

    def codegen(context, builder, sig, values):
        return call(builder, f"llvm.sqrt.{x.suffix}", x.native, values)

    return x(x), codegen


@intrinsic
def widened(typingctx, x):
    """The lanes in float64."""
    wide = Vector(types.float64)

    def codegen(context, builder, sig, values):
        return values[0] if x == wide else builder.fpext(values[0], wide.native)

    return wide(x), codegen


@intrinsic(prefer_literal=True)
def _scaled(typingctx, m, shifted, mantissa_bits):
    """m times two to the integer in the low bits of `shifted`: one addition to the exponent."""

    def codegen(context, builder, sig, values):
        width = m.dtype.bitwidth
        integers = ir.VectorType(ir.IntType(width), LANES)
        shift = ir.Constant(integers, [mantissa_bits.literal_value] * LANES)
        power = builder.shl(builder.bitcast(values[1], integers), shift)
        return builder.bitcast(builder.add(builder.bitcast(values[0], integers), power), m.native)

    return m(m, shifted, mantissa_bits), codegen


def exp(x: Any) -> Any:
    """e to the power of each lane, within 1 ulp; 0 where that is below the smallest normal number."""
    raise NotImplementedError("only compiled code has vectors")


# x = n log(2) + r with |r| <= log(2) / 2: adding ROUND rounds to an integer, which then sits in the low bits.
ROUND_32, ROUND_64 = 1.5 * 2.0**23, 1.5 * 2.0**52
LOWEST_32, HIGHEST_32 = -87.33654022216797, 88.72283172607422
LOWEST_64, HIGHEST_64 = -708.3964185322641, 709.782712893384


@jit
def _limited(x, y, lowest, highest):
    """y = exp(x) where x lies between the two, else 0, inf or NaN."""
    y = select(x < lowest, splat(0.0, x), y)
    y = select(x > highest, splat(math.inf, x), y)
    return select(x != x, x, y)


@jit
def _exp_32(x):
    """Polynomial: Moshier's Cephes `expf`."""
    shifted = fma(x, splat(1.44269504088896341, x), splat(ROUND_32, x))
    n = shifted - ROUND_32
    r = fma(n, splat(-0.693359375, x), x)
    r = fma(n, splat(2.12194440e-4, x), r)
    p = splat(1.9875691500e-4, x)
    p = fma(p, r, splat(1.3981999507e-3, x))
    p = fma(p, r, splat(8.3334519073e-3, x))
    p = fma(p, r, splat(4.1665795894e-2, x))
    p = fma(p, r, splat(1.6666665459e-1, x))
    p = fma(p, r, splat(5.0000001201e-1, x))
    m = fma(p, r * r, r) + 1.0
    return _limited(x, _scaled(m, shifted, 23), LOWEST_32, HIGHEST_32)


@jit
def _exp_64(x):
    """The first 14 terms of the series."""
    shifted = fma(x, splat(1.4426950408889634, x), splat(ROUND_64, x))
    n = shifted - ROUND_64
    r = fma(n, splat(-6.93145751953125e-1, x), x)
    r = fma(n, splat(-1.42860682030941723212e-6, x), r)
    p = splat(1.6059043836821613e-10, x)
    p = fma(p, r, splat(2.08767569878681e-09, x))
    p = fma(p, r, splat(2.505210838544172e-08, x))
    p = fma(p, r, splat(2.755731922398589e-07, x))
    p = fma(p, r, splat(2.7557319223985893e-06, x))
    p = fma(p, r, splat(2.48015873015873e-05, x))
    p = fma(p, r, splat(1.984126984126984e-04, x))
    p = fma(p, r, splat(1.388888888888889e-03, x))
    p = fma(p, r, splat(8.333333333333333e-03, x))
    p = fma(p, r, splat(4.1666666666666664e-02, x))
    p = fma(p, r, splat(1.6666666666666666e-01, x))
    p = fma(p, r, splat(0.5, x))
    m = fma(p, r * r, r) + 1.0
    return _limited(x, _scaled(m, shifted, 52), LOWEST_64, HIGHEST_64)


@overload(exp, INLINE, strict=False)
def _choose_exp(x):
    single = x == Vector(types.float32)
    return (lambda x: _exp_32(x)) if single else (lambda x: _exp_64(x))


# --- log -------------------------------------------------------------------------------------------------------------


@intrinsic
def as_floats(typingctx, n):
    """32-bit integers as numbers of the same value."""
    single = Vector(types.float32)
    return single(n), lambda context, builder, sig, values: builder.sitofp(values[0], single.native)


TINY, LIFT, LIFT_EXPONENT = 2.0**-126, 2.0**25, 25
SQRT_HALF, MANTISSA, MANTISSA_BITS = 0x3F3504F3, 0x007FFFFF, 23


@jit
def _log_32(x):
    """The bits of `scalar.log`, where the constants are explained."""
    subnormal = x < TINY
    pattern = bits(select(subnormal, x * LIFT, x)) - np.int32(SQRT_HALF)
    zero = pattern ^ pattern
    n = as_floats((pattern >> np.int32(MANTISSA_BITS)) - select(subnormal, zero + np.int32(LIFT_EXPONENT), zero))
    f = bits((pattern & np.int32(MANTISSA)) + np.int32(SQRT_HALF)) - 1.0
    p = splat(7.0376836292e-2, x)
    p = p * f + -1.1514610310e-1
    p = p * f + 1.1676998740e-1
    p = p * f + -1.2420140846e-1
    p = p * f + 1.4249322787e-1
    p = p * f + -1.6668057665e-1
    p = p * f + 2.0000714765e-1
    p = p * f + -2.4999993993e-1
    p = p * f + 3.3333331174e-1
    z = f * f
    y = ((f * z * p + n * -2.12194440e-4) - z * 0.5 + f) + n * 0.693359375
    y = select(x > 0.0, y, select(x == 0.0, splat(-math.inf, x), splat(math.nan, x)))
    return select(x < math.inf, y, x + x)


def log_all(x: Any) -> None:
    """The natural logarithms of an array's first sixteen numbers, in place."""
    raise NotImplementedError("only compiled code has vectors")


@overload(log_all, strict=False)
def _choose_log(x):
    def side_by_side(x):
        store(x, 0, _log_32(load(x, 0)))

    def one_by_one(x):
        for i in range(LANES):
            x[i] = log(x[i])

    return side_by_side if x.dtype == types.float32 else one_by_one


# --- random bits -----------------------------------------------------------------------------------------------------


@intrinsic
def mask_word(typingctx, mask):
    """A mask as the low 16 bits of a word."""

    def codegen(context, builder, sig, values):
        return builder.zext(builder.bitcast(values[0], ir.IntType(LANES)), ir.IntType(64))

    return types.uint64(mask), codegen


@separate
def draw(key, first, n, threshold, words):
    """Bit i of `words`, for i < first % 4 + n: whether element 4 (first // 4) + i of an array keeps its number."""
    for i in range((first % 4 + n + GROUP - 1) // GROUP):
        a, b, c, d = random_numbers(np.uint64(key), np.uint64(first // 4 + i * LANES))
        low = mask_word(a >= threshold) | mask_word(b >= threshold) << np.uint64(LANES)
        high = mask_word(c >= threshold) | mask_word(d >= threshold) << np.uint64(LANES)
        words[i] = low | high << np.uint64(2 * LANES)


# --- sums ------------------------------------------------------------------------------------------------------------


@jit
def _lane_sum(x, at, step, n, lane):
    """Element `lane` and every sixteenth after it, of n vectors."""
    total = splat(0.0, x)
    for i in range(lane, n, LANES):
        total = total + load(x, at + i * step)
    return total


@jit
def _four_lanes(x, at, step, n, lane):
    return (_lane_sum(x, at, step, n, lane) + _lane_sum(x, at, step, n, lane + 8)) + (
        _lane_sum(x, at, step, n, lane + 4) + _lane_sum(x, at, step, n, lane + 12)
    )


@separate
def sum_down(x, at, step, n):
    """The sums of n vectors `step` elements apart, in the order of `reduce.sum_row` in every lane."""
    total = splat(0.0, x)
    for start in range(0, n, CHUNK):
        first, count = at + start * step, min(CHUNK, n - start)
        part = (_four_lanes(x, first, step, count, 0) + _four_lanes(x, first, step, count, 2)) + (
            _four_lanes(x, first, step, count, 1) + _four_lanes(x, first, step, count, 3)
        )
        total = part if start == 0 else total + part
    return total


@intrinsic
def magnitude(typingctx, x):
    """The numbers without their signs, NaN's too."""

    def codegen(context, builder, sig, values):
        return call(builder, f"llvm.fabs.{x.suffix}", x.native, list(values))

    return x(x), codegen


# --- four rows side by side ------------------------------------------------------------------------------------------


def _of_four(combine: Callable[..., Any]) -> Any:
    """Combine the lanes of each of four vectors by the tree of `sum_lanes`, all four in the lanes of one vector."""

    @intrinsic
    def combined(typingctx, rows):
        def codegen(context, builder, sig, values):
            def mix(x, y, lanes):
                return builder.shuffle_vector(x, y, ir.Constant(ir.VectorType(I32, LANES), lanes))

            def halves(x, y, width):  # of every 2 width lanes, the lower and the upper half, x's before y's
                low = [i for i in range(2 * LANES) if i % (2 * width) < width]
                return combine(builder, mix(x, y, low), mix(x, y, [i + width for i in low]))

            a, b, c, d = cgutils.unpack_tuple(builder, values[0])
            four = halves(halves(a, b, 8), halves(c, d, 8), 4)
            for width in (2, 1):  # inside every four lanes, where shuffles are cheapest
                four = combine(builder, four, mix(four, four, [i - i % 4 + (i + width) % 4 for i in range(LANES)]))
            return cgutils.pack_array(builder, [builder.extract_element(four, I32(4 * row)) for row in range(4)])

        return types.UniTuple(rows.dtype.dtype, 4)(rows), codegen

    return combined


sums_of_four = _of_four(lambda builder, x, y: builder.fadd(x, y))
tops_of_four = _of_four(lambda builder, x, y: builder.select(builder.fcmp_ordered(">", x, y), x, y))  # passes over NaN
