"""The promise of the kernels: the same bits for any number of threads, position, layout and padding; inputs untouched.

And each kernel against float64 NumPy, within a tolerance that follows from the length of its sums.
"""

import platform
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from llvmlite.binding import get_host_cpu_features

from engine.kernels.cpu import jit_disabled, kernel

pytestmark = pytest.mark.skipif(jit_disabled(), reason="NUMBA_DISABLE_JIT=1: there are no kernels to test")

DTYPES = [np.float32, np.float64]
KEY = np.array(123456789)


def draw(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def layouts(x: np.ndarray) -> dict[str, np.ndarray]:
    """The same array in other memory layouts."""
    wide = np.zeros([2 * s + 1 for s in x.shape], x.dtype)
    every_second = wide[tuple(slice(1, 2 * s + 1, 2) for s in x.shape)]
    every_second[...] = x
    reverse = tuple(slice(None, None, -1) for _ in x.shape)
    read_only = x.copy()
    read_only.flags.writeable = False
    return {
        "C": x.copy(),
        "Fortran": np.asfortranarray(x),
        "strided": every_second,
        "reversed": np.ascontiguousarray(x[reverse])[reverse],
        "read-only": read_only,
    }


def flat(result) -> np.ndarray:
    """All numbers of a kernel's result as one array."""
    return np.concatenate([np.ravel(r) for r in result]) if isinstance(result, tuple) else np.ravel(result)


IDS = np.random.default_rng(5).integers(0, 37, 24)
IDS[3] = -100
G = draw(24, 37, seed=1)
UNARY = ["exp", "sin", "cos", "tanh", "sigmoid", "erf", "gelu", "silu", "relu", "abs", "neg"]
UNARY += ["log_softmax", "softmax", "sum"]
BINARY = ["add", "sub", "mul", "div", "maximum", "minimum"]
BINARY += ["relu_vjp", "gelu_vjp", "tanh_vjp", "sigmoid_vjp", "silu_vjp"]
# calls of every kernel on one (24, 37) array, results of any shape
CALLS: dict[str, Callable[[np.ndarray], object]] = {
    **{name: (lambda x, name=name: kernel(name)(x)) for name in UNARY},
    **{name: (lambda x, name=name: kernel(name)(x, G.astype(x.dtype))) for name in BINARY},
    "add row": lambda x: kernel("add")(x, G[0].astype(x.dtype)),
    "mul column": lambda x: kernel("mul")(G[:, :1].astype(x.dtype), x),
    "div number": lambda x: kernel("div")(x, np.full((), 3, x.dtype)),
    "pow": lambda x: kernel("pow")(np.abs(x), G.astype(x.dtype)),
    "where": lambda x: kernel("where")(G > 0, x, np.zeros((), x.dtype)),
    "sum 0": lambda x: kernel("sum")(x, axis=(0,)),
    "sum 1": lambda x: kernel("sum")(x, axis=(1,), keepdims=True),
    "softmax 0": lambda x: kernel("softmax")(x, axis=0),
    "softmax mask": lambda x: kernel("softmax")(x, G > 0),
    "softmax_vjp": lambda x: kernel("softmax_vjp")(G.astype(x.dtype), x),
    "log_softmax_vjp": lambda x: kernel("log_softmax_vjp")(G.astype(x.dtype), x),
    "layer_norm": lambda x: kernel("layer_norm")(x, *G[:2].astype(x.dtype)),
    "layer_norm_vjp": lambda x: kernel("layer_norm_vjp")(G.astype(x.dtype), x, G[0].astype(x.dtype)),
    "add_norm": lambda x: kernel("add_norm")(x, G.astype(x.dtype), KEY, *G[:2].astype(x.dtype), p=0.3)[:4],
    "add_norm_vjp": lambda x: kernel("add_norm_vjp")(G.astype(x.dtype), x, x, KEY, G[0].astype(x.dtype), p=0.3),
    "cross_entropy": lambda x: kernel("cross_entropy")(x, IDS, label_smoothing=0.1)[:2],
    "cross_entropy_vjp": lambda x: kernel("cross_entropy_vjp")(np.ones((), x.dtype), x, IDS, label_smoothing=0.1),
    "embedding": lambda x: kernel("embedding")(x, np.abs(IDS) % 24),
    "embed": lambda x: kernel("embed")(x, np.abs(IDS) % 24, G.astype(x.dtype), KEY, scale=3.0, p=0.3),
    "embed_vjp": lambda x: kernel("embed_vjp")(x, np.abs(IDS) % 5, KEY, size=7, scale=3.0, p=0.3),
    "take": lambda x: kernel("take")(x, np.abs(IDS) % 24, axis=0),
    "scatter_add": lambda x: kernel("scatter_add")(x, np.abs(IDS) % 5, axis=0, size=7),
    "dropout": lambda x: kernel("dropout")(x, KEY, p=0.3)[0],
}


@pytest.mark.parametrize("name", CALLS)
def test_any_layout_gives_the_same_bits_and_stays_as_it_was(name):
    for dtype in DTYPES:
        x = draw(24, 37, dtype=dtype)
        expected = flat(CALLS[name](x.copy()))
        for layout, a in layouts(x).items():
            result = CALLS[name](a)
            np.testing.assert_array_equal(flat(result), expected, err_msg=layout)
            np.testing.assert_array_equal(a, x, err_msg=f"{layout}: the input was changed")
            for r in result if isinstance(result, tuple) else (result,):
                assert r.dtype == dtype and r.flags.c_contiguous


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_read_only_broadcast_input(dtype):
    x = np.broadcast_to(draw(37, dtype=dtype), (24, 37))
    for name, call in CALLS.items():
        np.testing.assert_array_equal(flat(call(x)), flat(call(x.copy())), err_msg=name)


# --- the same bits for 1, 2 and 8 threads ---------------------------------------------------------

THREADS_PROGRAM = """
import hashlib
import numpy as np
from engine.kernels.cpu import kernel
rng = np.random.default_rng(0)
x = rng.normal(size=(900, 130)).astype(np.float32)
g = rng.normal(size=x.shape).astype(np.float32)
ids = rng.integers(0, 130, 900)
state = [a.copy() for a in (x, g, 0 * x, 0 * x)]
kernel("adam")(*[[a] for a in state], lr=0.1, beta1=0.9, beta2=0.99, eps=1e-8, weight_decay=[0.1], step=1)
results = [
    state[0], kernel("exp")(x), kernel("add")(x, g), kernel("mul")(x, g[0]), kernel("sum")(x),
    kernel("sum")(x, axis=(0,)), kernel("sum")(x, axis=(1,)), kernel("softmax")(x), kernel("layer_norm")(x)[0],
    kernel("layer_norm_vjp")(g, x), kernel("cross_entropy")(x, ids)[0], kernel("dropout")(x, np.array(3), p=0.5)[0],
    kernel("scatter_add")(g, ids, axis=0, size=130), kernel("global_norm")([x, g]),
]
print([hashlib.sha256(r.tobytes()).hexdigest() for r in results])
"""


def test_the_number_of_threads_changes_no_bit(monkeypatch):
    printed = []
    for threads in ("1", "2", "8"):
        monkeypatch.setenv("NUMBA_NUM_THREADS", threads)
        run = subprocess.run([sys.executable, "-c", THREADS_PROGRAM], check=True, capture_output=True, text=True)
        printed.append(run.stdout)
    assert printed[0].count("'") == 28
    assert printed[0] == printed[1] == printed[2]


# --- the same bits whatever the width of the processor's vectors ----------------------------------

WIDTHS_PROGRAM = """
import hashlib
from engine.kernels.cpu import kernel
from tests.test_kernels_bits import CALLS, G, draw, flat
heads = draw(3, 2, 7, 16), draw(3, 2, 9, 16, seed=1), draw(3, 2, 9, 16, seed=2)
results = [call(draw(24, 37)) for call in CALLS.values()]
results += [kernel("matmul")(draw(24, 37), G.T), kernel("scaled_dot_product_attention")(*heads)[0]]
print([hashlib.sha256(flat(r).tobytes()).hexdigest() for r in results])
"""
NARROWER = [("haswell", "+avx2,+fma,+avx,+sse4.2,+bmi,+bmi2,+popcnt,+lzcnt,-avx512f"), ("nehalem", "+sse4.2,+popcnt")]


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="narrower processors are known for x86 only")
def test_the_width_of_vectors_changes_no_bit(monkeypatch):
    program = [sys.executable, "-c", WIDTHS_PROGRAM]
    here = subprocess.run(program, check=True, capture_output=True, text=True).stdout
    name, features = NARROWER[0 if get_host_cpu_features().get("avx512f") else 1]
    monkeypatch.setenv("NUMBA_CPU_NAME", name)
    monkeypatch.setenv("NUMBA_CPU_FEATURES", features)
    narrower = subprocess.run(program, check=True, capture_output=True, text=True).stdout
    assert here.count("'") == 2 * (len(CALLS) + 2)
    assert here == narrower


# --- position and padding -------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 5, 16, 37, 4096, 4100, 9000])
def test_a_row_is_the_same_alone_and_among_others(n):
    x, g = draw(5, n), draw(5, n, seed=2)
    ids = np.arange(5) % n
    calls = {
        "softmax": lambda s: kernel("softmax")(x[s]),
        "softmax_vjp": lambda s: kernel("softmax_vjp")(g[s], x[s]),
        "log_softmax": lambda s: kernel("log_softmax")(x[s]),
        "log_softmax_vjp": lambda s: kernel("log_softmax_vjp")(g[s], x[s]),
        "layer_norm": lambda s: kernel("layer_norm")(x[s])[0],
        "layer_norm_vjp": lambda s: kernel("layer_norm_vjp")(g[s], x[s])[: -2 * n].reshape(-1, n),
        "cross_entropy": lambda s: kernel("cross_entropy")(x[s], ids[s], label_smoothing=0.1, reduction="none")[0],
        "sum": lambda s: kernel("sum")(x[s], axis=(1,)),
    }
    for name, call in calls.items():
        together = call(slice(0, 5))
        for i in range(5):
            np.testing.assert_array_equal(call(slice(i, i + 1))[0], together[i], err_msg=name)


@pytest.mark.parametrize(("n", "padded"), [(3, 4), (16, 17), (37, 100), (4000, 5000), (4096, 12288)])
def test_masked_padding_changes_no_bit(n, padded):
    x = np.full((4, padded), np.nan, np.float32)
    x[:, :n] = draw(4, n)
    mask = np.arange(padded) < n
    out = kernel("softmax")(x, mask)
    np.testing.assert_array_equal(out[:, :n], kernel("softmax")(np.ascontiguousarray(x[:, :n])))
    assert not out[:, n:].any()


@pytest.mark.parametrize("n", [1, 15, 16, 100, 4097, 20000])
def test_appended_zeros_change_no_sum(n):
    x = np.zeros((3, n + 4999), np.float32)
    x[:, :n] = draw(3, n)
    np.testing.assert_array_equal(kernel("sum")(x, axis=(1,)), kernel("sum")(x[:, :n], axis=(1,)))


@pytest.mark.parametrize("n", [1, 15, 33, 4097, 9000])
def test_a_sum_over_rows_is_one_chain(n):
    x = draw(n, 3)
    chain = np.zeros(3, np.float32)
    for row in x:
        chain += row
    np.testing.assert_array_equal(kernel("sum")(x, axis=(0,)), chain)
    np.testing.assert_array_equal(kernel("sum")(x[:, :1], axis=(0,)), chain[:1])
    np.testing.assert_array_equal(kernel("sum")(x.reshape(1, n, 3), axis=(0, 1)), chain)
    strewn = np.zeros((2 * n + 5, 3), np.float32)
    strewn[np.sort(np.random.default_rng(n).permutation(2 * n + 5)[:n])] = x
    np.testing.assert_array_equal(kernel("sum")(strewn, axis=(0,)), chain)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_ignored_rows_change_no_bit_of_the_loss(reduction):
    """Wherever they lie, and whatever is in them."""
    x, ids, place = draw(40, 37), np.arange(40) % 37, np.sort(np.random.default_rng(0).permutation(91)[:40])
    wide, wide_ids = np.full((91, 37), np.nan, np.float32), np.full(91, -100)
    wide[place], wide_ids[place] = x, ids
    options = {"label_smoothing": 0.1, "reduction": reduction}
    np.testing.assert_array_equal(
        kernel("cross_entropy")(wide, wide_ids, **options)[0], kernel("cross_entropy")(x, ids, **options)[0]
    )
    g = np.full((), 3, np.float32)
    gradient = kernel("cross_entropy_vjp")(g, wide, wide_ids, **options)
    np.testing.assert_array_equal(gradient[place], kernel("cross_entropy_vjp")(g, x, ids, **options))
    assert not np.delete(gradient, place, axis=0).any()


def test_a_fully_masked_row_gives_zeros():
    x = np.full((2, 5), np.nan, np.float32)
    assert not kernel("softmax")(x, np.zeros(5, bool)).any()


# --- against float64 ------------------------------------------------------------------------------

SHAPES = [(0,), (1,), (7,), (3, 5), (2, 0), (0, 3), (5, 1, 6), (2, 3, 4, 5), (40, 1000), (5000, 3), (3, 20000)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_sums(shape, dtype):
    x = draw(*shape, dtype=dtype)
    axes = [None, (), *[(i,) for i in range(x.ndim)], (0, x.ndim - 1)[: x.ndim], tuple(range(x.ndim))]
    for axis in axes:
        for keepdims in (False, True):
            expected = np.sum(x.astype(np.float64), axis=axis, keepdims=keepdims)
            bound = np.finfo(dtype).eps * (20 + x.size / 65536) * np.sum(np.abs(x), axis=axis, keepdims=keepdims)
            result = kernel("sum")(x, axis=axis, keepdims=keepdims)
            assert result.shape == expected.shape and result.dtype == dtype
            assert np.all(np.abs(result - expected) <= bound)


def softmax64(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5), (2, 3, 17), (40, 1000), (3, 20000)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_row_kernels(shape, dtype):
    x, g, w, b = (draw(*s, dtype=dtype, seed=i) for i, s in enumerate([shape, shape, shape[-1:], shape[-1:]]))
    x64, g64, w64, b64 = (a.astype(np.float64) for a in (x, g, w, b))
    close = {"rtol": 60 * np.finfo(dtype).eps, "atol": 60 * np.finfo(dtype).eps}
    y = softmax64(x64)
    np.testing.assert_allclose(kernel("softmax")(x), y, **close)
    np.testing.assert_allclose(kernel("log_softmax")(x), np.log(y), **close)
    dots = np.sum(g64 * y, axis=-1, keepdims=True)
    np.testing.assert_allclose(kernel("softmax_vjp")(g, y.astype(dtype)), y * (g64 - dots), **close)
    totals = g64.sum(axis=-1, keepdims=True)
    scale = 1 + np.abs(g64).sum(axis=-1).max()
    close_sums = {"rtol": close["rtol"], "atol": close["atol"] * scale / 10}
    np.testing.assert_allclose(kernel("log_softmax_vjp")(g, np.log(y).astype(dtype)), g64 - y * totals, **close_sums)
    centred = x64 - x64.mean(axis=-1, keepdims=True)
    rstd = 1 / np.sqrt(np.mean(centred**2, axis=-1, keepdims=True) + 1e-5)
    normal = centred * rstd
    out, mean, r = kernel("layer_norm")(x, w, b)
    np.testing.assert_allclose(out, normal * w64 + b64, **close_sums)
    np.testing.assert_allclose(r, rstd[..., 0], rtol=close["rtol"])
    assert mean.shape == r.shape == shape[:-1]
    weighted = g64 * w64
    level = weighted.mean(axis=-1, keepdims=True)
    dx = (weighted - level - normal * np.mean(weighted * normal, axis=-1, keepdims=True)) * rstd
    dw, db = ((a.reshape(-1, shape[-1])).sum(axis=0) for a in (g64 * normal, g64))
    if shape[-1] > 1:  # one element normalises to 0: the gradient is a difference of equals times 300
        for residuals in ({}, {"mean": mean, "rstd": r}):
            packed = kernel("layer_norm_vjp")(g, x, w, eps=1e-5, **residuals)
            expected = np.concatenate([dx.ravel(), dw, db])
            np.testing.assert_allclose(packed, expected, rtol=close["rtol"], atol=20 * close["atol"])


@pytest.mark.parametrize("shape", [(1,), (5,), (6, 9), (2, 3, 17), (40, 1000), (3, 20000)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy(shape, smoothing, reduction):
    for dtype in DTYPES:
        x = draw(*shape, dtype=dtype)
        ids = np.asarray(np.random.default_rng(1).integers(0, shape[-1], shape[:-1]))
        if ids.size > 2:
            ids.flat[1] = -100
        counted = ids != -100
        x64 = x.astype(np.float64)
        lse = np.log(np.exp(x64).sum(axis=-1))
        picked = np.take_along_axis(x64, np.where(counted, ids, 0)[..., None], -1)[..., 0]
        losses = np.where(counted, (1 - smoothing) * (lse - picked) + smoothing * (lse - x64.mean(axis=-1)), 0)
        share = {"mean": 1 / counted.sum(), "sum": 1, "none": 1}[reduction]
        expected = losses if reduction == "none" else losses.sum() * share
        options = {"label_smoothing": smoothing, "reduction": reduction}
        out, top, total, *_ = kernel("cross_entropy")(x, ids, **options)
        close = {"rtol": 40 * np.finfo(dtype).eps, "atol": 40 * np.finfo(dtype).eps}
        np.testing.assert_allclose(out, expected, **close)
        np.testing.assert_array_equal(top, np.where(counted, x.max(axis=-1), 0))
        np.testing.assert_allclose(total, np.where(counted, np.exp(lse - top), 0), **close)
        onehot = np.where(counted, ids, -1)[..., None] == np.arange(shape[-1])
        target = (1 - smoothing) * onehot + smoothing / shape[-1]
        gradient = 2 * share * np.where(counted[..., None], np.exp(x64 - lse[..., None]) - target, 0)
        g = np.full(out.shape, 2, dtype)
        for residual in ({}, {"top": top, "total": total}):
            np.testing.assert_allclose(kernel("cross_entropy_vjp")(g, x, ids, **options, **residual), gradient, **close)


def test_cross_entropy_of_nothing_counted_is_zero():
    out, *_ = kernel("cross_entropy")(draw(3, 4), np.full(3, -100))
    assert out.shape == () and out == 0
    assert not kernel("cross_entropy_vjp")(np.ones((), np.float32), draw(3, 4), np.full(3, -100)).any()


BROADCASTS = [((), ()), ((3,), ()), ((4, 5), (5,)), ((4, 5), (4, 1)), ((4, 1), (1, 5)), ((2, 3, 4), (3, 1)),
              ((0, 4), (4,)), ((2, 3, 4), (2, 1, 1)), ((300, 400), (400,)), ((300, 400), (300, 1)), ((300, 400), ()),
              ((300, 400), (1, 1, 1)), ((300, 400), (300, 400)), ((300, 1), (400,)), ((1,), (2, 1))]  # fmt: skip


@pytest.mark.parametrize(("left", "right"), BROADCASTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_exact_ops_are_numpy_bit_for_bit(left, right, dtype):
    x, y = draw(*left, dtype=dtype), draw(*right, dtype=dtype, seed=1)
    if x.size > 1:
        x.flat[0] = np.nan
    exact = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide,
             "maximum": np.maximum, "minimum": np.minimum}  # fmt: skip
    for name, numpy in exact.items():
        for a, b in ((x, y), (y, x)):
            expected = np.asarray(numpy(a, b))
            result = kernel(name)(a, b)
            assert result.shape == expected.shape and result.dtype == dtype
            np.testing.assert_array_equal(result, expected, err_msg=name)
    zero = dtype(0)
    np.testing.assert_array_equal(kernel("relu")(x), np.maximum(x, zero))
    np.testing.assert_array_equal(kernel("abs")(x), np.abs(x))
    np.testing.assert_array_equal(kernel("neg")(x), -x)
    np.testing.assert_array_equal(kernel("sqrt")(np.abs(x)), np.sqrt(np.abs(x)))
    np.testing.assert_array_equal(kernel("where")(x > 0, x, np.zeros((), dtype)), np.where(x > 0, x, zero))


@pytest.mark.parametrize("p", [0.0, 0.25, 0.9, 1.0])
@pytest.mark.parametrize("n", [0, 1, 6, 8192, 8193, 30001])
def test_dropout(p, n):
    x = draw(n)
    keep = kernel("uniform")(KEY, (n,)) >= np.float32(p)
    scale = np.float32(1 / (1 - p)) if p < 1 else np.float32(0)
    np.testing.assert_array_equal(kernel("dropout")(x, KEY, p=p)[0], np.where(keep, x * scale, np.float32(0)))


def test_dropped_elements_are_zero_whatever_they_were():
    assert not kernel("dropout")(np.full(10, np.nan, np.float32), KEY, p=1.0)[0].any()


@pytest.mark.parametrize("size", [1, 50, 3000])
def test_scatter_add_in_order_of_position(size):
    for dtype in DTYPES:
        ids = np.random.default_rng(2).integers(0, size, (30, 11))
        g = draw(30, 11, 13, dtype=dtype)
        expected = np.zeros((size, 13), dtype)
        np.add.at(expected, ids, g)
        np.testing.assert_array_equal(kernel("scatter_add")(g, ids, axis=0, size=size), expected)
        table = draw(size, 13, dtype=dtype)
        np.testing.assert_array_equal(kernel("embedding")(table, ids), table[ids])


def test_what_is_not_served():
    x, ids = draw(3, 4), np.zeros(3, np.int64)
    whole = np.arange(3)
    for result in (
        kernel("exp")(whole), kernel("add")(whole, whole), kernel("add")(x, x.astype(np.float64)),
        kernel("sum")(whole), kernel("softmax")(whole), kernel("layer_norm")(whole),
        kernel("dropout")(whole, KEY, p=0.5), kernel("take")(x, ids, axis=1),
        kernel("scatter_add")(x, ids, axis=1, size=4),
    ):  # fmt: skip
        assert result is NotImplemented
