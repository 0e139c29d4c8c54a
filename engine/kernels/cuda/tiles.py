"""The tiles that products are made in: their sizes, the kernels made for them, and which one serves which product."""

import math
from typing import Any, NamedTuple

from .jit import Kernel, jit, kernel
from .product import SIGNATURE, bring, product
from .tensor import WORDS, bring_words, tensor_product

MULTIPROCESSORS = 132  # of a Hopper card: what work is cut for
LEAST_DEPTH = 64  # steps of k in a part of k, where k is cut
CHUNK, NARROW, MOST_PARTS = 512, 1024, 16  # k is cut in such parts where it is longer and c has no more columns
UNIT = 32  # a part of k is a multiple of it, as it is of every tile's steps
AT_ONCE = 8  # steps of k in straight code
BEGINNING, ADDING = 3000, 1500  # nanoseconds till the first product, and till parts are added up
WRITING = 1.5e-3  # nanoseconds to write or read a number


class Tile(NamedTuple):
    """A tile of c and how a block makes it."""

    rows: int
    columns: int
    depth: int  # of a step
    stages: int  # steps in shared memory
    across: int  # rows that a thread makes; on tensor cores, a warp
    along: int  # columns
    at_once: int  # blocks of a multiprocessor
    alone: float  # nanoseconds of a step of k on a Hopper card, where a multiprocessor has one block
    crowded: float  # and of each block where it has many

    @property
    def parts(self) -> int:
        """Threads; on tensor cores, warps."""
        return self.rows * self.columns // (self.across * self.along)


TILES = (Tile(128, 128, 16, 2, 8, 8, 2, 131, 109), Tile(64, 64, 32, 2, 8, 8, 4, 60, 28),
         Tile(32, 32, 32, 3, 4, 4, 8, 25, 10.5))  # fmt: skip
TENSOR_TILES = (Tile(128, 128, 32, 3, 64, 64, 2, 45, 28), Tile(64, 64, 32, 3, 32, 32, 3, 18, 9))  # a word
PAIRS = {"tf32": 1, "bf16": 2}  # numbers of a word


def _bringing(tile: Tile, rows: int) -> Any:
    return jit(bring(f"bring_{rows}", ROWS=rows, DEPTH=tile.depth, THREADS=tile.parts))


def made(tile: Tile, kind: str = "") -> Kernel:
    """The kernel of a tile: a plain one, "_dropping", or "_deep"."""
    function = product(
        f"product_{tile.rows}x{tile.columns}{kind}", ROWS=tile.rows, COLUMNS=tile.columns, DEPTH=tile.depth,
        STAGES=tile.stages, ACROSS=tile.across, ALONG=tile.along, THREADS=tile.parts, AT_ONCE=AT_ONCE,
        DROPPING=kind == "_dropping", DEEPLY=kind == "_deep", BRING_A=_bringing(tile, tile.rows),
        BRING_B=_bringing(tile, tile.columns),
    )  # fmt: skip
    return kernel(SIGNATURE, threads=tile.parts, blocks_per_multiprocessor=tile.at_once)(function)


class Side(NamedTuple):
    """An operand in shared memory: words of a step, and from one row and one k to the next."""

    words: int
    row: int
    k: int


def side(rows: int, depth: int, along: bool) -> Side:
    """An operand whose neighbours in memory are neighbours along k, or along the rows."""
    return Side(rows * (depth + 4), depth + 4, 1) if along else Side(depth * (rows + 8), 1, rows + 8)


def shared_bytes(tile: Tile, a_along: bool, b_along: bool) -> int:
    """Dynamic shared memory of a block on tensor cores."""
    operands = side(tile.rows, tile.depth, a_along), side(tile.columns, tile.depth, b_along)
    return 4 * tile.stages * sum(operand.words for operand in operands)


def made_for_tensor_cores(tile: Tile, name: str, a_along: bool, b_along: bool) -> Kernel:
    """The kernel of a tile for a precision and operands that lie along k, or along the rows."""
    a, b = side(tile.rows, tile.depth, a_along), side(tile.columns, tile.depth, b_along)
    threads = 32 * tile.parts
    bringing = [jit(bring_words(f"bring_{rows}_{'along' if along else 'across'}", ROWS=rows, DEPTH=tile.depth,
                                THREADS=threads, ALONG=along))
                for rows, along in ((tile.rows, a_along), (tile.columns, b_along))]  # fmt: skip
    layout = "" if name == "bf16" else "_" + "kr"[not a_along] + "kr"[not b_along]
    function = tensor_product(
        f"{name}_product_{tile.rows}x{tile.columns}{layout}", ROWS=tile.rows, COLUMNS=tile.columns, DEPTH=tile.depth,
        STAGES=tile.stages, PAIR=PAIRS[name], TALL=tile.across // 16, WIDE=tile.along // 8, THREADS=threads,
        LEFT=a.words, RIGHT=b.words, A_ROW=a.row, A_K=a.k, B_ROW=b.row, B_K=b.k, BRING_A=bringing[0],
        BRING_B=bringing[1],
    )  # fmt: skip
    return kernel(WORDS, threads=threads, blocks_per_multiprocessor=tile.at_once)(function)


PRODUCTS = {(tile, kind): made(tile, kind) for tile in TILES for kind in ("", "_dropping", "_deep")}
TENSOR_PRODUCTS = {
    (name, tile, a, b): made_for_tensor_cores(tile, name, a, b)
    for tile in TENSOR_TILES for name in PAIRS for a in (True, False) for b in (True, False)
    if name == "tf32" or (a and b)  # words of bfloat16 always lie along k
}  # fmt: skip


def parts_of(depth: int, columns: int) -> int:
    """Into how many parts k is always cut. That depends on the matrix b alone, so that the bits of a row of c are the
    same in every batch. Few columns make few tiles, which leave multiprocessors idle."""
    if depth <= CHUNK or columns > NARROW:
        return 1
    chunk = CHUNK * -(-depth // (CHUNK * MOST_PARTS))
    return -(-depth // chunk)


def plan(m: int, columns: list[int], depth: int, many: int, parts: int | None, tiles: tuple[Tile, ...]
         ) -> tuple[Tile, int]:  # fmt: skip
    """The tile, and into how many parts k is cut, with which the last multiprocessor should end first; `parts` None:
    into any number of them."""
    best, size = (math.inf, tiles[0], 1), m * sum(columns) * many
    for tile in tiles:
        blocks = -(-m // tile.rows) * sum(-(-w // tile.columns) for w in columns) * many
        for cut in [parts] if parts else _cuts(depth, tile.at_once * MULTIPROCESSORS // max(1, blocks)):
            crowd = -(-blocks * cut // MULTIPROCESSORS)
            time = BEGINNING + depth / cut * max(tile.alone, crowd * tile.crowded)
            time += ADDING + (cut + 1) * size * WRITING if cut > 1 else 0
            if time < best[0]:
                best = time, tile, cut
    return best[1:]


def _cuts(depth: int, most: int) -> list[int]:
    """Powers of two: into so many parts k may be cut."""
    most = max(1, min(most, depth // LEAST_DEPTH))
    return [1 << i for i in range(most.bit_length())]
