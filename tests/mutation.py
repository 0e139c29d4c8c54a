"""Mutants: every rule bent, every meaning's sign turned, every kernel's tail spoilt, one at a time: who sees it?

`python -m tests.mutation` makes all of them and prints the score and the survivors; `python -m tests.mutation 20` every
twentieth. What kills a mutant are the checks of test_ops.py, on calls drawn from the op's own record, and NumPy's
function of the same name where there is one, and the properties below (test_mutation.py).
"""
import sys
from contextlib import contextmanager

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings

from engine import OPS, Real
from engine.check import Call, calls, check_gradients, check_meaning, differentiable
from engine.kernels import cpu

SEARCH = settings(max_examples=60, phases=[Phase.generate], deadline=None, database=None, derandomize=True,
                  report_multiple_bugs=False, suppress_health_check=list(HealthCheck))


def _ruled(op):
    return differentiable(op) and op.vjps is not None and not (op.fused and cpu.kernel(op.name) is None)


def mutants():
    """(name, context manager that makes the mutant, op, dtype of the calls)."""
    for op in list(OPS.values()):
        for i in range(len(op.inputs)) if _ruled(op) else ():
            if isinstance(op.kind(i), Real) and (callable(op.vjps) or op.vjps[i] is not None):
                for factor in (1.01, -1.0):
                    yield f"{op.name}: rule of {op.inputs[i]} × {factor:g}", _bent_rule(op, i, factor), op, np.float64
        if not op.fused:
            yield f"{op.name}: sign of the meaning", _turned_meaning(op), op, np.float64
        if cpu.kernel(op.name) is not None:
            for dtype in (np.float32, np.float64):
                yield f"{op.name}: last number of the {dtype.__name__} kernel", _spoilt_tail(op), op, dtype


@contextmanager
def _during(owner, name, value):
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _bent_rule(op, i, factor):
    rules = op.vjps
    if callable(rules):
        def bent(*args, **params):
            return [g * factor if k == i and g is not None else g for k, g in enumerate(rules(*args, **params))]
    else:
        bent = (*rules[:i], lambda *args, **params: rules[i](*args, **params) * factor, *rules[i + 1:])
    return _during(op, "vjps", bent)


def _turned_meaning(op):
    meaning = op.meaning

    def turned(*arrays, **params):
        y = np.asarray(meaning(*arrays, **params))
        return ~y if y.dtype.kind == "b" else -y
    return _during(op, "meaning", turned)


@contextmanager
def _spoilt_tail(op):
    kernel, ran = cpu.kernel(op.name), []

    def spoilt(*arrays, **params):
        made = kernel(*arrays, **params)
        if made is NotImplemented:
            return made
        ran.append(True)
        y, rest = (made[0], made[1:]) if isinstance(made, tuple) else (made, ())
        y = np.array(y)
        if y.size:
            y.flat[-1] = ~y.flat[-1] if y.dtype.kind == "b" else y.flat[-1] + 1
        return (y, *rest) if rest else y

    cpu._found[op.name] = spoilt
    try:
        yield ran
    finally:
        cpu._found[op.name] = kernel


def _beside_numpy(op, call):
    """The result is that of NumPy's function of this name, if that can be called the same way."""
    function = getattr(np, op.name, None)
    if function is None or op.variadic:
        return
    try:
        want = np.asarray(function(*call.arrays, **call.params))
    except (TypeError, ValueError):
        return
    got = call.run(op).array()
    if got.shape == want.shape:
        np.testing.assert_allclose(got, want.astype(got.dtype), rtol=1e-4, atol=1e-6)


def _last(ids, axis):
    """Where no equal id follows."""
    ids = np.moveaxis(ids, axis, -1)
    later = (ids[..., :, None] == ids[..., None, :]) & np.triu(np.ones((ids.shape[-1],) * 2, bool), 1)
    return np.moveaxis(~later.any(-1), -1, axis)


def _ranked(got, x, axis=-1, descending=False, **_):
    x, axis = (x.reshape(-1), 0) if axis is None else (x, axis)
    want = np.sort(x, axis=axis)
    want = np.flip(want, axis) if descending else want
    return np.array_equal(np.take_along_axis(x, got, axis), np.take(want, range(got.shape[axis]), axis=axis))


# Ops without a gradient and without a function of NumPy's: what must hold of their results.
PROPERTIES = {
    "astype": lambda got, x, dtype: got.dtype == dtype and np.array_equal(got, x.astype(dtype)),
    "to": lambda got, x, **_: np.array_equal(got, x),
    "one_hot": lambda got, ids, size, **_: np.array_equal(got, np.eye(size)[ids]),
    "is_last": lambda got, ids, axis, size: np.array_equal(got, _last(np.where(ids < 0, ids + size, ids), axis)),
    "argsort": _ranked,
    "argtopk": lambda got, x, k, axis=-1, largest=True: _ranked(got, x, axis, largest) and got.shape[axis] == k,
}


def look(op, dtype):
    """All checks of one op. Raises where one fails."""
    @SEARCH
    @given(calls(op, dtype))
    def each(call):
        check_meaning(op, call)
        _beside_numpy(op, call)
        if op.name in PROPERTIES:
            assert PROPERTIES[op.name](call.run(op).array(), *call.arrays, **call.params)
        if op.name.startswith("logical"):        # their kernels serve truth values alone
            truth = Call(tuple(a > 0 for a in call.arrays), call.params)
            check_meaning(op, truth)
            _beside_numpy(op, truth)
        if differentiable(op):
            check_gradients(op, call, order=1, elements=1)

    each()


def killed(mutant, op, dtype):
    """Whether some check fails on the mutant; None if there was none, because the kernel serves no such call."""
    with mutant as ran:
        try:
            look(op, dtype)
        except Exception:
            return True
    return None if ran == [] else False


def score(every=1):
    """(how many were made, the names of those that survived)."""
    survivors, made = [], 0
    for k, (name, mutant, op, dtype) in enumerate(mutants()):
        if k % every == 0:
            seen = killed(mutant, op, dtype)
            made += seen is not None
            survivors += [name] if seen is False else []
    return made, survivors


if __name__ == "__main__":
    made, survivors = score(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
    print(f"{made - len(survivors)} of {made} mutants killed")
    for name in survivors:
        print("survives:", name)
