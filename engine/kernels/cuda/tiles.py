"""The tiles that products are made in: their sizes, the kernels made for them, and which one serves which product."""

import math
from functools import lru_cache
from typing import Any, NamedTuple

from .jit import Kernel, jit, kernel
from .product import SIGNATURE, bring, bring_whole, place, product
from .tensor import WORDS, bring_whole_words, bring_words, place_words, read_words, tensor_product

MULTIPROCESSORS = 132  # of a Hopper card: what work is cut for
LEAST_DEPTH = 64  # steps of k in a part of k, where k is cut
CHUNK, NARROW, MOST_PARTS = 512, 1024, 16  # k is cut in such parts where it is longer and c has no more columns
UNIT = 32  # a part of k is a multiple of it, as it is of every tile's steps
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


TILES = (Tile(128, 128, 16, 2, 8, 16, 2, 120, 90), Tile(64, 64, 16, 3, 4, 8, 4, 40, 27),
         Tile(32, 32, 32, 3, 4, 4, 8, 21, 9.8))  # fmt: skip
_SMALL = Tile(64, 64, 32, 3, 32, 32, 3, 16, 10.6), Tile(32, 64, 32, 4, 16, 32, 4, 12.5, 7.3)  # a word, as all below
TENSOR_TILES = {
    "tf32": (Tile(128, 128, 32, 3, 64, 64, 2, 31, 22.7), *_SMALL),
    "tf32x3": (Tile(128, 64, 32, 3, 32, 32, 1, 26, 25), Tile(64, 64, 32, 3, 32, 32, 2, 24, 13),
               Tile(32, 64, 32, 4, 16, 32, 3, 20, 8)),  # estimates: what three products of TF32 take
    "bf16": (Tile(128, 256, 32, 3, 64, 64, 1, 50, 42), Tile(128, 128, 32, 3, 64, 64, 2, 31, 23), *_SMALL),
}
PAIRS = {"tf32": 1, "tf32x3": 1, "bf16": 2}  # numbers of a word


def made(tile: Tile, kind: str = "") -> Kernel:
    """The kernel of a tile: a plain one, "_dropping", or "_deep".

    A thread of those that do more makes 64 numbers at most: more registers there are not, nor bits for decisions.
    """
    if kind and tile.across * tile.along > 64:
        tile = tile._replace(across=8, along=8, at_once=1)
    title = f"product_{tile.rows}x{tile.columns}{kind}"
    parts: dict[str, Any] = {}
    for side, rows in (("A", tile.rows), ("B", tile.columns)):
        placing = jit(place(f"place_{side}_of_{title}", ROWS=rows))
        sizes = {"ROWS": rows, "DEPTH": tile.depth, "THREADS": tile.parts}
        parts |= {f"PLACE_{side}": placing, f"WHOLE_{side}": jit(bring_whole(f"whole_{side}_of_{title}", **sizes)),
                  f"BRING_{side}": jit(bring(f"bring_{side}_of_{title}", **sizes, PLACE=placing))}
    function = product(
        title, ROWS=tile.rows, COLUMNS=tile.columns, DEPTH=tile.depth, STAGES=tile.stages, ACROSS=tile.across,
        ALONG=tile.along, THREADS=tile.parts, DROPPING=kind == "_dropping",
        DEEPLY=kind == "_deep", **parts,
    )  # fmt: skip
    return kernel(SIGNATURE, threads=tile.parts, blocks_per_multiprocessor=tile.at_once)(function)


class Side(NamedTuple):
    """An operand in shared memory: words of a step, and from one row and one k to the next."""

    words: int
    row: int
    k: int


def operand(rows: int, depth: int, along: bool) -> Side:
    """An operand whose neighbours in memory are neighbours along k, or along the rows."""
    return Side(rows * (depth + 4), depth + 4, 1) if along else Side(depth * (rows + 8), 1, rows + 8)


def shared_bytes(tile: Tile, a_along: bool, b_along: bool) -> int:
    """Dynamic shared memory of a block on tensor cores."""
    operands = operand(tile.rows, tile.depth, a_along), operand(tile.columns, tile.depth, b_along)
    return 4 * tile.stages * sum(side.words for side in operands)


def fitting(name: str, a_along: bool, b_along: bool, most: int) -> tuple[Tile, ...]:
    """The tiles of a precision, for operands that lie so, that have room in so many bytes of shared memory."""
    if name == "float32":
        return TILES
    return tuple(tile for tile in TENSOR_TILES[name] if shared_bytes(tile, a_along, b_along) <= most)


def made_for_tensor_cores(tile: Tile, name: str, a_along: bool, b_along: bool) -> Kernel:
    """The kernel of a tile for a precision and operands that lie along k, or along the rows."""
    a, b = operand(tile.rows, tile.depth, a_along), operand(tile.columns, tile.depth, b_along)
    layout = "" if name == "bf16" else "_" + "kr"[not a_along] + "kr"[not b_along]
    title, threads = f"{name}_product_{tile.rows}x{tile.columns}{layout}", 32 * tile.parts
    parts: dict[str, Any] = {}
    for side, rows, along, first, second in (("A", tile.rows, a_along, 8 * a.row, 4 * a.k),
                                             ("B", tile.columns, b_along, 4 * b.k, 8 * b.row)):  # fmt: skip
        placing = jit(place_words(f"place_{side}_of_{title}", ROWS=rows, DEPTH=tile.depth, ALONG=along))
        sizes = {"ROWS": rows, "DEPTH": tile.depth, "THREADS": threads, "ALONG": along}
        reading = read_words(f"{side}_of_{title}", ALONG=along, ROUNDED=name == "tf32", FIRST=first, SECOND=second)
        parts |= {f"PLACE_{side}": placing, f"READ_{side}": jit(reading), f"{side}_ALONG": along,
                  f"WHOLE_{side}": jit(bring_whole_words(f"whole_{side}_of_{title}", **sizes)),
                  f"BRING_{side}": jit(bring_words(f"bring_{side}_of_{title}", **sizes, PLACE=placing))}
    function = tensor_product(
        title, ROWS=tile.rows, COLUMNS=tile.columns, DEPTH=tile.depth, STAGES=tile.stages, PAIR=PAIRS[name],
        SPLIT=name == "tf32x3", TALL=tile.across // 16, WIDE=tile.along // 8, THREADS=threads, LEFT=a.words,
        RIGHT=b.words, A_ROW=a.row, A_K=a.k, B_ROW=b.row, B_K=b.k, **parts,
    )  # fmt: skip
    return kernel(WORDS, threads=threads, blocks_per_multiprocessor=tile.at_once)(function)


PRODUCTS = {(tile, kind): made(tile, kind) for tile in TILES for kind in ("", "_dropping", "_deep")}
TENSOR_PRODUCTS = {
    (name, tile, a, b): made_for_tensor_cores(tile, name, a, b)
    for name in PAIRS for tile in TENSOR_TILES[name] for a in (True, False) for b in (True, False)
    if name != "bf16" or (a and b)  # words of bfloat16 always lie along k
}  # fmt: skip


def parts_of(depth: int, columns: int) -> int:
    """Into how many parts k is always cut. That depends on the matrix b alone, so that the bits of a row of c are the
    same in every batch. Few columns make few tiles, which leave multiprocessors idle."""
    if depth <= CHUNK or columns > NARROW:
        return 1
    chunk = CHUNK * -(-depth // (CHUNK * MOST_PARTS))
    return -(-depth // chunk)


@lru_cache(1024)
def plan(m: int, columns: tuple[int, ...], depth: int, many: int, parts: int | None, tiles: tuple[Tile, ...]
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
