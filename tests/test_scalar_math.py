"""The mathematics on one number: its error against float64, its special values, and the published random vectors."""

import math
import subprocess
import sys

import numpy as np
import pytest

from engine.kernels import scalar, trigonometry
from engine.kernels.cpu import jit_disabled, kernel

JIT = pytest.mark.skipif(jit_disabled(), reason="NUMBA_DISABLE_JIT=1: there are no kernels to test")


def erfc64(x):
    return np.array([math.erfc(v) for v in x])


def sigmoid64(x):
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1) / (1 + e)


# name: (float64 reference, allowed ulp in float32)
FUNCTIONS = {
    "exp": (np.exp, 1.0),
    "log": (np.log, 1.0),
    "sin": (np.sin, 1.5),
    "cos": (np.cos, 1.5),
    "tanh": (np.tanh, 1.5),
    "sigmoid": (sigmoid64, 2.0),
    "erf": (lambda x: np.array([math.erf(v) for v in x]), 1.5),
    "silu": (lambda x: x * sigmoid64(x), 2.5),
    "gelu": (lambda x: x * (0.5 * erfc64(-x * math.sqrt(0.5))), 4.0),
}
SPECIAL = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 1.2e-38, 3.4e38, -3.4e38], np.float32)


def points():
    """Every exponent and sign with random mantissas, and a fine grid where the functions bend."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 2**32, 30_000, dtype=np.uint64).astype(np.uint32).view(np.float32)
    grids = [rng.uniform(-a, a, 30_000).astype(np.float32) for a in (0.1, 1, 16, 110)]
    x = np.concatenate([SPECIAL, patterns, *grids])
    x[np.isnan(x)] = np.nan  # quiet ones
    return x


def ulps(got, exact, of=None):
    """The error in units of the last place of `of`, the float32 result if not given (of the smallest normal number,
    below it)."""
    with np.errstate(over="ignore"):
        rounded = exact.astype(np.float32)
    assert np.array_equal(np.isnan(rounded), np.isnan(got))
    assert np.array_equal(np.isinf(rounded), np.isinf(got))
    finite = np.isfinite(rounded)
    unit = np.spacing(np.maximum(np.abs((rounded if of is None else of)[finite]), np.float32(2.0**-126)))
    return np.abs(got[finite].astype(np.float64) - exact[finite]) / unit


@JIT
@pytest.mark.parametrize("name", FUNCTIONS)
def test_float32_error_in_ulp(name):
    reference, allowed = FUNCTIONS[name]
    x = points()
    with np.errstate(all="ignore"):
        exact = reference(x.astype(np.float64))
    assert ulps(kernel(name)(x), exact, x if name == "gelu" else None).max() <= allowed


@JIT
def test_gelu_ends_in_its_limits():
    x = np.array([-3.4e38, -1e6, -6, 6, 1e6, 3.4e38], np.float32)
    np.testing.assert_array_equal(kernel("gelu")(x), np.maximum(x, 0))
    np.testing.assert_array_equal(kernel("gelu_vjp")(np.ones_like(x), x), (x > 0).astype(np.float32))
    x = np.abs(points())
    with np.errstate(all="ignore"):
        exact = FUNCTIONS["gelu"][0](x.astype(np.float64))
    assert ulps(kernel("gelu")(x), exact).max() <= 4


@JIT
@pytest.mark.parametrize("name", FUNCTIONS)
def test_float64_is_that_of_math(name):
    x = points()[::10].astype(np.float64)
    with np.errstate(all="ignore"):
        exact = FUNCTIONS[name][0](x)
    np.testing.assert_allclose(kernel(name)(x), exact, rtol=4e-15, atol=1e-300)


@JIT
@pytest.mark.parametrize("name", ["exp", "log", "sin", "cos", "tanh", "sigmoid", "erf", "silu", "gelu"])
def test_compiled_and_plain_python_give_the_same_bits(name):
    x = points()[::500]
    with np.errstate(all="ignore"):
        plain = np.array([getattr(trigonometry if name in ("sin", "cos") else scalar, name)(v) for v in x], np.float32)
    np.testing.assert_array_equal(kernel(name)(x), plain)


@JIT
def test_small_results_are_not_flushed_to_zero():
    x = np.array([-88, -95, -103], np.float32)
    for name in ("exp", "sigmoid"):
        out = kernel(name)(x)
        assert np.all(out > 0) and np.all(out < 2.0**-125)


@JIT
@pytest.mark.parametrize("name", ["sin", "cos"])
def test_angles_near_and_far_in_one_array(name):
    far = np.array([2.0**27, 2.0**27 + 16, 1e30, -3.4e38, np.inf, np.nan, -0.0, 0.5], np.float32)
    x = np.tile(np.concatenate([far, np.linspace(-50, 50, 25, dtype=np.float32)]), 700)
    alone = np.concatenate([kernel(name)(x[i : i + 1]) for i in range(33)])
    np.testing.assert_array_equal(kernel(name)(x), np.tile(alone, 700))
    assert np.signbit(kernel("sin")(x)[6])


@JIT
def test_a_square_is_one_product():
    x = points()
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(kernel("pow")(x, np.full((), 2, np.float32)), x * x)


@JIT
@pytest.mark.parametrize(
    ("name", "derivative"),
    [
        ("relu_vjp", lambda x: (x > 0) * 1.0),
        ("silu_vjp", lambda x: sigmoid64(x) * (1 + x * (1 - sigmoid64(x)))),
        ("gelu_vjp", lambda x: 0.5 * erfc64(-x * math.sqrt(0.5)) + x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi)),
        ("tanh_vjp", lambda y: 1 - y * y),
        ("sigmoid_vjp", lambda y: y * (1 - y)),
    ],
)
def test_pullbacks(name, derivative):
    x = np.linspace(-12, 12, 4001)
    for dtype, tolerance in ((np.float32, 1e-6), (np.float64, 1e-14)):
        a = x.astype(dtype)
        expected = 2 * derivative(a.astype(np.float64))
        np.testing.assert_allclose(kernel(name)(np.full_like(a, 2), a), expected, rtol=tolerance, atol=tolerance)



# --- random bits ----------------------------------------------------------------------------------

FULL = 0xFFFFFFFF
KNOWN = [  # the known-answer vectors of Random123, kat_vectors: philox4x32, 10 rounds
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([FULL] * 4, [FULL] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_philox_gives_the_published_words(counter, key, words):
    assert [int(w) for w in scalar.philox4x32(*map(np.uint64, counter + key))] == words


def test_the_words_of_a_64_bit_key_and_counter():
    key, counter = 0x299F31D0A4093822, 0x85A308D3243F6A88
    low, high = counter & FULL, counter >> 32
    expected = scalar.philox4x32(*map(np.uint64, (low, high, 0, 0, key & FULL, key >> 32)))
    assert scalar.philox(np.uint64(key), np.uint64(counter)) == expected
    np.testing.assert_array_equal(scalar.philox_numpy(key, np.array([counter], np.uint64))[0], expected)


def uniform_numpy(key, n):
    words = scalar.philox_numpy(key, np.arange((n + 3) // 4, dtype=np.uint64)).ravel()[:n]
    return (words >> 8).astype(np.float32) * np.float32(2.0**-24)


@pytest.mark.parametrize("key", [0, 7, -1, 2**63 - 1, -(2**63)])
def test_uniform_of_one_element_is_that_of_the_array(key):
    u = uniform_numpy(key, 11)
    assert [scalar.uniform(np.uint64(key % 2**64), np.uint64(i)) for i in range(11)] == list(u)


@JIT
@pytest.mark.parametrize("n", [0, 1, 3, 4, 8191, 8192, 8193, 20001])
def test_uniform_kernel(n):
    np.testing.assert_array_equal(kernel("uniform")(np.array(-42), (n,)), uniform_numpy(-42, n))


def test_uniform_numbers_look_uniform():
    u = uniform_numpy(3, 1_000_000)
    assert u.min() >= 0 and u.max() < 1
    counts = np.bincount((u * 256).astype(int), minlength=256)
    chi2 = np.sum((counts - u.size / 256) ** 2 / (u.size / 256))
    assert 150 < chi2 < 380  # 255 degrees of freedom
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 0.005


@pytest.mark.parametrize("p", [0.0, 0.1, 0.3, 0.5, 0.7, 0.999, 1.0, 2.0**-24])
def test_the_dropout_rule_in_integers(p):
    words = scalar.philox_numpy(9, np.arange(5000, dtype=np.uint64)).ravel()
    u = (words >> 8).astype(np.float32) * np.float32(2.0**-24)
    np.testing.assert_array_equal((words >> 8) >= scalar.keep_from(p), u >= np.float32(p))


def test_no_numba_is_needed():
    program = "import sys; import engine.kernels.scalar, engine.kernels.cpu; sys.exit('numba' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
