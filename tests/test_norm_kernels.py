"""Add & Norm, the input's embedding and dropout: the bits of their kernels, and that they run from a tape."""

import numpy as np
import pytest

from engine.kernels.cpu import jit_disabled, kernel, tape

pytestmark = pytest.mark.skipif(jit_disabled(), reason="NUMBA_DISABLE_JIT=1: there are no kernels to test")

DTYPES = [np.float32, np.float64]
KEY = np.array(-123456789)


def draw(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def replayed(call):
    """The result of a kernel's function recorded on a tape, and only then run in memory full of garbage."""
    tape.CURRENT.tape = record = tape.Tape()
    try:
        result = call()
    finally:
        tape.CURRENT.tape = None
    for array in record.made:
        array.view(np.uint8).fill(0xFF)  # NaN, or -1
    for step in record.steps:
        if isinstance(step, tape.Call):
            step.function(*step.arrays)
        elif step.serial:
            step.kernel.serial(step.blocks, *step.arguments)
        else:
            step.kernel(step.blocks, *step.arguments)
    return result


def chain(rows):
    """The sum over rows, one after the other."""
    total = np.zeros(rows.shape[1:], rows.dtype)
    for row in rows:
        total = total + row
    return total


# --- dropout --------------------------------------------------------------------------------------
@pytest.mark.parametrize("n", [1, 15, 64, 16384, 16400, 40001])
@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_the_gradient_of_dropout_from_what_was_kept(n, p):
    for dtype in DTYPES:
        x, g = draw(n, dtype=dtype), draw(n, dtype=dtype, seed=1)
        kept = kernel("dropout")(x, KEY, p=p)[1]
        again = kernel("dropout")(g, KEY, p=p)[0]
        np.testing.assert_array_equal(kernel("dropout_vjp")(g, KEY, p=p, kept=kept), again)
        np.testing.assert_array_equal(kernel("dropout_vjp")(g, KEY, p=p), again)


# --- add & norm -----------------------------------------------------------------------------------
SHAPES = [(1, 1), (3, 5), (7, 32), (5, 2, 33), (300, 63), (20, 512), (4, 4099), (2000, 3), (700, 130)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_add_norm_is_layer_norm_after_dropout_bit_for_bit(shape, dtype, p):
    g, x, h = (draw(*shape, dtype=dtype, seed=i) for i in range(3))
    weight, bias = (draw(shape[-1], dtype=dtype, seed=i) for i in (3, 4))
    s = x + kernel("dropout")(h, KEY, p=p)[0]
    y, mean, rstd, kept_s, kept = kernel("add_norm")(x, h, KEY, weight, bias, p=p)
    np.testing.assert_array_equal(kept_s, s)
    for a, b in zip((y, mean, rstd), kernel("layer_norm")(s, weight, bias), strict=True):
        np.testing.assert_array_equal(a, b)
    expected = kernel("layer_norm_vjp")(g, s, weight)
    ds = expected[: x.size]
    dh = kernel("dropout")(ds, KEY, p=p)[0] if p else ds[:0]
    for residuals in ({}, {"mean": mean, "rstd": rstd, "s": s, "kept": kept}):
        packed = kernel("add_norm_vjp")(g, x, h, KEY, weight, p=p, **residuals)
        np.testing.assert_array_equal(packed, np.concatenate([ds, dh, expected[x.size :]]))


def runs(g):
    """The sums over runs of rows of each sentence, one after the other: a run has 16 rows, of at most 512 numbers, or
    so many times 16 as are 8192 numbers."""
    length = 16 * max(1, 8192 // (16 * g.shape[-1]))
    sentences = g.reshape(-1, *g.shape[-2:])
    return np.array([chain(s[i : i + length]) for s in sentences for i in range(0, len(s), length)])


@pytest.mark.parametrize("n", [1, 15, 16, 33, 70, 128, 600])
@pytest.mark.parametrize("rows", [(1,), (40,), (5000,), (7, 1), (50, 18), (3, 2, 75), (2, 0), (0, 3)])
def test_the_gradient_of_a_bias_is_a_chain_of_runs_of_rows(rows, n):
    for dtype in DTYPES:
        g, x = draw(*rows, n, dtype=dtype), draw(*rows, n, dtype=dtype, seed=1)
        expected = chain(runs(g)) if g.size else np.zeros(n, dtype)
        np.testing.assert_array_equal(kernel("layer_norm_vjp")(g, x)[-n:], expected)


@pytest.mark.parametrize("n", [5, 32, 100, 600])
def test_padding_without_a_gradient_changes_no_bit(n):
    """Rows behind the ends of sentences, and sentences, whose cotangent is 0: the gradients of weight and bias stay."""
    g, x, weight = draw(6, 40, n), draw(6, 40, n, seed=1), draw(n, seed=2)
    wide_g, wide_x = np.zeros((17, 77, n), np.float32), draw(17, 77, n, seed=4)
    wide_g[2:8, :40], wide_x[2:8, :40] = g, x
    few = kernel("layer_norm_vjp")(g, x, weight)
    many = kernel("layer_norm_vjp")(wide_g, wide_x, weight)
    np.testing.assert_array_equal(many[-2 * n :], few[-2 * n :])
    np.testing.assert_array_equal(many[: -2 * n].reshape(wide_x.shape)[2:8, :40].ravel(), few[: -2 * n])


def test_what_is_dropped_leaves_no_trace():
    x, h = draw(6, 40), np.full((6, 40), np.nan, np.float32)
    y = kernel("add_norm")(x, h, KEY, p=1.0)[0]
    np.testing.assert_array_equal(y, kernel("layer_norm")(x)[0])


# --- embed ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("cols", [1, 16, 37, 130])
@pytest.mark.parametrize("p", [0.0, 0.3])
def test_embed_is_its_parts_bit_for_bit(cols, p):
    for dtype in DTYPES:
        weight, positions = draw(50, cols, dtype=dtype), draw(9, cols, dtype=dtype, seed=1)
        ids, scale = np.random.default_rng(2).integers(0, 50, (30, 9)), dtype(cols**0.5)
        expected = kernel("dropout")(weight[ids] * scale + positions, KEY, p=p)[0]
        np.testing.assert_array_equal(kernel("embed")(weight, ids, positions, KEY, scale=cols**0.5, p=p), expected)
        g = draw(30, 9, cols, dtype=dtype, seed=3)
        expected = np.zeros((50, cols), dtype)
        np.add.at(expected, ids, kernel("dropout")(g, KEY, p=p)[0] * scale)
        made = kernel("embed_vjp")(g, ids, KEY, size=50, scale=cols**0.5, p=p)
        np.testing.assert_array_equal(made, expected)


# --- the tape -------------------------------------------------------------------------------------
TAPED = {
    "dropout": lambda x, ids: kernel("dropout")(x, KEY, p=0.4),
    "dropout_vjp": lambda x, ids: kernel("dropout_vjp")(x[::-1], KEY, p=0.4),
    "uniform": lambda x, ids: kernel("uniform")(KEY, x.shape),
    "layer_norm": lambda x, ids: kernel("layer_norm")(x),
    "layer_norm_vjp": lambda x, ids: kernel("layer_norm_vjp")(x[::-1], x, x[0]),
    "layer_norm of no features": lambda x, ids: kernel("layer_norm")(x[:, :0]),
    "layer_norm_vjp of no rows": lambda x, ids: kernel("layer_norm_vjp")(x[:0], x[:0]),
    "add_norm": lambda x, ids: kernel("add_norm")(x, x[::-1], KEY, x[0], x[1], p=0.4),
    "add_norm_vjp": lambda x, ids: kernel("add_norm_vjp")(x[::-1], x, x, KEY, p=0.4),
    "embed": lambda x, ids: kernel("embed")(x, ids, x[: ids.shape[1]], KEY, p=0.4),
    "embed_vjp": lambda x, ids: kernel("embed_vjp")(x[ids], ids, KEY, size=400, p=0.4),
    "embedding": lambda x, ids: kernel("embedding")(x, ids.T),
    "scatter_add": lambda x, ids: kernel("scatter_add")(x[ids], ids, size=400),
}


@pytest.mark.parametrize("name", TAPED)
def test_a_tape_gives_the_same_bits(name):
    x, ids = draw(300, 70), np.random.default_rng(1).integers(0, 300, (20, 11))
    direct, later = TAPED[name](x, ids), replayed(lambda: TAPED[name](x, ids))
    for a, b in zip(*((r if isinstance(r, tuple) else (r,)) for r in (direct, later)), strict=True):
        np.testing.assert_array_equal(a, b)
