"""What a card cannot do is not asked of it: grids, shared memory, sizes, empty operands, what is misaligned."""
import itertools

import numpy as np
import pytest
from simulated import call, check, meaning, numbers, on_card

from engine.kernels import cuda
from engine.kernels.cuda import matmul, tiles
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
    for a, b in [((7, 2, 3), (7, 3, 4)), ((2, 4, 2, 3), (4, 3, 2)), ((1, 2, 3), (7, 3, 4)), ((7, 2, 3), (3, 4))]:
        check("matmul", numbers(*a), numbers(*b), terms=3)
    check("matmul", numbers(7, 3, 2).transpose(0, 2, 1), numbers(3, 4), terms=3)


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
