"""Blocks of 16 × 16 numbers transposed in vectors."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .simd import I32, I64, LANES, Vector, address, call, clipped, first_lanes, masked_name

GROUP = 4  # lanes inside which every processor shuffles fastest
GROUPS = LANES // GROUP


def _grouped(*lanes: int) -> list[int]:
    """These lanes of the first group of each of two vectors (the second's count from 4), in every group."""
    return [GROUP * group + lane % GROUP + LANES * (lane // GROUP) for group in range(GROUPS) for lane in lanes]


def _whole(*groups: int) -> list[int]:
    """These groups of two vectors (the second's count from 4)."""
    return [GROUP * group + lane for group in groups for lane in range(GROUP)]


_PAIRS = _grouped(0, 4, 1, 5), _grouped(2, 6, 3, 7)
_HALVES = _grouped(0, 1, 4, 5), _grouped(2, 3, 6, 7)
_SINGLES = _whole(0, 4, 2, 6), _whole(1, 5, 3, 7)
_DOUBLES = _whole(0, 1, 4, 5), _whole(2, 3, 6, 7)


def transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """The columns of 16 vectors: 4 × 4 numbers are turned inside every group of lanes, then 4 × 4 groups."""

    def both(x: Any, y: Any, patterns: tuple[list[int], list[int]]) -> list[Any]:
        return [builder.shuffle_vector(x, y, ir.Constant(ir.VectorType(I32, LANES), lanes)) for lanes in patterns]

    def turned(four: list[Any], first: Any, second: Any) -> list[Any]:
        (a, b), (c, d) = both(four[0], four[1], first), both(four[2], four[3], first)
        return [*both(a, c, second), *both(b, d, second)]

    blocks = [turned(rows[i : i + GROUP], _PAIRS, _HALVES) for i in range(0, LANES, GROUP)]
    columns = [turned([block[j] for block in blocks], _SINGLES, _DOUBLES) for j in range(GROUP)]
    return [columns[j][group] for group in (0, 2, 1, 3) for j in range(GROUP)]


@intrinsic
def transpose(typingctx, array, start, row, rows, columns, out, out_start, out_row):
    """Write the transpose of a block of at most 16 × 16: out[j, i] = array[i, j] for j < columns, zeros for i >= rows.

    The distance between rows is `row` and `out_row` elements; each row of `out` gets 16 elements.
    """
    vector = Vector(array.dtype)
    align, zeros = array.dtype.bitwidth // 8, cgutils.get_null_value(vector.native)

    def codegen(context, builder, sig, values):
        array_value, start, row, rows, columns, out_value, out_start, out_row = values
        width = clipped(builder, columns)

        def read(i, whole):
            at, inside = builder.add(start, builder.mul(row, I64(i))), builder.icmp_signed("<", I64(i), rows)
            if whole:
                return builder.load(address(context, builder, array, array_value, at, I64(LANES)), align=align)
            count = builder.select(inside, width, I64(0))
            pointer = address(context, builder, array, array_value, builder.select(inside, at, start), count)
            operands = [pointer, I32(align), first_lanes(builder, count), zeros]
            return call(builder, masked_name("load", vector.suffix), vector.native, operands)

        def turn(whole):
            block = transposed(builder, [read(i, whole) for i in range(LANES)])
            for j in range(LANES):
                with builder.if_then(cgutils.true_bit if whole else builder.icmp_signed("<", I64(j), width)):
                    at = builder.add(out_start, builder.mul(out_row, I64(j)))
                    builder.store(block[j], address(context, builder, out, out_value, at, I64(LANES)), align=align)

        enough = [builder.icmp_signed(">=", n, I64(LANES)) for n in (rows, columns)]
        with builder.if_else(builder.and_(*enough)) as branches:
            for branch, whole in zip(branches, (True, False), strict=True):
                with branch:
                    turn(whole)
        return context.get_dummy_value()

    integers = (types.int64, types.int64)
    return types.void(array, *integers, *integers, out, *integers), codegen
