"""The matrix product, and the launches of the kernels behind it and behind the linear layers."""

import math
from typing import Any, NamedTuple

import numpy as np

from . import tape
from .dropout import dropout_in_place
from .jit import Kernel, cuda, kernel, precision
from .product import DEEP, GRADIENT, SIDE, SIGNATURE, product
from .random import rule
from .rows import MOST, aligned, served
from .tensor import tensor_product

Array = Any

MULTIPROCESSORS = 132  # of a Hopper card: what work is cut for
LEAST_DEPTH = 256  # of a part of k, where k is cut
THREADS = 256
AT_ONCE = 8  # steps of k in straight code


class Tile(NamedTuple):
    """A tile of c and how a block makes it."""

    rows: int
    columns: int
    depth: int
    part: int  # rows and columns that a thread makes; 0 on tensor cores
    at_once: int  # blocks of a multiprocessor
    speed: float  # multiply-adds a cycle and multiprocessor, beside the largest tile's

    @property
    def threads(self) -> int:
        return self.rows * self.columns // self.part**2 if self.part else _WARPS[self.columns][2]


TILES = (Tile(128, 128, 8, 8, 2, 1.0), Tile(64, 64, 8, 8, 4, 0.8), Tile(32, 32, 16, 4, 8, 0.4))


def _made(tile: Tile, dropping: bool) -> Kernel:
    function = product(
        f"product_{tile.rows}x{tile.columns}" + "_dropping" * dropping, ROWS=tile.rows, COLUMNS=tile.columns,
        DEPTH=tile.depth, PART=tile.part, THREADS=tile.threads, A_GROUPS=tile.rows * tile.depth // (4 * tile.threads),
        B_GROUPS=tile.columns * tile.depth // (4 * tile.threads), DROPPING=dropping, AT_ONCE=AT_ONCE,
    )  # fmt: skip
    return kernel(SIGNATURE, threads=tile.threads, blocks_per_multiprocessor=tile.at_once)(function)


_SMALL = Tile(64, 64, 8, 0, 3, 0.6)
TENSOR_TILES = {"tf32": (Tile(128, 256, 8, 0, 1, 1.0), _SMALL), "bf16": (Tile(128, 128, 16, 0, 1, 1.0), _SMALL)}
_WARPS = {256: (4, 8, 256), 128: (4, 4, 256), 64: (2, 4, 128)}  # columns: products down and across a warp, threads
_PAIRS = {"tf32": 1, "bf16": 2}  # numbers of a word: a step is tile.depth words


def _made_for_tensor_cores(tile: Tile, name: str) -> Kernel:
    tall, wide, threads = _WARPS[tile.columns]
    function = tensor_product(
        f"{name}_product_{tile.rows}x{tile.columns}", ROWS=tile.rows, COLUMNS=tile.columns, STEPS=tile.depth,
        PAIR=_PAIRS[name], TALL=tall, WIDE=wide, THREADS=threads, A_UNITS=tile.rows * tile.depth // (4 * threads),
        B_UNITS=tile.columns * tile.depth // (4 * threads),
    )  # fmt: skip
    return kernel(SIGNATURE, threads=threads, blocks_per_multiprocessor=tile.at_once)(function)


_TENSOR_PRODUCTS = {
    (name, tile): _made_for_tensor_cores(tile, name) for name, tiles in TENSOR_TILES.items() for tile in tiles
}  # fmt: skip
_PRODUCTS = {tile: (_made(tile, False), _made(tile, True)) for tile in TILES}


@kernel("float32[::1], float32[::1], int32, int32", threads=THREADS)
def _add_parts(parts, out, n, count):
    """out (n) = the sum of `count` arrays one behind the other, in their order."""
    i = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
    if i < n:
        total = parts[i]
        for part in range(1, count):
            total += parts[part * np.int64(n) + i]
        out[i] = total


class Piece(NamedTuple):
    """A matrix b, or a part of it: the array, the elements from one k and one column to the next, and its bias."""

    array: Array
    k: int
    j: int
    width: int  # columns, or (DEEP) steps of k
    bias: Array | None = None


def launch(
    a: Array, a_i: int, a_k: int, pieces: list[Piece], c: Array, m: int, depth: int, *, mode: int = SIDE, n: int = 0,
    batch: tuple[int, int] = (1, 1), steps: tuple[int, ...] = (0, 0, 0, 0), sums: bool = False,
    relu: bool = False, key: Array | None = None, p: float = 0.0,
) -> None:  # fmt: skip
    """c = a b: a (m, depth) with elements a_i and a_k apart, b in pieces, n the columns of c where they are DEEP.

    batch: outer and inner products, `steps` elements apart: a's outer and inner, b's outer and inner. sums: the sums of
    b over k follow each GRADIENT. p: the probability of dropout, which is decided by the key.
    """
    widths = [piece.width for piece in pieces] + [0] * (3 - len(pieces))
    padded = pieces + [pieces[0]] * (3 - len(pieces))
    columns = [n] if mode == DEEP else widths
    many = batch[0] * batch[1]
    exact = precision()
    length = sum(widths) if mode == DEEP else depth
    tile, parts = _plan(m, columns, length, many, mode == GRADIENT, TENSOR_TILES.get(exact, TILES))
    step = tile.depth * _PAIRS.get(exact, 1)
    tiles = -(-m // tile.rows) * sum(-(-w // tile.columns) for w in columns)
    chunk = -(-length // (parts * step)) * step or 1
    parts = max(1, -(-length // chunk))
    to = c if parts == 1 else tape.empty((parts, c.size), c.dtype)
    wide_a = aligned(a) and _wide((a_i, a_k), steps[:2])
    wide_b = all(aligned(piece.array) and _wide((piece.k, piece.j), steps[2:]) for piece in pieces)
    whole = [n] if mode == DEEP else widths
    even = all(w % 4 == 0 for w in widths[:-1])  # where pieces of one matrix begin
    wide_a, wide_b = wide_a and (even or mode != DEEP), wide_b and (even or mode != GRADIENT)
    wide_c = aligned(to) and all(w % 4 == 0 for w in whole)
    n1, n2, n3 = widths
    if mode == DEEP:
        n1, depth = n, widths[0]
    run = _PRODUCTS[tile][p > 0] if exact == "float32" else _TENSOR_PRODUCTS[exact, tile]
    run[(tiles, parts, many), tile.threads](
        a, *(piece.array for piece in padded), to, *(piece.bias for piece in padded), key, m, n1, n2, n3, depth,
        a_i, a_k, *(piece.k for piece in padded), *(piece.j for piece in padded), *steps, batch[1], mode, chunk,
        int(sums), wide_a, wide_b, wide_c, sum((b.bias is not None) << i for i, b in enumerate(pieces)), relu, *rule(p),
    )  # fmt: skip
    if p > 0 and exact != "float32":
        dropout_in_place(c, key, p)
    if parts > 1:
        _add_parts[-(-c.size // THREADS), THREADS](to, c, c.size, parts)


def _wide(strides: tuple[int, int], steps: tuple[int, ...]) -> bool:
    """Whether a matrix with such strides can be read four neighbours at a time."""
    slow = strides[0] if strides[1] == 1 else strides[1]
    return 1 in strides and slow % 4 == 0 and all(step % 4 == 0 for step in steps)


def _plan(
    m: int, columns: list[int], depth: int, many: int, cutting: bool, tiles: tuple[Tile, ...]
) -> tuple[Tile, int]:
    """The tile, and into how many parts k is cut, with which the last multiprocessor ends first.

    Only gradients of weights may be cut: their sums are over a batch, so no number of another batch depends on it.
    """
    best = math.inf, tiles[0], 1
    for tile in tiles:
        blocks = -(-m // tile.rows) * sum(-(-w // tile.columns) for w in columns) * many
        most = max(1, depth // LEAST_DEPTH) if cutting else 1
        parts = min(most, max(1, tile.at_once * MULTIPROCESSORS // max(1, blocks)))
        rounds = -(-blocks * parts // MULTIPROCESSORS)
        busy = min(1.0, min(rounds, tile.at_once) * tile.threads / 256)
        time = rounds * tile.rows * tile.columns * (depth / parts) / (tile.speed * busy)
        if time < best[0]:
            best = time, tile, parts
    return best[1:]


def matmul(a: Array, b: Array) -> Array:
    """The matrix product a (..., M, K) b (..., K, N) -> (..., M, N) of float32, any strides; leading axes broadcast."""
    if not served(a, b) or 0 in (a.ndim, b.ndim):
        return NotImplemented
    if a.ndim == 1 or b.ndim == 1:
        c = matmul(a[None, :] if a.ndim == 1 else a, b[:, None] if b.ndim == 1 else b)
        return c if c is NotImplemented else c.reshape(c.shape[: c.ndim - 2] + a.shape[:-1][-1:] + b.shape[1:][-1:])
    a, b = plain(a), plain(b)
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    (m, depth), n = a.shape[-2:], b.shape[-1]
    c = tape.empty((*batch, m, n), a.dtype)
    if c.size == 0 or depth == 0 or c.size > MOST:
        if c.size:
            tape.fill(c, 0)
        return c
    if b.ndim == 2 and a.ndim > 2 and (rows := as_rows(a)) is not None:
        a, m, batch = rows, rows.shape[0], ()
    if len(batch) > 2:
        a, b = (_two_axes(x, batch) for x in (a, b))
        batch = (1, math.prod(batch))
    outer, inner = (1,) * (2 - len(batch)) + batch
    (*steps_a, a_i, a_k), (*steps_b, b_k, b_j) = _strides(a), _strides(b)
    cutting = a_i == 1 and a_k != 1 and outer * inner == 1
    launch(
        a, a_i, a_k, [Piece(b, b_k, b_j, n)], c, m, depth, mode=GRADIENT if cutting else SIDE, batch=(outer, inner),
        steps=(*steps_a, *steps_b),
    )  # fmt: skip
    return c


def as_rows(a: Array) -> Array | None:
    """(..., M, K) as (all rows, K) without a copy, or None if that cannot be."""
    if a.ndim == 2:
        return a
    return a.reshape(math.prod(a.shape[:-1]), a.shape[-1]) if a.flags.c_contiguous else None


def plain(x: Array) -> Array:
    """x itself if its strides are whole elements forwards, else a copy that is contiguous."""
    return x if all(stride >= 0 and stride % x.itemsize == 0 for stride in x.strides) else tape.contiguous(x)


def _two_axes(x: Array, batch: tuple[int, ...]) -> Array:
    """A batch of any number of axes as one of two."""
    shape = batch + x.shape[-2:]
    if x.shape == shape and x.flags.c_contiguous:
        return x.reshape(1, -1, *shape[-2:])
    out = tape.empty(shape, x.dtype)
    tape.copy_to(out, x)
    return out.reshape(1, -1, *shape[-2:])


def _strides(x: Array) -> list[int]:
    """The strides of a matrix with up to two axes before it, in elements; 0 along an axis of size 1."""
    padded = [0] * (4 - x.ndim) + [stride // x.itemsize for stride in x.strides]
    sizes = [1] * (4 - x.ndim) + list(x.shape)
    return [stride if size != 1 else 0 for stride, size in zip(padded, sizes, strict=True)]
