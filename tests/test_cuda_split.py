"""Float32 products as three of TF32: what is split off, how exact sums are, infinities, and bits in every batch."""
import numpy as np
import pytest
from simulated import KEY, call, check, meaning, numbers, on_card

from engine.kernels.cuda import split, tiles
from engine.kernels.cuda.jit import cuda, kernel
from engine.kernels.cuda.precision import set_precision

HUGE = np.float32(3.4028e38)             # infinite if it is rounded to TF32


@pytest.fixture(autouse=True)
def precision():
    before = set_precision("tf32x3")
    yield
    set_precision(before)


@kernel("int32[::1], int32[::1], int32[::1], int32", threads=256)
def _parts(words, firsts, rests, n):
    """The two parts of each number."""
    i = cuda.grid(1)
    if i < n:
        firsts[i], rests[i] = split.split(words[i])


def test_a_number_is_the_sum_of_its_parts():
    x = np.random.default_rng(0).integers(0, 2**32, 4000, np.uint32).view(np.float32)
    x = np.concatenate([x[np.abs(x) < HUGE], np.float32([0, 1, -1, 1 + 2**-11, 1 + 2**-12, 2 - 2**-23, 1e-38, 1e-45])])
    words = on_card(x.view(np.int32))
    parts = [on_card(np.zeros(x.size, np.int32)) for _ in range(2)]
    _parts[-(-x.size // 256), 256](words, *parts, x.size)
    first, rest = (part.get().view(np.float32) for part in parts)
    kept = (rest.view(np.int32) & -0x2000).view(np.float32)                     # what tensor cores look at
    np.testing.assert_array_equal(first.astype(np.float64) + rest, x.astype(np.float64))
    assert not (first.view(np.int32) & 0x1FFF).any()
    assert np.all(np.abs(rest.astype(np.float64) - kept) <= np.maximum(2.0**-23 * np.abs(x), 2.0**-136))


@pytest.mark.parametrize("depth, share", [(8, 2.2), (100, 0.9), (700, 0.55)])
def test_short_sums_are_nearly_as_exact_as_in_float32_and_long_ones_more(depth, share):
    a, b = numbers(20, depth), numbers(depth, 24)
    exact = a.astype(np.float64) @ b.astype(np.float64)
    three = np.linalg.norm(call("matmul", a, b).get() - exact)
    set_precision("float32")
    assert three <= share * np.linalg.norm(call("matmul", a, b).get() - exact)
    set_precision("tf32")
    assert three < 0.01 * np.linalg.norm(call("matmul", a, b).get() - exact)


def _broken(*shape, seed=0):
    """Numbers, and every kind that has no sum of two of TF32."""
    x = numbers(*shape, seed=seed)
    x[1, 2], x[3, 1], x[4, 4], x[2, 0] = np.inf, -np.inf, np.nan, HUGE
    x[5, 3] = np.uint32(0x7FFFFFFF).view(np.float32)
    return x


def _same(name, *arrays, **params):
    """As the op's meaning has it: where there is NaN and infinity, of which sign, and all other numbers."""
    made = call(name, *arrays, **params)
    expected = meaning(name, *arrays, **params)
    for got, right in zip(made, expected, strict=True) if type(made) is tuple else [(made, expected)]:
        assert np.isnan(right).any() and np.isfinite(right).any()
        np.testing.assert_allclose(got.get(), right.astype(np.float32), rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:(invalid value|overflow) encountered:RuntimeWarning")
@pytest.mark.parametrize("place", range(3))
def test_infinities_and_nan_are_what_they_are_in_float32(place, monkeypatch):
    monkeypatch.setattr(tiles, "TENSOR_TILES", {"tf32x3": tiles.TENSOR_TILES["tf32x3"][place:place + 1]})
    monkeypatch.setattr(tiles, "LEAST_DEPTH", 32)
    few = numbers(700, 9) * np.float32(0.1)
    for a, b in [(_broken(20, 40), few[:40]), (_broken(40, 20).T, few[:40]), (_broken(6, 700), few),
                 (few[:40].T, _broken(40, 70)), (numbers(9, 40) * np.float32(0.1), _broken(24, 40).T),
                 (np.stack([_broken(6, 9), few[:6].copy()]), few[:9])]:
        _same("matmul", a, b)
    w, bias = few[:9] * np.float32(0.1), numbers(9)
    _same("linear", _broken(8, 9), w, bias, KEY, activation="relu", p=0.0)
    _same("linears", _broken(8, 9), w, few[:9, :4], few[:9], bias, None, bias)
    _same("linear_vjp", _broken(18, 5), few[:18, :8], widths=(4, 4))
    _same("linears_input_vjp", _broken(8, 16), few[:6], few[:6, :7].copy())
    _same("linears_input_vjp", _broken(8, 530), numbers(9, 3), few[:500].T, numbers(9, 27))


def test_what_only_rounding_would_make_infinite_is_finite():
    a, b = np.full((3, 9), HUGE, np.float32), np.full((9, 4), 1e-3, np.float32)
    check("matmul", a, b, terms=9)
    check("matmul", -a, b * np.float32(0.01), terms=9)


def test_bits_depend_on_neither_tile_nor_batch(monkeypatch):
    every = tiles.TENSOR_TILES["tf32x3"]
    for k in (24, 530):                                  # the second is cut into two
        a, b = numbers(40, k), numbers(k, 40)
        monkeypatch.setitem(tiles.TENSOR_TILES, "tf32x3", every)
        whole = call("matmul", a, b).get()
        np.testing.assert_array_equal(call("matmul", a[3:5], b).get(), whole[3:5])
        for tile in every:
            monkeypatch.setitem(tiles.TENSOR_TILES, "tf32x3", (tile,))
            np.testing.assert_array_equal(call("matmul", a, b).get(), whole)
