"""Adam, SGD and the norm of all gradients: agreement with torch.optim, and the NumPy versions with the kernels."""

import subprocess
import sys

import numpy as np
import pytest

from engine.kernels.cpu import kernel

DTYPES = [np.float32, np.float64]
SIZES = [(5,), (40, 1000), (0,), (3, 4)]


def tensors(dtype, seed):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(dtype) for shape in SIZES]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("decoupled", [True, False])
def test_adam_is_that_of_torch(dtype, decoupled):
    torch = pytest.importorskip("torch", reason="agreement with torch.optim is checked where torch is installed")
    params = tensors(dtype, 0)
    theirs = [torch.nn.Parameter(torch.from_numpy(p.copy())) for p in params]
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    optimiser = kind(theirs, lr=0.01, betas=(0.9, 0.98), eps=1e-9, weight_decay=0.1)
    m, v = ([np.zeros_like(p) for p in params] for _ in range(2))
    options = {"lr": 0.01, "beta1": 0.9, "beta2": 0.98, "eps": 1e-9, "weight_decay": [0.1] * len(params)}
    for step in range(1, 5):
        grads = tensors(dtype, 10 * step)
        for t, g in zip(theirs, grads, strict=True):
            t.grad = torch.from_numpy(g / 2)
        optimiser.step()
        kernel("adam")(params, grads, m, v, **options, step=step, divisor=2, decoupled=decoupled)
    for t, p in zip(theirs, params, strict=True):
        np.testing.assert_allclose(p, t.detach().numpy(), rtol=20 * np.finfo(dtype).eps, atol=20 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_sgd_is_that_of_torch(dtype, momentum, nesterov):
    torch = pytest.importorskip("torch", reason="agreement with torch.optim is checked where torch is installed")
    params = tensors(dtype, 0)
    theirs = [torch.nn.Parameter(torch.from_numpy(p.copy())) for p in params]
    optimiser = torch.optim.SGD(theirs, lr=0.1, momentum=momentum, nesterov=nesterov, weight_decay=0.1)
    velocity = [np.zeros_like(p) for p in params] if momentum else None
    for step in range(1, 4):
        grads = tensors(dtype, 10 * step)
        for t, g in zip(theirs, grads, strict=True):
            t.grad = torch.from_numpy(g.copy())
        optimiser.step()
        options = {"lr": 0.1, "momentum": momentum, "weight_decay": [0.1] * len(params), "nesterov": nesterov}
        kernel("sgd")(params, grads, velocity, **options)
    for t, p in zip(theirs, params, strict=True):
        np.testing.assert_allclose(p, t.detach().numpy(), rtol=20 * np.finfo(dtype).eps, atol=20 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", DTYPES)
def test_global_norm(dtype):
    arrays = tensors(dtype, 0)
    expected = np.sqrt(sum(np.sum(a.astype(np.float64) ** 2) for a in arrays))
    assert kernel("global_norm")(arrays) == pytest.approx(expected, rel=1e-12)
    assert kernel("global_norm")(arrays, 0.25) == pytest.approx(expected / 4, rel=1e-12)
    assert kernel("global_norm")([]) == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_average_is_that_of_the_last_tenth(dtype):
    means, x = tensors(dtype, 0), tensors(dtype, 1)
    expected = [m.astype(np.float64) for m in means]
    for step in (1, 2, 11, 1001):
        kernel("average")(means, x, step=np.array(step), window=50.0)
        share = {1: 1.0, 2: 1 / 1.1, 11: 1 / 2, 1001: 1 / 50}[step]
        expected = [m + (new - m) * share for m, new in zip(expected, x, strict=True)]
        x = tensors(dtype, step)
    for m, right in zip(means, expected, strict=True):
        np.testing.assert_allclose(m, right, rtol=1e-6, atol=1e-6)
    before = [m.copy() for m in means]
    kernel("average")(means, x, step=np.array(5), window=50.0, norm=np.array(np.inf))
    assert all((m == b).all() for m, b in zip(means, before, strict=True))


WITHOUT_JIT_PROGRAM = """
import sys
import numpy as np
from engine.kernels.cpu import kernel
assert kernel("softmax") is None and kernel("exp") is None
arrays = [np.linspace(-1, 1, 7, dtype=np.float32) + i for i in range(4)]
options = dict(beta1=0.9, beta2=0.99, eps=1e-8, weight_decay=[0.1], step=2, divisor=2, lr=0.1)
kernel("adam")(*[[a] for a in arrays], **options)
kernel("sgd")(
    arrays[:1], arrays[1:2], arrays[2:3], lr=0.1, momentum=0.9, weight_decay=[0.1], nesterov=True, divisor=0.5
)
for step in (1, 40):
    kernel("average")(arrays[:2], arrays[2:], step=np.array(step), window=3)
print(kernel("global_norm")(arrays), *(x for a in arrays for x in a), sep="\\n")
"""


def test_updates_without_jit_do_the_same(monkeypatch):
    values = []
    for disabled in ("1", "0"):
        monkeypatch.setenv("NUMBA_DISABLE_JIT", disabled)
        program = WITHOUT_JIT_PROGRAM if disabled == "1" else WITHOUT_JIT_PROGRAM.replace("assert", "#")
        run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
        values.append([float(line) for line in run.stdout.split()])
    np.testing.assert_allclose(values[0], values[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("length", "features"), [(1, 8), (1, 40), (5, 3), (16, 16), (23, 40), (0, 4)])
@pytest.mark.parametrize("jit", [True, False])
def test_write_puts_positions_where_they_belong(dtype, length, features, jit, monkeypatch):
    """Whichever axis of the buffer is contiguous, and whatever the layout of what is written."""
    if not jit:
        monkeypatch.setattr("engine.kernels.cpu.inplace.jit_disabled", lambda: True)
    x = np.random.default_rng(0).normal(size=(2, 3, length, features)).astype(dtype)
    buffer = np.full((2, 3, 25, features), 7, dtype)
    expected = buffer.copy()
    expected[:, :, 2 : 2 + length] = x
    layouts = (np.array, lambda a: np.ascontiguousarray(a.swapaxes(2, 3)).swapaxes(2, 3), np.asfortranarray)
    for out_layout in layouts:
        for x_layout in layouts:
            out = out_layout(buffer)
            kernel("write")([out], [x_layout(x)], at=np.array([2]))
            np.testing.assert_array_equal(out, expected)
    flat = buffer[:, 0].copy()
    kernel("write")([flat], [x[:, 0]], at=np.array(2))
    np.testing.assert_array_equal(flat, expected[:, 0])
