"""What the tests of CUDA kernels share: arrays on the card, simulated or real, and op meanings as the oracle."""
import numpy as np

from engine import OPS, Tensor, unfused
from engine.check import WIDE, tolerance
from engine.kernels import cuda
from engine.kernels.cuda import tape

KEY = np.array(0x123456789ABCDEF, np.int64)


def numbers(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


def on_card(x):
    """An array on the card, in the memory layout that it has here."""
    return None if x is None else tape.laid_out(x)


def call(name, *arrays, **params):
    """What the kernel gives; residuals too, where it has any."""
    made = cuda.kernel(name)(*(on_card(x) for x in arrays), **params)
    assert made is not NotImplemented
    return made


def meaning(name, *arrays, **params):
    """The op's meaning in long double."""
    wide = [None if x is None else Tensor(x.astype(WIDE) if x.dtype.kind == "f" else x) for x in arrays]
    with unfused():
        return OPS[name](*wide, **params).array()


def close(got, expected, terms=1):
    got = got.get() if hasattr(got, "get") else got
    assert got.shape == expected.shape
    assert got.dtype == (np.float32 if expected.dtype == WIDE else expected.dtype)
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
    np.testing.assert_array_equal(got[~finite], expected[~finite].astype(got.dtype))
    scale = float(np.max(np.abs(expected[finite]), initial=1.0))
    np.testing.assert_allclose(got[finite], expected[finite], rtol=0, atol=tolerance(np.float32, terms) * scale)


def check(name, *arrays, terms=1, **params):
    made = call(name, *arrays, **params)
    close(made[0] if type(made) is tuple else made, meaning(name, *arrays, **params), terms)
