"""Matrices rounded to bfloat16 before tensor cores multiply them: every bit, by whole tiles and by others."""
from itertools import pairwise

import numpy as np
import pytest
from simulated import check, numbers, on_card

from engine.kernels.cuda import tiles, words
from engine.kernels.cuda.jit import simulation


def _bfloat16(x):
    """The upper halves of float32 numbers rounded to the nearest, ties to even."""
    bits = x.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def _expected(x):
    """(…, rows, depth) as rows of words, with zeros behind their ends."""
    padded = np.zeros((*x.shape[:-1], 2 * words.words_of(x.shape[-1])), np.uint16)
    padded[..., : x.shape[-1]] = _bfloat16(np.ascontiguousarray(x))
    return padded.view(np.int32)


def _matrix(memory, x, wide):
    """x, a view of `memory` that begins where that does, as a matrix to be rounded."""
    steps = [stride // 4 for stride in x.strides]
    batch, outer_inner = (x.shape[:2], (steps[0], steps[1])) if x.ndim == 4 else ((1, 1), (0, 0))
    return words.matrix(on_card(memory), steps[-2], steps[-1], *x.shape[-2:], batch, outer_inner, wide)[0]


def _same(matrix, x):
    np.testing.assert_array_equal(matrix.out.get().reshape(-1), _expected(x).reshape(-1))


SIZES = [(32, 128, True), (67, 264, True), (33, 130, False), (5, 3, False), (1, 1, False), (40, 131, False),
         (9, 20, True)]


@pytest.mark.parametrize(("rows", "depth", "wide"), SIZES)
def test_both_operands_are_rounded_by_one_launch(rows, depth, wide):
    along, across = numbers(rows, depth), numbers(depth, rows, seed=1)
    fours = wide and rows % 4 == 0
    for first, second in [((along, along), (across, across.T)), ((across, across.T), (along, along))]:
        made = [_matrix(*pair, fours if pair[0] is across else wide) for pair in (first, second)]
        words.write(made)
        for matrix, (_, x) in zip(made, (first, second), strict=True):
            _same(matrix, x)


def test_a_batch_of_any_strides_is_rounded():
    memory = numbers(3, 5, 2, 24)                        # 3 and 2 matrices of 5 × 24, of 24 × 5, every other number
    for x in (memory.transpose(0, 2, 1, 3), memory.transpose(0, 2, 3, 1), memory.transpose(0, 2, 1, 3)[..., ::2]):
        matrix = _matrix(memory, x, False)
        words.write([matrix])
        _same(matrix, x)


def test_one_matrix_for_a_whole_batch_is_rounded_once():
    x = numbers(6, 24)
    matrix, steps = words.matrix(on_card(x), 24, 1, 6, 24, (3, 2), (0, 0), True)
    words.write([matrix])
    assert steps == (0, 0)
    _same(matrix, x)


@pytest.mark.parametrize("widths", [[16, 8, 5], [3, 500, 27], [8]])
def test_parts_side_by_side_begin_at_a_word_of_their_own(widths):
    x = numbers(35, sum(widths))
    parts = words.side_by_side(on_card(x), sum(widths), 1, 35, widths, False)
    words.write(parts)
    edges = np.cumsum([0, *widths])
    expected = [_expected(x[:, a:b]) for a, b in pairwise(edges)]
    np.testing.assert_array_equal(parts[0].out.get().reshape(35, -1), np.concatenate(expected, 1))


def test_no_thread_reads_a_tile_before_it_is_turned():
    x = numbers(40, 12)
    with simulation("threads"):
        matrix = _matrix(x, x.T, True)
        words.write([matrix])
    _same(matrix, x.T)


def test_tiles_in_bands_cover_a_tall_product(monkeypatch):
    """More tiles above each other than a band is high, the last band lower than the others."""
    monkeypatch.setattr(tiles, "TILES", tiles.TILES[-1:])
    check("matmul", numbers(16 * 32 + 40, 8), numbers(8, 70), terms=8)
