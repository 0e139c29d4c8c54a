"""What a card cannot do is not asked of it: grids, shared memory, sizes, empty operands, what is misaligned."""
import itertools
import math

import numpy as np
import pytest
from simulated import call, check, meaning, numbers, on_card

from engine.kernels import cuda
from engine.kernels.cuda import matmul, tape, tiles
from engine.kernels.cuda.precision import PRECISIONS, set_precision


@pytest.fixture(params=PRECISIONS)
def precision(request):
    before = set_precision(request.param)
    yield request.param
    set_precision(before)


def _close(got, exact):
    np.testing.assert_allclose(got, exact, rtol=2e-2, atol=0.2)


@pytest.mark.parametrize("turned", list(itertools.product((False, True), repeat=3)))
def test_layers_whose_weights_lie_differently(turned, precision):
    """Each read four at a time where its own neighbours are: one misaligned access fails in the simulator."""
    weights = [numbers(64, 64, seed=i).T if t else numbers(64, 64, seed=i) for i, t in enumerate(turned)]
    g = numbers(40, 192)
    exact = g.astype(np.float64) @ np.concatenate(weights, 1).T
    np.testing.assert_allclose(call("linears_input_vjp", g, *weights).get(), exact, rtol=2e-2, atol=0.4)
    x = numbers(40, 64)
    np.testing.assert_allclose(call("linears", x, *weights).get(), x @ np.concatenate(weights, 1), rtol=2e-2, atol=0.2)


def test_more_products_than_a_grid_has_blocks_are_several_launches(monkeypatch):
    monkeypatch.setattr(matmul, "MANY", 3)
    for a, b in [((7, 2, 3), (7, 3, 4)), ((2, 4, 2, 3), (4, 3, 2)), ((1, 2, 3), (7, 3, 4)), ((7, 2, 3), (3, 4)),
                 ((2, 1, 2, 3), (5, 3, 4)), ((3, 2, 2, 2, 3), (3, 2, 2, 3, 4))]:
        check("matmul", numbers(*a), numbers(*b), terms=3)
    check("matmul", numbers(7, 3, 2).transpose(0, 2, 1), numbers(3, 4), terms=3)


MANY_AXES = [((3, 4, 2, 5, 6), (6, 7)), ((2, 1, 3, 2, 6), (1, 4, 1, 6, 7)), ((3, 1, 1, 40, 6), (1, 5, 4, 6, 2)),
             ((2, 3, 1, 2, 6), (2, 3, 4, 6, 7)), ((1, 1, 1, 2, 6), (2, 1, 3, 6, 7)), ((2, 2, 3, 6), (6, 7)),
             ((30, 1, 1, 2, 6), (2, 3, 6, 7)), ((5, 4, 1, 2, 6), (1, 4, 2, 6, 7)), ((2, 3, 4, 2, 6), (2, 1, 1, 6, 7))]


def test_products_of_many_axes_copy_little_of_what_they_share(monkeypatch, precision):
    """Of what is broadcast, copies would be larger than 32 bits count."""
    made = []
    monkeypatch.setattr(matmul, "SMALL", 0)
    monkeypatch.setattr(tape, "empty", lambda shape, dtype, make=tape.empty: made.append(math.prod(shape)
                        if isinstance(shape, tuple) else shape) or make(shape, dtype))
    for a, b in MANY_AXES:
        for x, y in ((numbers(*a), numbers(*b)), (numbers(*a[::-1]).T, numbers(*b[::-1]).T)):
            made.clear()
            _close(call("matmul", x, y).get(), meaning("matmul", x, y))
            result = math.prod(np.broadcast_shapes(a[:-2], b[:-2])) * a[-2] * b[-1]
            assert max(made) <= 2 * (x.size + y.size + result)


def test_products_of_many_axes_are_one_launch_where_little_is_copied(monkeypatch):
    count = []
    monkeypatch.setattr(matmul, "launch", lambda *a, launch=matmul.launch, **k: count.append(1) or launch(*a, **k))
    for a, b in MANY_AXES:
        count.clear()
        check("matmul", numbers(*a), numbers(*b), terms=6)
        assert len(count) == 1


def test_words_of_short_rows_that_32_bits_do_not_count_are_not_made():
    def fit(m, depth, n, batch=(1, 1), steps=(0, 0)):
        work = matmul.Work(None, 1, 1, [matmul.Piece(None, 1, 1, n)], depth, steps, (0, 0), False, False)
        return matmul._words_fit(work, m, n, matmul.SIDE, batch)
    assert fit(500_000_000, 1, 3) and not fit(600_000_000, 1, 3) and not fit(4, 512, 2**24)
    assert fit(2**20, 8, 8, (2**9, 1)) and not fit(2**20, 8, 8, (2**9, 1), (2**23, 0))
    deep = [matmul.Piece(None, 1, 1, 1)] * 3
    assert not matmul._words_fit(matmul.Work(None, 1, 1, deep, 1, (0, 0), (0, 0), False, False), 179_000_000, 4,
                                 matmul.DEEP, (1, 1))


def test_a_grid_that_no_card_takes_is_refused():
    for grid in [(1, 65536), (1, 1, 65536), (2**31, 1)]:
        with pytest.raises(ValueError, match=r"_add_parts is launched with the grid .*65,535 along y and z"):
            matmul._add_parts[grid, 32]


def test_tiles_have_room_in_the_cards_shared_memory(monkeypatch):
    """Cards of compute capability 8.6, 8.9 and 12.0 have 99 KiB a block; a Hopper card has 227."""
    for name, along, most in itertools.product(tiles.PAIRS, itertools.product((True, False), repeat=2), (99, 227)):
        found = tiles.fitting(name, *along, most * 1024)
        assert found and all(tiles.shared_bytes(tile, *along) <= most * 1024 for tile in found)
        assert (len(found) == len(tiles.TENSOR_TILES[name])) == (most == 227 or name == "tf32x3")


def test_a_product_on_a_card_with_little_shared_memory(monkeypatch, precision):
    asked = []
    monkeypatch.setattr(matmul, "shared_memory", lambda: 99 * 1024)
    monkeypatch.setattr(tiles, "MULTIPROCESSORS", 1)      # so that large tiles would be the fastest
    plan = tiles.plan.__wrapped__
    monkeypatch.setattr(tiles, "plan", lambda *a: asked.append(plan(*a)) or asked[-1])
    a, b = numbers(130, 40), numbers(40, 260)
    _close(call("matmul", a, b).get(), a.astype(np.float64) @ b)
    assert len(asked) == 1 and (precision == "float32" or tiles.shared_bytes(asked[0][0], True, False) <= 99 * 1024)


@pytest.mark.parametrize(("rows", "inputs", "outputs"), list(itertools.product((0, 3), (0, 5), (0, 4))))
def test_empty_operands(rows, inputs, outputs, precision):
    x, w, b, g = numbers(rows, inputs), numbers(inputs, outputs), numbers(outputs), numbers(rows, outputs)
    for name, arrays in [("matmul", (x, w)), ("linear", (x, w, b)), ("linears", (x, w, w, None, b, b)),
                         ("linears_input_vjp", (np.concatenate([g, g], 1), w, w)), ("linear_vjp", (x, g))]:
        made = cuda.kernel(name)(*map(on_card, arrays))
        if made is not NotImplemented:
            exact = meaning(name, *arrays)
            assert made.shape == exact.shape
            _close(made.get(), exact)


def test_a_product_with_more_elements_than_32_bits_count_is_left_to_its_meaning():
    assert cuda.kernel("matmul")(on_card(numbers(50_000, 1)), on_card(numbers(1, 50_000))) is NotImplemented


def test_a_mask_over_no_keys_is_not_read():
    q, k, v = numbers(1, 2, 3, 4), numbers(1, 2, 0, 4), numbers(1, 2, 0, 4)
    for shape in ((3, 0), (1, 1, 3, 0), (1, 1, 1, 0)):
        check("scaled_dot_product_attention", q, k, v, np.ones(shape, bool))
