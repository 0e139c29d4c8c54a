"""The rules that change arrays in place, in operations of the array library: what serves where there is no kernel.

No rule has a meaning in ops that could stand in for it. Nothing here reads a number, so all of it can be recorded.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from . import tape


def global_norm(arrays: Sequence[Any], scale: Any = 1.0) -> Any:
    """The Euclidean norm of all elements together, times `scale`: a float64 array of no axes."""
    out = tape.empty((), np.float64)
    tape.call(partial(_global_norm, len(arrays)), out, *arrays, _array(scale))
    return out


def _global_norm(count: int, out: Any, *given: Any) -> None:
    out[...] = 0
    for a in given[:count]:
        out += np.sum(a.astype(np.float64) ** 2)
    out[...] = np.sqrt(out) * given[count]


def adam(params: Sequence[Any], grads: Sequence[Any], m: Sequence[Any], v: Sequence[Any], *, lr: Any, beta1: float,
         beta2: float, eps: float, weight_decay: Sequence[float], step: Any, decoupled: bool = True, norm: Any = None,
         clip_norm: float = 0.0, divisor: Any = 1.0) -> None:
    """One step of Adam, as the CPU's kernel of this name does it."""
    numbers = [_array(x) for x in (lr, step, 0.0 if norm is None else norm, divisor)]
    for p, g, m1, v1, decay in zip(params, grads, m, v, weight_decay, strict=True):
        settings = (beta1, beta2, eps, decay, decoupled, clip_norm)
        tape.call(partial(_adam, *settings), p, g, m1, v1, *numbers)


def _adam(beta1: float, beta2: float, eps: float, wd: float, decoupled: bool, clip_norm: float, p: Any, g: Any, m: Any,
          v: Any, lr: Any, step: Any, norm: Any, divisor: Any) -> None:
    factor, changes = _gradient_factor(norm, divisor, clip_norm)
    gradient = g * factor.astype(p.dtype) + (0.0 if decoupled else wd) * p
    m1, v1 = beta1 * m + (1 - beta1) * gradient, beta2 * v + (1 - beta2) * (gradient * gradient)
    count = step.astype(np.float64)
    rate = (lr / (1 - beta1 ** count)).astype(p.dtype)
    root = (1 / np.sqrt(1 - beta2 ** count)).astype(p.dtype)
    decay = (1 - lr * wd).astype(p.dtype) if decoupled else 1.0
    moved = p * decay - rate * m1 / (np.sqrt(v1) * root + eps)
    for old, new in ((p, moved), (m, m1), (v, v1)):
        old[...] = np.where(changes, new, old)


def sgd(params: Sequence[Any], grads: Sequence[Any], velocity: Sequence[Any] | None = None, *, lr: Any,
        momentum: float = 0.0, weight_decay: Sequence[float], nesterov: bool = False, norm: Any = None,
        clip_norm: float = 0.0, divisor: Any = 1.0) -> None:
    """One step of gradient descent, as the CPU's kernel of this name does it."""
    numbers = [_array(x) for x in (lr, 0.0 if norm is None else norm, divisor)]
    for i, (p, g, decay) in enumerate(zip(params, grads, weight_decay, strict=True)):
        slots = [] if velocity is None else [velocity[i]]
        tape.call(partial(_sgd, momentum, decay, nesterov, clip_norm), p, g, *numbers, *slots)


def _sgd(momentum: float, wd: float, nesterov: bool, clip_norm: float, p: Any, g: Any, lr: Any, norm: Any, divisor: Any,
         u: Any = None) -> None:
    factor, changes = _gradient_factor(norm, divisor, clip_norm)
    gradient = g * factor.astype(p.dtype) + wd * p
    if u is not None:
        velocity = momentum * u + gradient
        gradient = gradient + momentum * velocity if nesterov else velocity
        u[...] = np.where(changes, velocity, u)
    p[...] = np.where(changes, p - lr.astype(p.dtype) * gradient, p)


def _gradient_factor(norm: Any, divisor: Any, clip_norm: float) -> tuple[Any, Any]:
    """What gradients are multiplied by, and whether anything may be changed."""
    length = norm / divisor
    factor = np.where(length > clip_norm, clip_norm / length, 1.0) if clip_norm > 0 else np.ones_like(length)
    return factor / divisor, np.isfinite(norm)


def count(steps: Sequence[Any], *, norm: Any = None) -> None:
    """Add one to every element of int64 arrays, unless the norm of the gradients is not finite."""
    finite = _array(0.0 if norm is None else norm)
    for counter in steps:
        tape.call(_count, counter, finite)


def _count(counter: Any, norm: Any) -> None:
    counter += np.isfinite(norm)


def copy(out: Sequence[Any], x: Sequence[Any]) -> None:
    """Write each of x over its counterpart in out."""
    for to, source in zip(out, x, strict=True):
        tape.copy_to(to, source)


def accumulate(out: Sequence[Any], x: Sequence[Any]) -> None:
    """Add each of x to its counterpart in out."""
    for total, part in zip(out, x, strict=True):
        tape.call(_add, total, part)


def _add(total: Any, part: Any) -> None:
    total += part


def average(out: Sequence[Any], x: Sequence[Any], *, step: Any, window: float, norm: Any = None) -> None:
    """Move each of out towards its counterpart in x, as the CPU's kernel of this name does it."""
    numbers = _array(step, np.int64), _array(0.0 if norm is None else norm)
    for mean, new in zip(out, x, strict=True):
        tape.call(partial(_average, window), mean, new, *numbers)


def _average(window: float, mean: Any, new: Any, step: Any, norm: Any) -> None:
    share = 1.0 / np.minimum(window, 1.0 + (step.astype(np.float64) - 1.0) / 10.0)
    mean[...] = np.where(np.isfinite(norm), mean + (new - mean) * share.astype(mean.dtype), mean)


def write(out: Sequence[Any], x: Sequence[Any], *, at: Any) -> None:
    """out[..., at + t, :] = x[..., t, :] for each out (..., C, K) and x (..., T, K); `at` is an int64 array of one
    element."""
    for to, source in zip(out, x, strict=True):
        tape.call(_write, to, source, _array(at, np.int64))


def _write(out: Any, x: Any, at: Any) -> None:
    if x.size:
        rows = np.arange(out.shape[-2], like=out) - at.reshape(())
        inside = (rows >= 0) & (rows < x.shape[-2])
        moved = np.take(x, np.clip(rows, 0, x.shape[-2] - 1), axis=-2)
        out[...] = np.where(inside[:, None], moved, out)


def _array(value: Any, dtype: Any = np.float64) -> Any:
    """A number as an array of no axes on the card."""
    on_host = isinstance(value, (int, float, np.ndarray, np.generic))
    return (tape.from_numpy(np.asarray(value, dtype)) if on_host else value).reshape(())
