"""A replayed step gives the bits of the step itself, whatever it computes, and refuses what it could not repeat."""
import threading
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import engine
from engine import OPS, EngineError, GraphError, IndexRangeError, Tensor
from engine.arena import LINE, Buffer, layout
from engine.check import calls, differentiable
from engine.kernels import cpu

every_op = pytest.mark.parametrize("op", OPS.values(), ids=lambda op: op.name)
recorded = pytest.mark.skipif(cpu.jit_disabled(), reason="nothing is recorded with NUMBA_DISABLE_JIT=1")


def _equal(a, b):
    np.testing.assert_array_equal(a.numpy(), b.numpy())
    assert (np.signbit(a.numpy()) == np.signbit(b.numpy())).all() if a.dtype.kind == "f" else a.dtype == b.dtype


def _on(op, call, tensors):
    """The op on the given tensors, with None again where an optional input was left out."""
    given = iter(tensors)
    return call.on(op, [None if a is None else next(given) for a in call.arrays])


# --- the same bits --------------------------------------------------------------------------------
@every_op
@settings(max_examples=15)
@given(data=st.data())
def test_every_op_replayed(op, data):
    call = data.draw(calls(op, np.float32, hard=data.draw(st.booleans())))
    arrays = [a for a in call.arrays if a is not None]
    step = engine.replay(lambda *tensors: _on(op, call, tensors))
    with engine.no_grad():
        plain = _on(op, call, [Tensor(a) for a in arrays])
        for _ in range(3):
            _equal(step(*arrays), plain)


@pytest.mark.parametrize("op", [*filter(differentiable, OPS.values())], ids=lambda op: op.name)
@settings(max_examples=10)
@given(data=st.data())
def test_every_gradient_replayed(op, data):
    call = data.draw(calls(op, np.float32))
    arrays = [a for a in call.arrays if a is not None]
    leaves = [Tensor(a, requires_grad=a.dtype.kind == "f") for a in arrays]

    def gradients(*_):
        for leaf in leaves:
            leaf.grad = None
        y = _on(op, call, leaves)
        if not y.requires_grad:
            return []
        y.backward(np.ones(y.shape, y.dtype))
        return [leaf.grad for leaf in leaves if leaf.grad is not None]

    plain, step = [g.numpy() for g in gradients()], engine.replay(gradients)
    for _ in range(3):
        for g, expected in zip(step(0), plain, strict=True):
            np.testing.assert_array_equal(g.numpy(), expected)
    held = [leaf.grad.numpy() for leaf in leaves if leaf.grad is not None]
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(held, plain, strict=True))


def test_new_inputs_new_results_and_old_ones_stay():
    step = engine.replay(lambda x, scale: (x * scale).sum())
    rng = np.random.default_rng(0)
    inputs = [(rng.normal(size=(5, 7)).astype(np.float32), np.float32(s)) for s in range(5)]
    found = [step(*pair) for pair in inputs]
    for result, (x, scale) in zip(found, inputs, strict=True):
        _equal(result, (Tensor(x) * Tensor(scale)).sum())


def test_python_numbers_vary_and_keywords_are_fixed():
    step = engine.replay(lambda x, rate, *, twice: x * rate * (2 if twice else 1))
    for rate in (1.0, 2.0, 3.0):
        assert step(np.ones(2), rate, twice=True).tolist() == [2 * rate] * 2
        assert step(np.ones(2), rate, twice=False).tolist() == [rate] * 2


def test_keywords_that_are_equal_and_yet_not_the_same():
    scaled, x = engine.replay(lambda x, by: x * by), np.array([1, 2])
    for by in (2, 2, 2.0, True, 2.0, np.float32(2), 2):
        made = scaled(x, by=by)
        assert made.dtype == (Tensor(x) * by).dtype and made.tolist() == [int(by), 2 * int(by)]
    signs = engine.replay(lambda x, by: x / by[0])
    for by in ((0.0,), (-0.0,), (0.0,)):
        assert signs(np.float32([1]), by=by).tolist() == [np.inf / (1 if str(by[0]) == "0.0" else -1)]
    with pytest.raises(EngineError, match="the keyword by is a list"):
        scaled(x, by=[2])


def test_a_refused_call_leaves_no_gradient_and_takes_its_keys():
    w = Tensor(np.ones((5, 3), np.float32), requires_grad=True)

    def step(ids):
        w.grad = None
        loss = engine.sum(engine.embedding(engine.dropout(w, p=0.5), ids))
        loss.backward()
        return loss
    losses = {}
    for name, run in (("plain", lambda ids: step(Tensor(ids))), ("replayed", engine.replay(step))):
        engine.seed(3)
        found = []
        for ids in ([0, 9], [0, 1], [9, 9], [2, 4]):
            try:
                found.append(run(np.array(ids)).item())
                assert np.isfinite(w.grad.numpy()).all()
            except IndexRangeError:
                assert w.grad is None
        losses[name] = found
    assert len(losses["plain"]) == 2 and losses["plain"] == losses["replayed"]


def test_random_keys_are_those_of_the_plain_step():
    def step(x):
        return engine.dropout(engine.dropout(x, p=0.4), p=0.3)

    x, replayed = np.ones((6, 50), np.float32), engine.replay(step)
    engine.seed(5)
    plain = [step(Tensor(x)) for _ in range(5)]
    engine.seed(5)
    found = [replayed(x) for _ in range(5)]
    for a, b in zip(plain, found, strict=True):
        _equal(a, b)
    assert (plain[0].numpy() != plain[1].numpy()).any()
    after = engine.random.get_state()
    engine.seed(5)
    for _ in range(5):
        step(Tensor(x))
    assert engine.random.get_state() == after


def test_fused_and_unfused_are_recorded_apart():
    step = engine.replay(lambda x: engine.softmax(x))
    x = np.linspace(-3, 3, 12, dtype=np.float32).reshape(3, 4)
    for _ in range(3):
        _equal(step(x), engine.softmax(Tensor(x)))
        with engine.unfused():
            _equal(step(x), engine.softmax(Tensor(x)))


def test_results_in_any_nesting():
    step = engine.replay(lambda x: {"twice": x * 2, "all": [x + 1, (x, "text", None)]})
    found = step(np.float32(3))
    assert found["twice"].item() == 6 and found["all"][0].item() == 4
    assert found["all"][1][0].item() == 3 and found["all"][1][1:] == ("text", None)


# --- what cannot be repeated ----------------------------------------------------------------------
@recorded
@pytest.mark.parametrize("read", [lambda x: x.item(), lambda x: x.numpy(), lambda x: x.data, bool, float,
                                  lambda x: x.tolist(), Tensor, lambda x: x.__setitem__((), 1.0)])
def test_reading_a_number_is_refused_by_name(read):
    def step(x):
        with engine.scope("block"):
            y = x * 2
        read(y)
        return y

    with pytest.raises(GraphError, match=r"the output of block/mul of shape \(\) is read while a step is recorded"):
        engine.replay(step)(1.0)


@recorded
def test_a_batch_that_is_no_argument_is_found_out():
    batches = iter(np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32))
    step = engine.replay(lambda x: x + Tensor(next(batches)))
    step(np.zeros(3, np.float32))
    with pytest.raises(GraphError, match=r"cannot be replayed: in two recordings .*, add reads another array"):
        step(np.zeros(3, np.float32))


@recorded
def test_a_number_that_is_no_argument_is_found_out():
    rates = iter([0.1, 0.2])
    step = engine.replay(lambda x: engine.dropout(x, p=next(rates)))
    step(np.zeros((3, 4), np.float32))
    with pytest.raises(GraphError, match=r"dropout runs .* with other sizes or parameters"):
        step(np.zeros((3, 4), np.float32))


@recorded
def test_a_gradient_from_before_is_refused():
    w = Tensor([1.0, 2.0], requires_grad=True, name="w")
    w.sum().backward()
    with pytest.raises(GraphError, match=r"w has a gradient from before the step"):
        engine.replay(lambda x: (w * x).sum().backward())(1.0)


def test_an_argument_that_is_no_number():
    with pytest.raises(EngineError, match="argument 1 is a str"):
        engine.replay(lambda x, y: x)(1.0, "fast")
    with pytest.raises(EngineError, match="at least one"):
        engine.replay(lambda x: x, plans=0)


@recorded
def test_values_are_checked_at_every_run():
    table = Tensor(np.eye(3, dtype=np.float32))
    step = engine.replay(lambda ids: engine.embedding(table, ids))
    for _ in range(3):
        step(np.array([0, 2]))
    with pytest.raises(engine.IndexRangeError, match="3"):
        step(np.array([0, 3]))
    assert step(np.array([1])).tolist() == [[0, 1, 0]]


@recorded
def test_an_error_in_the_step_leaves_nothing_behind():
    w = Tensor([1.0, 2.0], requires_grad=True)

    def step(x):
        (w * x).sum().backward()
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        engine.replay(step)(1.0)
    assert w.grad is None and (w * 2).tolist() == [2, 4]


# --- memory, plans, threads -----------------------------------------------------------------------
@recorded
def test_only_the_last_plans_are_kept():
    step = engine.replay(lambda x: x * 2, plans=2)
    for n in (1, 2, 3, 1, 2, 3):
        assert step(np.ones(n, np.float32)).tolist() == [2] * n
    assert [p.inputs[0].shape for p in step.plans()] == [(2,), (3,)]


@recorded
def test_no_memory_is_allocated_once_the_shape_is_known():
    w = Tensor(np.ones((256, 256), np.float32), requires_grad=True)

    def step(x):
        w.grad = None
        engine.softmax(x @ w).sum().backward()
        w.grad = None

    replayed, x = engine.replay(step), np.ones((2048, 256), np.float32)
    for _ in range(3):
        replayed(x)
    tracemalloc.start()
    try:
        for _ in range(5):
            replayed(x)
        assert tracemalloc.get_traced_memory()[1] < x.nbytes / 8
    finally:
        tracemalloc.stop()


BUFFERS = st.lists(st.builds(lambda size, first, more: Buffer(size, first, first + more), st.integers(1, 500),
                             st.integers(0, 12), st.integers(0, 6)), max_size=25)


@given(BUFFERS)
def test_buffers_that_live_together_lie_apart(buffers):
    offsets, total = layout(buffers)
    ends = [at + b.size for at, b in zip(offsets, buffers, strict=True)]
    assert all(at % LINE == 0 for at in offsets) and all(end <= total for end in ends)
    for i, a in enumerate(buffers):
        for j, b in enumerate(buffers[:i]):
            if a.first <= b.last and b.first <= a.last:
                assert ends[i] <= offsets[j] or ends[j] <= offsets[i]


def test_the_memory_is_no_larger_than_needed():
    chain = [Buffer(1000, i, i + 1) for i in range(20)]
    assert layout(chain)[1] == 2 * 1024, "two neighbours of a chain live together, never three"


def test_several_threads_share_a_replayed_step():
    step = engine.replay(lambda x: (x @ x.mT).tanh().sum())
    wrong = []

    def work(seed):
        x = np.random.default_rng(seed).normal(size=(40, 40)).astype(np.float32)
        t = Tensor(x)                    # one tensor, as in the step: NumPy knows a matrix times itself
        expected = (t @ t.mT).tanh().sum().item()
        wrong.extend(1 for _ in range(20) if step(x).item() != expected)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


@recorded
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_recordings_of_rising_sizes_share_one_memory(device: str) -> None:
    if device == "cuda":
        pytest.importorskip("greenlet")
    with engine.default_device(device):
        w = Tensor(np.float32([[2.0]]))
        run = engine.replay(lambda x: engine.sum(engine.tanh(x @ w) * 2, axis=0))
        inputs = [np.full((n, 1), 0.1 * n, np.float32) for n in (100, 700, 3000, 500)]
        expected = [run(x).numpy() for x in inputs]
        assert [plan.memory is not None for plan in run.plans()] == [False, False, True, True]
        assert len({id(plan.memory) for plan in run.plans() if plan.memory is not None}) == 1
        for x, y in zip(inputs, expected, strict=True):
            np.testing.assert_array_equal(run(x).numpy(), y)
        assert len({id(plan.memory) for plan in run.plans()}) == 1
