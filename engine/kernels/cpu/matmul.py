"""Matrix product: every c[i, j] is one chain acc = fma(a[i, k], b[k, j], acc) over ascending k, on every path.

The structure is that of Goto & van de Geijn, "Anatomy of high-performance matrix multiplication" (2008). c is cut in
blocks, which are computed in parallel, `DEPTH` steps of k at a time. A block goes through b in panels as wide as a
register tile, which it packs for itself, a few at a time, unless they can as well be read where they are. The tiles of
c go on from what is already there, so cutting k does not change the order of a sum. a is only broadcast, never read as
vectors: any strides will do, and it is copied only where its rows would push one another out of the cache.
"""

import functools
import math
from typing import Any

import numpy as np

from . import tape
from .jit import MOST_THREADS, get_threads, jit, kernel, separate
from .simd import LANES, flat, fma, load, load_tail, splat, store, store_tail
from .tile import HALF, add_outer, element, load_tile, store_tile, tile_rows, tile_shape, zeros_tile
from .transpose import transpose

DEPTH = 256
BLOCK_ROWS, BLOCK_COLUMNS = 532, 512  # of c in one block of work, at most
SERIAL_WORK = 1 << 18  # multiply-adds up to which one thread is faster than several
ITEM_WORK = 1 << 17  # multiply-adds in one block of a batch of small products
PACKING_ROWS, PACKING_BYTES = 256, 1 << 20  # rows of a and bytes of b from which packing b pays where it need not be
ROW_DEPTH, ROW_COLUMNS = 8, 512  # of b in one round and one block of a product with a single row
ACROSS_COLUMNS = 128  # of b in one block of such a product with contiguous columns
PACKED_COLUMNS = 128  # of b that are packed at a time
CACHE_LINE, PAGE = 64, 4096  # bytes; addresses that differ by a multiple of the second share a place in a cache
PADDING = 16  # elements between rows of a copy, so that theirs do not
TILES = {np.dtype(np.float32): tile_shape(32), np.dtype(np.float64): tile_shape(64)}


def _band(kind: int) -> Any:
    """As many tiles of one height as fit between row i and the last: -> the row behind them."""

    @jit
    def band(i, a, a_at, a_i, a_k, b, b_at, b_k, c, c_at, c_i, rows, depth, n, fresh):
        height = tile_rows(a, kind)
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


def _panel(kind: int) -> Any:
    """All rows of c beside one panel of b, by tiles of this kind, the tallest, and of the four after it."""
    tallest, four, one, ten, two = map(_band, range(kind, kind + 5))

    @jit
    def panel(a, a_at, a_i, a_k, b, b_at, b_k, c, c_at, c_i, rows, depth, n, fresh):
        i, tall, height = 0, rows, tile_rows(a, kind)
        if height == 14 and rows % 14 == 6 and rows > 6:
            tall = rows - 20  # two tiles of 10 are better than one of 14, one of 4 and one of 2
        i = tallest(i, a, a_at, a_i, a_k, b, b_at, b_k, c, c_at, c_i, tall, depth, n, fresh)
        if height > 10:
            i = ten(i, a, a_at, a_i, a_k, b, b_at, b_k, c, c_at, c_i, rows, depth, n, fresh)
        if height > 4:
            i = four(i, a, a_at, a_i, a_k, b, b_at, b_k, c, c_at, c_i, rows, depth, n, fresh)
        if height > 2:
            i = two(i, a, a_at, a_i, a_k, b, b_at, b_k, c, c_at, c_i, rows, depth, n, fresh)
        one(i, a, a_at, a_i, a_k, b, b_at, b_k, c, c_at, c_i, rows, depth, n, fresh)

    return panel


_wide, _narrow, _half = map(_panel, (0, 5, 10))


@separate
def multiply(a, a_at, a_i, a_k, b, b_at, b_k, c, c_at, c_i, rows, depth, n, fresh):
    """c = a b (fresh) or c += a b for one panel of b, n columns of which count.

    Arrays are flat; _at: where the matrix begins; _i and _k: the elements from one i or k to the next.
    """
    if HALF and n <= HALF:
        _half(a, a_at, a_i, a_k, b, b_at, b_k, c, c_at, c_i, rows, depth, n, fresh)
    elif n <= LANES:
        _narrow(a, a_at, a_i, a_k, b, b_at, b_k, c, c_at, c_i, rows, depth, n, fresh)
    else:
        _wide(a, a_at, a_i, a_k, b, b_at, b_k, c, c_at, c_i, rows, depth, n, fresh)


@separate
def pack_panel(b, at, b_k, b_j, depth, n, width, packed, to):
    """Copy a panel of n columns of b to one `width` wide whose rows follow one another, with zeros behind the n."""
    if b_j == 1:
        for k in range(depth):
            for j in range(0, width, LANES):
                store(packed, to + k * width + j, load_tail(b, at + k * b_k + j, n - j))
        return
    for j in range(0, width, LANES):
        if b_k == 1 and j < n:
            for k in range(0, depth, LANES):
                transpose(b, at + k + j * b_j, b_j, n - j, depth - k, packed, to + k * width + j, width)
        else:
            for k in range(depth):
                for lane in range(j, j + LANES):
                    packed[to + k * width + lane] = element(b, at + k * b_k + lane * b_j) if lane < n else 0


@separate
def pack(b, first, n, width, packed, to):
    """Pack columns first .. first + n - 1 of a matrix, in all its rows, as `pack_panel` does."""
    b_k, b_j = b.strides[0] // b.itemsize, b.strides[1] // b.itemsize
    pack_panel(flat(b), first * b_j, b_k, b_j, b.shape[0], n, width, packed, to)


@separate
def pack_rows(b, at, b_k, depth, columns, width, packed, to):
    """Pack several panels at once, for b with contiguous rows: long runs are what memory likes."""
    for k in range(depth):
        for j in range(0, columns, width):
            for v in range(j, j + width, LANES):
                store(packed, to + j * depth + k * width + v - j, load_tail(b, at + k * b_k + v, columns - v))


@separate
def copy_rows(a, at, a_i, a_k, rows, depth, copy, to, row):
    """Copy a matrix to rows `row` elements apart."""
    for i in range(rows):
        if a_k == 1:
            for k in range(0, depth, LANES):
                store_tail(copy, to + i * row + k, load_tail(a, at + i * a_i + k, depth - k), depth - k)
        else:
            for k in range(depth):
                copy[to + i * row + k] = element(a, at + i * a_i + k * a_k)


@separate
def product(a, a_at, a_i, a_k, b, b_at, b_k, b_j, c, c_at, c_i, rows, depth, columns, plan, fresh, sums, memory):
    """c = a b (fresh) or c += a b for one block of c, as `plan` says (see `planned`); memory: for copies.

    sums: a last row of c is the sums of b's columns, as if a had a last row of ones.
    """
    width, step, group, copying = plan[2], plan[3], plan[4], plan[5]
    packing, together = plan[6] or b_j != 1, plan[6] and b_j == 1
    row = (rows if a_i == 1 else step) + PADDING
    copied = (step if a_i == 1 else rows) * row if copying else 0
    to = -memory.ctypes.data % CACHE_LINE // a.itemsize
    panels, one = to + -(-copied // LANES) * LANES, memory.size - 1
    memory[one] = 1
    if depth == 0 and fresh:
        for i in range(rows + sums):
            for j in range(0, columns, LANES):
                store_tail(c, c_at + i * c_i + j, splat(0.0, c), columns - j)
    for k in range(0, depth, step):
        steps = min(step, depth - k)
        left, left_at, left_i, left_k = a, a_at + k * a_k, a_i, a_k
        if copying:
            left, left_at = memory, to
            if a_i == 1:
                copy_rows(a, a_at + k * a_k, a_k, a_i, steps, rows, memory, to, row)
                left_k = row
            else:
                copy_rows(a, a_at + k * a_k, a_i, a_k, rows, steps, memory, to, row)
                left_i, left_k = row, 1
        for first in range(0, columns, group):
            end = min(first + group, columns)
            if together:
                pack_rows(b, b_at + k * b_k + first, b_k, steps, end - first, width, memory, panels)
            for j in range(first, end, width):
                n = min(width, columns - j)
                right, right_at, right_k = memory, panels + (j - first) * steps, width
                if not packing and n == width:
                    right, right_at, right_k = b, b_at + k * b_k + j, b_k
                elif not together:
                    right_at = panels
                    pack_panel(b, b_at + k * b_k + j * b_j, b_k, b_j, steps, n, width, memory, panels)
                multiply(left, left_at, left_i, left_k, right, right_at, right_k,
                         c, c_at + j, c_i, rows, steps, n, fresh and k == 0)  # fmt: skip
                if sums:
                    multiply(memory, one, 0, 0, right, right_at, right_k,
                             c, c_at + rows * c_i + j, 0, 1, steps, n, fresh and k == 0)  # fmt: skip


@kernel("T[:, :], T[:, :], T[::1], T[:, :], int64[::1]")
def _matmul(worker, lo, hi, a, b, c, scratch, plan):
    """c (M, N) = a (M, K) b (K, N), in blocks of c."""
    (rows, depth), columns, size = a.shape, b.shape[1], a.itemsize
    a_i, a_k, b_k, b_j = a.strides[0] // size, a.strides[1] // size, b.strides[0] // size, b.strides[1] // size
    left, right, block_rows, block_columns = flat(a), flat(b), plan[0], plan[1]
    grid = -(-rows // block_rows)
    for block in range(lo, hi):
        i, j = block % grid * block_rows, block // grid * block_columns
        product(left, i * a_i, a_i, a_k, right, j * b_j, b_k, b_j, c, i * columns + j, columns,
                min(block_rows, rows - i), depth, min(block_columns, columns - j), plan, True,
                False, scratch[worker])  # fmt: skip


@kernel("T[:, :], T[:, :], T[::1]")
def _multiply_row(lo, hi, a, b, c):
    """c (1, N) = a (1, K) b (K, N) for b with contiguous rows, which are read through, `ROW_DEPTH` at a time."""
    depth, columns = b.shape
    source, b_k = flat(b), b.strides[0] // b.itemsize
    first, end = lo * ROW_COLUMNS, min(hi * ROW_COLUMNS, columns)
    tail = (end - first) % LANES
    for j in range(first, end):
        c[j] = 0
    for k in range(0, depth, ROW_DEPTH):
        until = min(k + ROW_DEPTH, depth)
        for j in range(first, end - LANES + 1, LANES):
            total = load(c, j)
            for step in range(k, until):
                total = fma(a[0, step], load(source, step * b_k + j), total)
            store(c, j, total)
        if tail:
            total = load_tail(c, end - tail, tail)
            for step in range(k, until):
                total = fma(a[0, step], load_tail(source, step * b_k + end - tail, tail), total)
            store_tail(c, end - tail, total, tail)


@kernel("T[:, :], T[:, :], T[::1]")
def _multiply_row_across(lo, hi, a, b, c):
    """c (1, N) = a (1, K) b (K, N) for b with contiguous columns, which are turned into rows 16 × 16 at a time."""
    depth, columns = b.shape
    source, b_j = flat(b), b.strides[1] // b.itemsize
    turned = np.empty(LANES * LANES, a.dtype)
    for j in range(lo * ACROSS_COLUMNS, min(hi * ACROSS_COLUMNS, columns), LANES):
        total = splat(0.0, a)
        for k in range(0, depth, LANES):
            transpose(source, k + j * b_j, b_j, columns - j, depth - k, turned, 0, LANES)
            for step in range(min(LANES, depth - k)):
                total = fma(a[0, k + step], load(turned, step * LANES), total)
        store_tail(c, j, total, columns - j)


@kernel("T[:, :, :, :], T[:, :, :, :], T[::1], int, int, int, int")
def _multiply_items(lo, hi, a, b, c, outer, inner, width, group):
    """c (outer, inner, M, N) = a b for two batch axes (1 broadcasts); a block is `group` products."""
    width = LANES if b.shape[3] <= LANES else width
    packed = np.empty(a.shape[3] * width, a.dtype)
    _items(lo * group, min(hi * group, outer * inner), a, b, c, inner, width, packed)


@separate
def _items(begin, stop, a, b, c, inner, width, packed):
    """Products `begin` to `stop` - 1 of a batch."""
    (rows, depth), columns = a.shape[2:], b.shape[3]
    a_i, a_k, b_k = a.strides[2] // a.itemsize, a.strides[3] // a.itemsize, b.strides[2] // b.itemsize
    b_j = b.strides[3] // b.itemsize
    for item in range(begin, stop):
        p, q = item // inner, item % inner
        one_a = a[p if a.shape[0] > 1 else 0, q if a.shape[1] > 1 else 0]
        one_b = b[p if b.shape[0] > 1 else 0, q if b.shape[1] > 1 else 0]
        left, right_b, b_at, b_step = flat(one_a), flat(one_b), 0, b_k
        right = right_b
        for j in range(0, columns, width):
            n = min(width, columns - j)
            if b_j == 1 and n % LANES == 0:
                right, b_at, b_step = right_b, j, b_k
            else:
                pack_panel(right_b, j * b_j, b_k, b_j, depth, n, width, packed, 0)
                right, b_at, b_step = packed, 0, width
            multiply(left, 0, a_i, a_k, right, b_at, b_step, c, item * rows * columns + j, columns,
                     rows, depth, n, True)  # fmt: skip


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
        c = tape.empty((a.shape[0], b.shape[1]), a.dtype)
        _product(a, b, c)
        return c
    if b.ndim == 2 and (rows := as_rows(a)) is not None:
        c = tape.empty((*a.shape[:-1], b.shape[1]), a.dtype)
        _product(rows, b, c)
        return c
    return _batch(a, b)


def as_rows(a: np.ndarray) -> np.ndarray | None:
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
    if rows == 0 or columns == 0:
        return
    if columns == 1:
        a, b, rows, columns = b.T, a.T, 1, rows
    work = rows * depth * columns
    if rows == 1 and b.strides[1] == b.itemsize:
        run = _multiply_row.serial if work <= SERIAL_WORK else _multiply_row
        run(-(-columns // ROW_COLUMNS), a, b, c)
        return
    if rows == 1 and b.strides[0] == b.itemsize:
        run = _multiply_row_across.serial if work <= SERIAL_WORK else _multiply_row_across
        run(-(-columns // ACROSS_COLUMNS), a, b, c)
        return
    plan, blocks, room = planned(rows, depth, (columns,), a.strides, a.dtype, get_threads())
    run = _matmul.serial if work <= SERIAL_WORK else _matmul
    run(blocks, a, b, c, tape.empty((MOST_THREADS, room), a.dtype), plan)


@functools.lru_cache(maxsize=4096)
def planned(
    rows: int, depth: int, pieces: tuple[int, ...], a_strides: tuple[int, ...], dtype: Any, threads: int
) -> tuple[np.ndarray, int, int]:
    """How to compute a product in blocks, as an array for `product`, the number of blocks, and the elements of memory
    that a thread needs for copies.

    pieces: the columns of c, of which no block has some of two pieces. The array: rows and columns of a block, width of
    a tile, steps of k at a time, columns of b packed at a time, whether to copy a (where its rows or columns would fall
    on the same places of a cache), whether to pack b also where it can be read in place (where it is large, or a column
    of it as wide as a tile would fall on the same places).
    """
    height, width = TILES[dtype]
    step = max(1, -(-depth // max(1, -(-depth // DEPTH))))
    lead = a_strides[1] if a_strides[0] == dtype.itemsize else a_strides[0]
    copying = lead > 0 and lead % PAGE == 0 and depth >= LANES and rows >= LANES
    b_bytes = depth * sum(pieces) * dtype.itemsize
    crowded = width * dtype.itemsize <= CACHE_LINE and any(piece * dtype.itemsize % PAGE == 0 for piece in pieces)
    packing = (b_bytes > PACKING_BYTES or crowded) and (rows >= PACKING_ROWS or b_bytes > 16 * PACKING_BYTES)
    packing_cycles = 30 if b_bytes > 4 * PACKING_BYTES else 6 if packing else 1
    block_rows, block_columns, blocks = _blocking(rows, depth, pieces, height, width, packing_cycles, threads)
    numbers = [block_rows, block_columns, width, step, PACKED_COLUMNS, copying, packing]
    turned = a_strides[0] == dtype.itemsize
    copied = (step * (block_rows + PADDING) if turned else block_rows * (step + PADDING)) if copying else 0
    room = copied + step * max(width, PACKED_COLUMNS if packing else width) + 2 * CACHE_LINE
    return np.array(numbers, np.int64), blocks, room


def _blocking(
    rows: int, depth: int, pieces: tuple[int, ...], height: int, width: int, packing: int, threads: int
) -> tuple[int, int, int]:
    """(rows, columns) of a block of c and the number of blocks: such that all threads end at about one time.

    packing: the cycles that packing one row of a panel of b takes.
    """
    best = (math.inf, height, width, 0)
    widest = max(pieces)
    least_m, least_n = max(1, -(-rows // BLOCK_ROWS)), max(1, -(-widest // BLOCK_COLUMNS))
    for m in range(least_m, least_m + 4 * threads):
        block_rows = max(1, -(-rows // (m * height))) * height
        for n in range(least_n, least_n + 2 * threads):
            block_columns = max(1, -(-widest // (n * width))) * width
            blocks = max(1, -(-rows // block_rows)) * sum(-(-piece // block_columns) for piece in pieces)
            cycles = depth * (2 * block_rows + packing) + 60 * block_rows // height  # of a panel
            rounds = -(-blocks // threads)
            best = min(best, (rounds * (block_columns // width * cycles + 500), block_rows, block_columns, blocks))
    return best[1:]


def _batch(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The product where there are batch axes to broadcast."""
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    c = tape.empty((*batch, a.shape[-2], b.shape[-1]), a.dtype)
    if c.size == 0:
        return c
    if len(batch) > 2:
        a, b = (tape.contiguous(np.broadcast_to(x, batch + x.shape[-2:])) for x in (a, b))
        a, b = (x.reshape(1, math.prod(x.shape[:-2]), *x.shape[-2:]) for x in (a, b))
    else:
        a, b = (x[(None,) * (4 - x.ndim)] for x in (a, b))
    outer, inner = max(a.shape[0], b.shape[0]), max(a.shape[1], b.shape[1])
    item_work = a.shape[2] * a.shape[3] * b.shape[3]
    if item_work > SERIAL_WORK:
        products = c.reshape(outer, inner, *c.shape[-2:])
        for p, q in np.ndindex(outer, inner):
            _product(a[p % a.shape[0], q % a.shape[1]], b[p % b.shape[0], q % b.shape[1]], products[p, q])
        return c
    group = max(1, ITEM_WORK // max(1, item_work))
    blocks = -(-outer * inner // group)
    run = _multiply_items.serial if item_work * outer * inner <= SERIAL_WORK else _multiply_items
    run(blocks, a, b, c, outer, inner, TILES[a.dtype][1], group)
    return c
