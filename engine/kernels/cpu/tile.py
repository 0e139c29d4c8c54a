"""A block of a matrix product held in registers: `rows` × `vectors` SIMD vectors as one Numba value.

    c = zeros_tile(a, kind)
    for k in range(K):
        c = add_outer(c, a, a_at + k * a_k, a_i, b, b_at + k * b_k)    # c += a[:, k] ⊗ b[k, :]
    store_tile(c, out, out_at, out_i, n)

Every element is one chain acc = fma(a[i, k], b[k, j], acc) in the order of the calls, whatever the tile's shape. `_at`
are element offsets from an array's first element and `_i` the distance between rows. Kind 0 is the tallest tile that
fits the registers, kinds 1 to 4 have 4 rows, 1, 10 and 2, or as many as fit; all are as wide as `tile_shape` says for
the processor. Kinds 5 to 9 are the same with a single vector, kinds 10 to 14 with half of one, and the first of them
has up to 16 rows. Rows of b are read in that width, c is read and written only in its first n columns.
"""

from collections.abc import Iterator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from .processor import REGISTER_BITS, REGISTERS
from .simd import (
    LANES,
    NATIVE,
    address,
    call,
    clipped,
    element_address,
    first_lanes,
    masked_name,
    spread,
    store_first,
    suffix,
)

NEAR = 4  # rows whose addresses an instruction can make of one register and a multiple of another
I32, I64 = ir.IntType(32), ir.IntType(64)


class Tile(types.Type):
    """rows × (vectors · lanes) numbers."""

    def __init__(self, dtype: types.Type, rows: int, vectors: int, lanes: int = LANES) -> None:
        self.dtype, self.rows, self.vectors, self.lanes = dtype, rows, vectors, lanes
        super().__init__(f"Tile({dtype}, {rows}, {vectors}, {lanes})")

    @property
    def vector(self) -> Any:
        """One of its vectors, as LLVM sees it."""
        return ir.VectorType(NATIVE[self.dtype], self.lanes)

    @property
    def suffix(self) -> str:
        return suffix(self.dtype, self.lanes)

    @property
    def native(self) -> Any:
        return ir.ArrayType(self.vector, self.rows * self.vectors)

    @property
    def align(self) -> int:
        return self.dtype.bitwidth // 8


@register_model(Tile)
class _TileModel(models.PrimitiveModel):
    def __init__(self, manager: Any, tile: Tile) -> None:
        super().__init__(manager, tile, tile.native)


def tile_shape(bits: int, most: int = 2) -> tuple[int, int]:
    """(rows, columns) of the largest tile, at most so many vectors wide, that this processor's registers hold, for
    numbers of 32 or 64 bits."""
    parts = _parts(bits)
    vectors = min(most, 2 if parts == 1 else 1)
    return _rows_held(vectors * parts), vectors * LANES


def _parts(bits: int) -> int:
    """The registers of a vector of such numbers."""
    return LANES * bits // REGISTER_BITS


def _rows_held(parts: int) -> int:
    """The rows of so many registers that can be held beside a row of b and an element of a."""
    return min(LANES, max(1, (REGISTERS - 1 - parts) // parts))


HELD = REGISTERS * REGISTER_BITS // (32 * LANES)  # vectors of float32 that the registers hold
HALF = LANES // 2 if _parts(32) > 1 else 0  # columns for which half a vector is enough and takes less time
SHAPES = {types.float32: tile_shape(32), types.float64: tile_shape(64)}


def _tile(dtype: types.Type, kind: int) -> Tile:
    width, size = divmod(kind, 5)
    if width == 0:
        tallest, columns = SHAPES[dtype]
    elif width == 1:
        tallest, columns = tile_shape(dtype.bitwidth, 1)
    else:
        tallest, columns = _rows_held(max(1, _parts(dtype.bitwidth) // 2)), LANES // 2
    rows = min(tallest, (tallest, 4, 1, 10, 2)[size])
    return Tile(dtype, rows, -(-columns // LANES), min(columns, LANES))


@intrinsic(prefer_literal=True)
def zeros_tile(typingctx, like, kind):
    """A tile of zeros in the dtype of the array `like`; `kind` is a constant."""
    tile = _tile(like.dtype, kind.literal_value)
    return tile(like, kind), lambda context, builder, sig, values: cgutils.get_null_value(tile.native)


@intrinsic(prefer_literal=True)
def tile_rows(typingctx, like, kind):
    """The rows of a tile of a constant kind in the dtype of the array `like`."""
    rows = _tile(like.dtype, kind.literal_value).rows
    return types.int64(like, kind), lambda context, builder, sig, values: I64(rows)


@intrinsic
def element(typingctx, array, at):
    """One element of an array; the offset may be negative in a flat view of a reversed one."""

    def codegen(context, builder, sig, values):
        return builder.load(element_address(context, builder, array, *values))

    return array.dtype(array, types.int64), codegen


def _column(context: Any, builder: Any, rows: int, array_type: Any, array: Any, at: Any, row: Any) -> Iterator[Any]:
    """The addresses of elements at, at + row, … : every `NEAR` of them count from one that the compiler cannot derive.

    It would otherwise reach each from the one before, in a chain of additions that takes longer than the products.
    """
    for i in range(rows):
        here = builder.add(at, builder.mul(row, I64(i)))
        pointer = element_address(context, builder, array_type, array, here)          # where bounds are checked: each
        if i % NEAR == 0:
            like = ir.FunctionType(pointer.type, [pointer.type])
            start = builder.asm(like, "", "=r,0", [pointer], False)
        yield builder.gep(start, [builder.mul(row, I64(i % NEAR))])


@intrinsic
def add_outer(typingctx, tile, a, a_at, a_i, b, b_at):
    """tile + column ⊗ row: the column a[a_at + i a_i] and the row b[b_at + j]."""

    def codegen(context, builder, sig, values):
        result, a_value, a_at, a_i, b_value, b_at = values
        row = []
        for v in range(tile.vectors):
            at = builder.add(b_at, I64(v * LANES))
            pointer = address(context, builder, b, b_value, at, I64(tile.lanes))
            row.append(builder.load(builder.bitcast(pointer, tile.vector.as_pointer()), align=tile.align))
        column = _column(context, builder, tile.rows, a, a_value, a_at, a_i)
        for i, pointer in enumerate(column):
            factor = spread(builder, builder.load(pointer), tile.lanes)
            for v in range(tile.vectors):
                place = i * tile.vectors + v
                terms = [factor, row[v], builder.extract_value(result, place)]
                total = call(builder, f"llvm.fma.{tile.suffix}", tile.vector, terms)
                result = builder.insert_value(result, total, place)
        return result

    return tile(tile, a, types.int64, types.int64, b, types.int64), codegen


def _vectors(
    context: Any, builder: Any, tile: Tile, array_type: Any, array: Any, at: Any, row: Any, n: Any
) -> Iterator[tuple[Any, list[tuple[int, Any]]]]:
    """For each vector of a row: how many of its lanes count, its places in the tile and the address of each, row by
    row; `n` None: all columns."""
    for v in range(tile.vectors):
        count = I64(tile.lanes) if n is None else clipped(builder, builder.sub(n, I64(v * LANES)), tile.lanes)
        places = []
        for i in range(tile.rows):
            start = builder.add(builder.add(at, builder.mul(row, I64(i))), I64(v * LANES))
            pointer = address(context, builder, array_type, array, start, count)
            places.append((i * tile.vectors + v, builder.bitcast(pointer, tile.vector.as_pointer())))
        yield count, places


@intrinsic
def load_tile(typingctx, tile, array, at, row, n):
    """A tile of the same kind as `tile` from `array`, its rows `row` elements apart."""

    def codegen(context, builder, sig, values):
        _, value, at, row, n = values
        slot, zeros = cgutils.alloca_once(builder, tile.native), cgutils.get_null_value(tile.vector)
        whole = builder.icmp_signed(">=", n, I64(tile.vectors * tile.lanes))
        with builder.if_else(whole, likely=True) as (all_columns, some_columns):
            with all_columns:
                for _, places in _vectors(context, builder, tile, array, value, at, row, None):
                    for place, pointer in places:
                        vector = builder.load(pointer, align=tile.align)
                        builder.store(vector, cgutils.gep_inbounds(builder, slot, 0, place))
            with some_columns:
                for count, places in _vectors(context, builder, tile, array, value, at, row, n):
                    mask = first_lanes(builder, count, tile.lanes)
                    for place, pointer in places:
                        operands = [pointer, I32(tile.align), mask, zeros]
                        vector = call(builder, masked_name("load", tile.suffix), tile.vector, operands)
                        builder.store(vector, cgutils.gep_inbounds(builder, slot, 0, place))
        return builder.load(slot)

    return tile(tile, array, types.int64, types.int64, types.int64), codegen


@intrinsic
def store_tile(typingctx, tile, array, at, row, n):
    """Write the tile's first n columns to `array`, its rows `row` elements apart."""

    def codegen(context, builder, sig, values):
        tile_value, value, at, row, n = values
        whole = builder.icmp_signed(">=", n, I64(tile.vectors * tile.lanes))
        with builder.if_else(whole, likely=True) as (all_columns, some_columns):
            with all_columns:
                for _, places in _vectors(context, builder, tile, array, value, at, row, None):
                    for place, pointer in places:
                        builder.store(builder.extract_value(tile_value, place), pointer, align=tile.align)
            with some_columns:
                for count, places in _vectors(context, builder, tile, array, value, at, row, n):
                    vectors = [builder.extract_value(tile_value, place) for place, _ in places]
                    store_first(builder, tile.dtype, vectors, [pointer for _, pointer in places], count)
        return context.get_dummy_value()

    return types.void(tile, array, types.int64, types.int64, types.int64), codegen
