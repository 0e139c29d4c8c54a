"""The matrix product, and the launches of the kernels behind it and behind the linear layers."""

import math
from typing import Any, NamedTuple

import numpy as np

from . import tape, tiles, words
from .card import shared_memory
from .dropout import dropout_in_place
from .jit import cuda, kernel, precision
from .product import DEEP, GRADIENT, SIDE, above
from .ptx import divided
from .random import rule
from .rows import MOST, aligned, served

Array = Any

THREADS = 256
MANY = 65535  # products of a launch: as many blocks a grid has along z
SMALL = 2**20  # numbers that may be copied to spare launches


@kernel("float32[::1], float32[::1], float32[::1], int32, int32, int32, bool, bool", threads=THREADS)
def _add_parts(parts, bias, out, n, count, columns, biased, relu):
    """out (n) = the sum of `count` arrays one behind the other, in their order, and what a product ends with."""
    i = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
    if i < n:
        total = parts[i]
        for part in range(1, count):
            total += parts[part * np.int64(n) + i]
        if biased:
            total += bias[divided(i, columns)[1]]
        out[i] = above(total) if relu else total


class Piece(NamedTuple):
    """A matrix b, or a part of it: the array, the elements from one k and one column to the next, and its bias."""

    array: Array
    k: int
    j: int
    width: int  # columns, or (DEEP) steps of k
    bias: Array | None = None


class Work(NamedTuple):
    """c = a b as the kernels take it: a's elements a_i and a_k apart, b in pieces; `steps` elements from one outer and
    one inner matrix to the next, of a and of b; whether four neighbours can be read at a time."""

    a: Array
    a_i: int
    a_k: int
    pieces: list[Piece]
    depth: int
    steps_a: tuple[int, int]
    steps_b: tuple[int, int]
    wide_a: bool
    wide_b: bool


def launch(
    a: Array, a_i: int, a_k: int, pieces: list[Piece], c: Array, m: int, depth: int, *, mode: int = SIDE, n: int = 0,
    batch: tuple[int, int] = (1, 1), steps: tuple[int, int, int, int] = (0, 0, 0, 0), sums: bool = False,
    relu: bool = False, key: Array | None = None, p: float = 0.0,
) -> None:  # fmt: skip
    """c = a b: a (m, depth) with elements a_i and a_k apart, b in pieces, n the columns of c where they are DEEP.

    batch: outer and inner products, `steps` elements apart: a's outer and inner, b's outer and inner. sums: the sums of
    b over k follow each GRADIENT. p: the probability of dropout, which is decided by the key.
    """
    columns = (n,) if mode == DEEP else tuple(piece.width for piece in pieces)
    exact, work = precision(), _work(a, a_i, a_k, pieces, depth, mode, steps[:2], steps[2:])
    parts = _parts(pieces, depth, sum(columns), mode)
    if exact == "bf16" and not _words_fit(work, m, n if mode == DEEP else sum(columns), mode, batch):
        exact = "float32"
    if exact == "bf16":
        work = _in_words(work, m, n, mode, batch)
    elif exact != "float32":
        words_of = [piece._replace(array=piece.array.view(np.int32)) for piece in work.pieces]
        work = work._replace(a=a.view(np.int32), pieces=words_of)
    length, many = sum(piece.width for piece in work.pieces) if mode == DEEP else work.depth, batch[0] * batch[1]
    along = work.a_k == 1, all(piece.k == 1 for piece in work.pieces)  # else any strides will do
    tile, parts = tiles.plan(m, columns, length, many, parts, tiles.fitting(exact, *along, shared_memory()))
    chunk = -(-length // (parts * tiles.UNIT)) * tiles.UNIT or 1
    parts = parts if mode == DEEP else max(1, -(-length // chunk))
    blocks = -(-m // tile.rows) * sum(-(-w // tile.columns) for w in columns)
    to = c if parts == 1 else tape.empty((parts, c.size), c.dtype)
    kind = "_deep" if mode == DEEP else "_dropping" if p > 0 and parts == 1 else ""
    if exact == "float32":
        run, shared = tiles.PRODUCTS[tile, kind], 0
    else:
        run, shared = tiles.TENSOR_PRODUCTS[exact, tile, *along], tiles.shared_bytes(tile, *along)
    widths = [piece.width for piece in work.pieces] + [0] * (3 - len(work.pieces))
    padded = work.pieces + [work.pieces[0]] * (3 - len(work.pieces))
    wide_c, biased = aligned(to) and all(w % 4 == 0 for w in columns), [piece.bias is not None for piece in pieces]
    run[(blocks, parts, many), run.threads, shared](
        work.a, *(piece.array for piece in padded), to, *(piece.bias for piece in padded), key, m,
        n if mode == DEEP else widths[0], *widths[1:], widths[0] if mode == DEEP else work.depth, work.a_i, work.a_k,
        *(piece.k for piece in padded), *(piece.j for piece in padded), *work.steps_a, *work.steps_b, batch[1], mode,
        chunk if mode != DEEP else length, int(sums), work.wide_a, work.wide_b, wide_c,
        sum(there << i for i, there in enumerate(biased)) if parts == 1 else 0, relu and parts == 1, *rule(p),
    )  # fmt: skip
    if parts > 1:
        bias = pieces[0].bias if mode == SIDE else None
        _add_parts[-(-c.size // THREADS), THREADS](to, bias, c, c.size, parts, columns[0], bias is not None, relu)
    if p > 0 and (kind != "_dropping" or exact != "float32"):
        dropout_in_place(c, key, p)


def _parts(pieces: list[Piece], depth: int, columns: int, mode: int) -> int | None:
    """Into how many parts k is cut whatever the batch; None for gradients of weights, where any number will do: their
    sums are over a batch, so no number of another batch depends on it."""
    if mode == GRADIENT:
        return None
    if mode == DEEP:
        return len(pieces) if tiles.parts_of(sum(piece.width for piece in pieces), columns) > 1 else 1
    return tiles.parts_of(depth, columns) if len(pieces) == 1 else 1


def _work(a: Array, a_i: int, a_k: int, pieces: list[Piece], depth: int, mode: int, steps_a: tuple[int, int],
          steps_b: tuple[int, int]) -> Work:  # fmt: skip
    """Which operands can be read four neighbours at a time, also where pieces of one matrix begin."""
    even = all(piece.width % 4 == 0 for piece in pieces[:-1])
    wide_a = aligned(a) and _wide((a_i, a_k), steps_a) and (even or mode != DEEP)
    wide_b = all(aligned(piece.array) and _wide((piece.k, piece.j), steps_b) for piece in pieces)
    return Work(a, a_i, a_k, pieces, depth, steps_a, steps_b, wide_a, wide_b and (even or mode != GRADIENT))


def _words_fit(work: Work, m: int, n: int, mode: int, batch: tuple[int, int]) -> bool:
    """Whether 32 bits count the words of both operands, whose rows begin at every fourth."""
    lengths = [piece.width for piece in work.pieces] if mode == DEEP else [work.depth]
    length = sum(map(words.words_of, lengths))
    both = ((m, work.steps_a), (n, work.steps_b))
    return all(math.prod(k for k, step in zip(batch, steps, strict=True) if step) * rows * length <= MOST
               for rows, steps in both)  # fmt: skip


def _in_words(work: Work, m: int, n: int, mode: int, batch: tuple[int, int]) -> Work:
    """The same, both operands rounded to bfloat16: rows of words, two neighbours along k in each."""
    if mode == DEEP:
        widths = [piece.width for piece in work.pieces]
        lefts = words.side_by_side(work.a, work.a_i, work.a_k, m, widths, work.wide_a)
        rights = [words.matrix(piece.array, piece.j, piece.k, n, piece.width, wide=work.wide_b)[0]
                  for piece in work.pieces]  # fmt: skip
        words.write(lefts + rights)
        pieces = [piece._replace(array=right.out, k=1, j=right.out_i, width=right.out_i)
                  for piece, right in zip(work.pieces, rights, strict=True)]  # fmt: skip
        return work._replace(a=lefts[0].out, a_i=lefts[0].out_i, a_k=1, pieces=pieces, wide_a=True, wide_b=True)
    left, steps_a = words.matrix(work.a, work.a_i, work.a_k, m, work.depth, batch, work.steps_a, work.wide_a)
    widths = [piece.width for piece in work.pieces]
    if mode == GRADIENT:  # the pieces are columns of one matrix
        whole, widths = work.pieces[:1], [sum(widths)]
    else:
        whole = work.pieces
    made = [words.matrix(piece.array, piece.j, piece.k, width, work.depth, batch, work.steps_b, work.wide_b)
            for piece, width in zip(whole, widths, strict=True)]  # fmt: skip
    words.write([left, *(right for right, _ in made)])
    arrays = [right.out for right, _ in made] * (len(work.pieces) if mode == GRADIENT else 1)
    pieces = [piece._replace(array=array, k=1, j=left.out_i)
              for piece, array in zip(work.pieces, arrays, strict=True)]  # fmt: skip
    return work._replace(a=left.out, a_i=left.out_i, a_k=1, pieces=pieces, depth=left.out_i, steps_a=steps_a,
                         steps_b=made[-1][1], wide_a=True, wide_b=True)  # fmt: skip


def _wide(strides: tuple[int, int], steps: tuple[int, ...]) -> bool:
    """Whether a matrix with such strides can be read four neighbours at a time."""
    slow = strides[0] if strides[1] == 1 else strides[1]
    return 1 in strides and slow % 4 == 0 and all(step % 4 == 0 for step in steps)


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
    many = math.prod(batch)
    if many * m * n > MOST:
        return NotImplemented
    c = tape.empty((*batch, m, n), a.dtype)
    if c.size == 0 or depth == 0:
        if c.size:
            tape.fill(c, 0)
        return c
    if b.ndim == 2 and (many > MANY or len(batch) > 2):
        a = tape.contiguous(a)
    if b.ndim == 2 and a.ndim > 2 and (rows := as_rows(a)) is not None:
        a, m, batch = rows, rows.shape[0], ()
    _products(a, b, c, m, n, depth, batch)
    return c


def _products(a: Array, b: Array, c: Array, m: int, n: int, depth: int, batch: tuple[int, ...]) -> None:
    """c = a b for a batch of any number of axes: by one launch where two axes say where all matrices lie, or where
    little is copied for that; else by several."""
    axes = _axes(a, b, batch)
    if len(axes) <= 2 and math.prod(batch) <= MANY:
        _multiply(a, b, c, m, n, depth, axes)
        return
    if len(axes) > 2 and (several := _merged(a, b, batch, c.size)) is not None:
        left, right = several
        _products(left, right, c.reshape(-1, m, n), m, n, depth, (math.prod(batch),))
        return
    at_once = max(1, MANY // math.prod(batch[1:])) if len(axes) <= 2 else 1
    for i in range(0, batch[0], at_once):
        some = slice(i, min(batch[0], i + at_once))
        left, right = (x[some] if x.ndim == c.ndim and x.shape[0] > 1 else x for x in (a, b))
        to, rest = c[some], (some.stop - i, *batch[1:])
        if at_once == 1:
            left, right = (x[0] if x.ndim == c.ndim else x for x in (left, right))
            to, rest = to[0], rest[1:]
        _products(left, right, to, m, n, depth, rest)


def _axes(a: Array, b: Array, batch: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """(size, a's step, b's step) of each axis of a batch; those are one that follow each other in both."""
    found: list[tuple[int, int, int]] = []
    for size, step, other in zip(batch, _steps(a, len(batch)), _steps(b, len(batch)), strict=True):
        if found and found[-1][1:] == (step * size, other * size):
            found[-1] = found[-1][0] * size, step, other
        elif size > 1:
            found.append((size, step, other))
    return found


def _steps(x: Array, count: int) -> list[int]:
    """How many elements apart the matrices of x lie along each axis of a batch; 0 where they are one and the same."""
    own = zip(x.strides[:-2], x.shape[:-2], strict=True)
    return [0] * (count + 2 - x.ndim) + [stride // x.itemsize if size > 1 else 0 for stride, size in own]


def _multiply(a: Array, b: Array, c: Array, m: int, n: int, depth: int, axes: list[tuple[int, int, int]]) -> None:
    """c = a b for a batch of at most two axes and MANY products, by one launch."""
    (outer, outer_a, outer_b), (inner, inner_a, inner_b) = [(1, 0, 0)] * (2 - len(axes)) + axes
    (a_i, a_k), (b_k, b_j) = _strides(a), _strides(b)
    cutting = a_i == 1 and a_k != 1 and outer * inner == 1
    launch(
        a, a_i, a_k, [Piece(b, b_k, b_j, n)], c, m, depth, mode=GRADIENT if cutting else SIDE, batch=(outer, inner),
        steps=(outer_a, inner_a, outer_b, inner_b),
    )  # fmt: skip


def as_rows(a: Array) -> Array | None:
    """(..., M, K) as (all rows, K) without a copy, or None if that cannot be."""
    if a.ndim == 2:
        return a
    return a.reshape(math.prod(a.shape[:-1]), a.shape[-1]) if a.flags.c_contiguous else None


def plain(x: Array) -> Array:
    """x itself if its strides are whole elements forwards and 32 bits count them, else a copy that is contiguous."""
    if x.flags.c_contiguous and x.size < MOST:
        return x
    extent = sum((n - 1) * stride for n, stride in zip(x.shape, x.strides, strict=True)) // x.itemsize
    fits = extent < MOST and all(stride >= 0 and stride % x.itemsize == 0 for stride in x.strides)
    return x if fits else tape.contiguous(x)


def _merged(a: Array, b: Array, batch: tuple[int, ...], size: int) -> list[Array] | None:
    """Both operands with one axis for a batch of several, of size 1 or its own; None where they would grow by that to
    far more than they and the result, of this size, are together."""
    shapes = [(1 if math.prod(x.shape[:-2]) == 1 else math.prod(batch), *x.shape[-2:]) for x in (a, b)]
    sizes = [math.prod(shape) for shape in shapes]
    if sum(sizes) > max(SMALL, 2 * (a.size + b.size + size)) or max(sizes) > MOST:
        return None
    return [x.reshape(shape) if shape[0] == 1 else _filled(x, (*batch, *shape[1:])).reshape(shape)
            for x, shape in zip((a, b), shapes, strict=True)]  # fmt: skip


def _filled(x: Array, shape: tuple[int, ...]) -> Array:
    """x broadcast to a shape and contiguous: itself, if it is both."""
    if x.shape == shape and x.flags.c_contiguous:
        return x
    out = tape.empty(shape, x.dtype)
    tape.copy_to(out, x)
    return out


def _strides(x: Array) -> list[int]:
    """The strides of the rows and columns of matrices, in elements; 0 along an axis of size 1."""
    return [stride // x.itemsize if size != 1 else 0 for stride, size in zip(x.strides[-2:], x.shape[-2:], strict=True)]
