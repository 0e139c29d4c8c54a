"""Matrix product: every c[i, j] is one chain acc = fma(a[i, k], b[k, j], acc) over ascending k, on every path.

The structure is that of Goto & van de Geijn, "Anatomy of high-performance matrix multiplication" (2008). b is cut in
panels as wide as a register tile, which are packed one behind the other unless they can be read where they are; blocks
of c are computed in parallel, `DEPTH` steps of k at a time so that a panel stays in the first-level cache. The tiles of
c go on from what is already there, so cutting k does not change the order of a sum. a is only broadcast, never read as
vectors: any strides will do, and copying it first was never faster.
"""

import math
import threading
from typing import Any

import numpy as np

from .jit import jit, kernel, separate
from .simd import LANES, flat, fma, load_tail, store, store_tail, transpose
from .tile import add_outer, load_tile, store_tile, tile_shape, zeros_tile

DEPTH = 256
BLOCK_ROWS, BLOCK_COLUMNS = 112, 512  # of c in one block of work; rows: a multiple of the tile heights 14 and 4
SERIAL_WORK = 1 << 20  # multiply-adds up to which one thread is faster than several
ITEM_WORK = 1 << 17  # multiply-adds in one block of a batch of small products
PACKING_ROWS = 512  # rows of a from which packing pays for a matrix b that could be read in place
ROW_DEPTH, ROW_COLUMNS = 8, 512  # of b in one round and one block of a product with a single row
TILES = {np.dtype(np.float32): tile_shape(32), np.dtype(np.float64): tile_shape(64)}
EMPTY = {dtype: np.empty(0, dtype) for dtype in TILES}


def _band(kind: int) -> Any:
    """As many tiles of one height as fit between row i and the last: -> the row behind them."""

    @jit
    def band(i, height, a, a_at, a_i, a_k, b, b_at, b_k, c, c_at, c_i, rows, depth, n, fresh):
        while i + height <= rows:
            a_here, c_here = a_at + i * a_i, c_at + i * c_i
            tile = zeros_tile(a, kind)
            if not fresh:
                tile = load_tile(tile, c, c_here, c_i, n)
            for k in range(depth):
                tile = add_outer(tile, a, a_here + k * a_k, a_i, b, b_at + k * b_k)
            store_tile(tile, c, c_here, c_i, n)
            i += height
        return i

    return band


_tall_tiles, _low_tiles, _single_rows = _band(0), _band(1), _band(2)


@separate
def multiply(a, a_at, a_i, a_k, b, b_at, b_k, c, c_at, c_i, rows, depth, n, height, fresh):
    """c = a b (fresh) or c += a b for one panel of b, n columns of which count.

    Arrays are flat; _at: where the matrix begins; _i and _k: the elements from one i or k to the next.
    """
    i = _tall_tiles(0, height, a, a_at, a_i, a_k, b, b_at, b_k, c, c_at, c_i, rows, depth, n, fresh)
    if height > 4:
        i = _low_tiles(i, 4, a, a_at, a_i, a_k, b, b_at, b_k, c, c_at, c_i, rows, depth, n, fresh)
    _single_rows(i, 1, a, a_at, a_i, a_k, b, b_at, b_k, c, c_at, c_i, rows, depth, n, fresh)


@separate
def pack(b, first, n, width, packed, to):
    """Copy columns first .. first + n - 1 of a matrix to a panel `width` wide, with zeros behind them."""
    source, b_k, b_j, depth = flat(b), b.strides[0] // b.itemsize, b.strides[1] // b.itemsize, b.shape[0]
    if b_j == 1:
        for k in range(depth):
            for j in range(0, width, LANES):
                store(packed, to + k * width + j, load_tail(source, k * b_k + first + j, n - j))
        return
    for j in range(0, width, LANES):
        if b_k == 1 and j < n:
            for k in range(0, depth, LANES):
                transpose(source, k + (first + j) * b_j, b_j, n - j, depth - k, packed, to + k * width + j, width)
        else:
            for k in range(depth):
                for lane in range(j, j + LANES):
                    packed[to + k * width + lane] = b[k, first + lane] if lane < n else 0


@kernel("T[:, :], T[::1], int, int")
def pack_panels(lo, hi, b, packed, width, group):
    """Pack a matrix (K, N) as panels of `width` columns; a block is `group` panels."""
    depth, columns = b.shape
    for panel in range(lo * group, min(hi * group, -(-columns // width))):
        pack(b, panel * width, min(width, columns - panel * width), width, packed, panel * width * depth)


@kernel("T[:, :], T[:, :], T[::1], T[::1], int, int")
def multiply_blocks(lo, hi, a, b, packed, c, height, width):
    """c (M, N) = a (M, K) b (K, N), in blocks of c; an empty `packed` means that b is read where it is."""
    (rows, depth), columns = a.shape, b.shape[1]
    a_i, a_k = a.strides[0] // a.itemsize, a.strides[1] // a.itemsize
    left, right, b_k, b_panel = flat(a), flat(b), b.strides[0] // b.itemsize, width
    if packed.size:
        right, b_k, b_panel = packed, width, width * depth
    grid = -(-columns // BLOCK_COLUMNS)
    for block in range(lo, hi):
        i, j = block // grid * BLOCK_ROWS, block % grid * BLOCK_COLUMNS
        m, end = min(BLOCK_ROWS, rows - i), min(columns, j + BLOCK_COLUMNS)
        for k in range(0, depth, DEPTH):
            for p in range(j, end, width):
                multiply(left, i * a_i + k * a_k, a_i, a_k, right, p // width * b_panel + k * b_k, b_k,
                         c, i * columns + p, columns, m, min(DEPTH, depth - k), min(width, end - p),
                         height, k == 0)  # fmt: skip


@kernel("T[:, :], T[:, :], T[::1]")
def multiply_row(lo, hi, a, b, c):
    """c (1, N) = a (1, K) b (K, N) for b with contiguous rows, which are read through, `ROW_DEPTH` at a time."""
    depth, columns = b.shape
    source, b_k = flat(b), b.strides[0] // b.itemsize
    for j in range(lo * ROW_COLUMNS, min(hi * ROW_COLUMNS, columns)):
        c[j] = 0
    for k in range(0, depth, ROW_DEPTH):
        for j in range(lo * ROW_COLUMNS, min(hi * ROW_COLUMNS, columns), LANES):
            total = load_tail(c, j, columns - j)
            for step in range(k, min(k + ROW_DEPTH, depth)):
                total = fma(a[0, step], load_tail(source, step * b_k + j, columns - j), total)
            store_tail(c, j, total, columns - j)


@kernel("T[:, :, :, :], T[:, :, :, :], T[::1], int, int, int, int, int")
def multiply_items(lo, hi, a, b, c, outer, inner, height, width, group):
    """c (outer, inner, M, N) = a b for two batch axes (1 broadcasts); a block is `group` products."""
    (rows, depth), columns = a.shape[2:], b.shape[3]
    a_i, a_k, b_k = a.strides[2] // a.itemsize, a.strides[3] // a.itemsize, b.strides[2] // b.itemsize
    in_place = b.strides[3] == b.itemsize and columns % width == 0
    packed = np.empty(0 if in_place else depth * width, a.dtype)
    for item in range(lo * group, min(hi * group, outer * inner)):
        p, q = item // inner, item % inner
        one_a = a[p if a.shape[0] > 1 else 0, q if a.shape[1] > 1 else 0]
        one_b = b[p if b.shape[0] > 1 else 0, q if b.shape[1] > 1 else 0]
        left, right, b_at, b_step = flat(one_a), flat(one_b), 0, b_k
        for j in range(0, columns, width):
            n = min(width, columns - j)
            if in_place:
                b_at = j
            else:
                pack(one_b, j, n, width, packed, 0)
                right, b_step = packed, width
            multiply(left, 0, a_i, a_k, right, b_at, b_step, c, item * rows * columns + j, columns,
                     rows, depth, n, height, True)  # fmt: skip


def matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The matrix product a (..., M, K) b (..., K, N) -> (..., M, N); the leading axes broadcast as in NumPy.

    Both have one dtype, float32 or float64 (others: NotImplemented), and any strides. A vector on the left is a row, on
    the right a column, and that axis is dropped from the result.
    """
    if a.dtype not in TILES or a.dtype != b.dtype:
        return NotImplemented
    if a.ndim == 1:
        return matmul(a[None, :], b)[..., 0, :] if b.ndim > 1 else matmul(a[None, :], b)[..., 0]
    if b.ndim == 1:
        return matmul(a, b[:, None])[..., 0]
    if a.ndim == 2 and b.ndim == 2:
        c = np.empty((a.shape[0], b.shape[1]), a.dtype)
        _product(a, b, c)
        return c
    if b.ndim == 2 and (rows := _as_rows(a)) is not None:
        c = np.empty((*a.shape[:-1], b.shape[1]), a.dtype)
        _product(rows, b, c)
        return c
    return _batch(a, b)


def _as_rows(a: np.ndarray) -> np.ndarray | None:
    """(..., M, K) as (all rows, K) without a copy, or None if the leading axes do not follow one another in memory."""
    if a.flags.c_contiguous:
        return a.reshape(math.prod(a.shape[:-1]), a.shape[-1])
    step = a.strides[-2]
    for extent, stride, next_extent in zip(a.shape[-3::-1], a.strides[-3::-1], a.shape[-2:0:-1], strict=False):
        step *= next_extent
        if extent != 1 and stride != step:
            return None
    return np.lib.stride_tricks.as_strided(
        a, (math.prod(a.shape[:-1]), a.shape[-1]), (a.strides[-2], a.strides[-1]), writeable=False
    )


def _product(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
    """c = a b for matrices a and b."""
    (rows, depth), columns = a.shape, b.shape[1]
    if depth == 0:
        c.fill(0)
    work = rows * depth * columns
    if work == 0:
        return
    height, width = TILES[a.dtype]
    packed = EMPTY[a.dtype]
    if rows == 1 and b.strides[1] == b.itemsize:
        run = multiply_row.serial if work <= SERIAL_WORK else multiply_row
        run(-(-columns // ROW_COLUMNS), a, b, c)
        return
    if columns % width or b.strides[1] != b.itemsize or rows >= PACKING_ROWS:
        panels = -(-columns // width)
        group = panels if work <= SERIAL_WORK else max(1, (1 << 14) // (depth * width))
        packed = _buffer(panels * width * depth, a.dtype)
        pack_panels(-(-panels // group), b, packed, width, group)
    run = multiply_blocks.serial if work <= SERIAL_WORK else multiply_blocks
    run(-(-rows // BLOCK_ROWS) * -(-columns // BLOCK_COLUMNS), a, b, packed, c, height, width)


def _batch(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The product where there are batch axes to broadcast."""
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    c = np.empty((*batch, a.shape[-2], b.shape[-1]), a.dtype)
    if a.shape[-1] == 0:
        c.fill(0)
    if c.size == 0 or a.shape[-1] == 0:
        return c
    if len(batch) > 2:
        a, b = (np.broadcast_to(x, batch + x.shape[-2:]).reshape(1, -1, *x.shape[-2:]) for x in (a, b))
    else:
        a, b = (x[(None,) * (4 - x.ndim)] for x in (a, b))
    outer, inner = max(a.shape[0], b.shape[0]), max(a.shape[1], b.shape[1])
    item_work = a.shape[2] * a.shape[3] * b.shape[3]
    if item_work > SERIAL_WORK:
        products = c.reshape(outer, inner, *c.shape[-2:])
        for p, q in np.ndindex(outer, inner):
            _product(a[p % a.shape[0], q % a.shape[1]], b[p % b.shape[0], q % b.shape[1]], products[p, q])
        return c
    group = max(1, ITEM_WORK // item_work)
    blocks = -(-outer * inner // group)
    run = multiply_items.serial if item_work * outer * inner <= SERIAL_WORK else multiply_items
    run(blocks, a, b, c, outer, inner, *TILES[a.dtype], group)
    return c


_buffers = threading.local()


def _buffer(size: int, dtype: Any) -> np.ndarray:
    """Memory that each Python thread keeps from call to call, aligned to a cache line."""
    kept = _buffers.__dict__
    if dtype not in kept or kept[dtype].size < size:
        memory = np.empty(size + 64 // dtype.itemsize, dtype)
        skip = -memory.ctypes.data % 64 // dtype.itemsize
        kept[dtype] = memory[skip : skip + size]
    return kept[dtype]
