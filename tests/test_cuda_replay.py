"""Replay on a card, here a simulated one: every op, its gradient, and ids that the step itself makes of others."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import engine
from engine import OPS, GraphError, IndexRangeError, Op, Real, Tensor, default_device, grad
from engine.check import Call, calls, differentiable
from engine.kernels.cpu import jit_disabled
from microtfm.learner import Learner
from microtfm.optim import Adam
from microtfm.recurrent import Recurrent
from microtfm.settings import ModelSettings, TrainSettings
from tests.test_contract import PLACES, ROWS, USES_OF_MANY
from tests.test_learner import batch

pytest.importorskip("greenlet")
pytestmark = [pytest.mark.skipif(jit_disabled(), reason="nothing is recorded"),
              pytest.mark.filterwarnings("ignore:.*cannot be part of a CUDA graph:RuntimeWarning")]  # on a real card

TABLE = np.arange(10, dtype=np.float32).reshape(5, 2)


@pytest.fixture(autouse=True)
def _on_a_card() -> Any:
    with default_device("cuda"):
        yield


# --- every op -------------------------------------------------------------------------------------
def step_of(op: Op, call: Call) -> tuple[Callable[..., Any], list[np.ndarray]]:
    """A step that runs an op and its gradient, and the step's arguments."""
    given = [i for i, a in enumerate(call.arrays) if a is not None]
    arrays = {i: np.array(call.arrays[i], order="C") for i in given}
    leaves = {i: Tensor(arrays[i], requires_grad=True) for i in given
              if isinstance(op.kind(i), Real) and differentiable(op)}

    def step(*arguments: Tensor) -> list[Tensor]:
        inputs: list[Any] = [None] * len(call.arrays)
        for i, argument in zip(given, arguments, strict=True):
            inputs[i] = leaves.get(i, argument)
        y = call.on(op, inputs)
        return [y, *(grad(engine.sum(y * y), list(leaves.values())) if y.requires_grad else [])]
    return step, list(arrays.values())


@pytest.mark.parametrize("op", [op for op in OPS.values() if op.name != "to"], ids=lambda op: op.name)
@settings(max_examples=2)
@given(data=st.data())
def test_every_op_replays_with_its_own_bits(op: Op, data: Any) -> None:
    step, arrays = step_of(op, data.draw(calls(op, np.float32)))
    expected, replayed = step(*map(Tensor, arrays)), engine.replay(step)
    for _ in range(3):
        for mine, wanted in zip(replayed(*arrays), expected, strict=True):
            assert mine.device == wanted.device == "cuda"
            np.testing.assert_array_equal(mine.numpy(), wanted.numpy())


@pytest.mark.parametrize("ord", [1, 2, 3, 0.5, np.inf])
@pytest.mark.parametrize("x", [2.5, [1.0, 2.0]])
def test_the_gradient_of_a_norm_is_that_of_the_processor(ord: float, x: Any) -> None:
    found = []
    for device in ("cpu", "cuda"):
        with default_device(device):
            p = Tensor(x, requires_grad=True)
            slope = engine.replay(lambda z: grad(engine.norm(p, ord=ord) * z, [p])[0])   # noqa: B023
            found.append([slope(2.0).numpy() for _ in range(3)])
    np.testing.assert_allclose(found[1], found[0], rtol=1e-6)


def test_a_recurrent_step_of_more_positions_than_an_array_library_joins_by_itself() -> None:
    """CuPy sends the addresses of more than eight arrays to the card, which no graph can hold."""
    said = []
    for replay in (False, True):
        engine.seed(3)
        model = Recurrent(ModelSettings(kind="rnn", d_model=8, layers=1, dropout=0.1, tie="none"), 40, 50)
        learn = Learner(model, Adam(model.named_parameters(), 1e-3), TrainSettings(), replay)
        said.append([learn([batch(3, 12, seed)], 1e-3, 30) for seed in range(3)])
        steps = [step for plan in learn._learn.plans() for step in plan.steps] if replay else []
        assert not any(_runs(step) is OPS["concat"] for step in steps)
    assert steps and said[0] == said[1]


@pytest.mark.parametrize("index", [
    np.array([2, 0, 2]), (np.array([[1], [0]]), ..., None), np.arange(4) % 2 == 0, np.eye(4, 3, dtype=bool),
    (np.array([True, False, False, True]), np.array([1, 2])), (..., np.array([False, True, True])), np.array(1),
    (np.array([True, False, False, True]), slice(None), None), [3, 1]], ids=repr)
def test_constant_indices_lie_on_the_card_with_the_step(index: Any) -> None:
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    look = engine.replay(lambda x: x[index] * 2)
    for n in range(3):
        np.testing.assert_array_equal(look(x + n).numpy(), (x + n)[index] * 2)
    for step in next(iter(look.plans())).steps:
        parts = step.function.args[1]["index"] if _runs(step) is OPS["getitem"] else ()
        assert not any(isinstance(part, np.ndarray) for part in (parts if isinstance(parts, tuple) else (parts,)))


def test_an_op_of_ones_own_is_given_its_parameters_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that is called as getitem's."""
    monkeypatch.setattr("engine.record.OPS", {})
    kept = engine.op("kept", lambda x, *, index: x / index.sum(), None, signature=None, shape=lambda s, *, index: s)
    x, index = np.float32([6, 6, 6]), np.array([False, True, True])
    run = engine.replay(lambda x: kept(x, index=index))
    for _ in range(2):
        assert run(x).tolist() == kept(Tensor(x), index=index).tolist() == [3, 3, 3]


def test_a_mask_on_the_card_is_looked_at_when_the_step_is_recorded() -> None:
    mask = Tensor(np.array([True, False, True]))
    run = engine.replay(lambda x: x[mask] + 1)
    for n in range(2):
        assert run(np.float32([1, 2, 3]) + n).tolist() == [2 + n, 4 + n]


def _runs(step: Any) -> Op | None:
    """The op whose meaning a step of a recording runs, if it is one."""
    return next((a for a in getattr(getattr(step, "function", None), "args", ()) if isinstance(a, Op)), None)


# --- ids of the engine's own ----------------------------------------------------------------------
@pytest.mark.parametrize("step", [
    engine.sort, lambda x: engine.sort(x, axis=None), lambda x: engine.topk(x, k=2)[0],
    lambda x: engine.take_along_axis(x, engine.topk(x, k=2, largest=False)[1][:, ::-1]),
    lambda x: engine.repeat(x, 2, axis=0), lambda x: engine.repeat(x, 3),
    lambda x: engine.take(Tensor(TABLE), engine.argmax(x, axis=-1), axis=0),
    lambda x: engine.one_hot(engine.argmin(x, axis=-1), size=3),
])
def test_places_that_the_engine_finds_can_be_looked_up(step: Callable[..., Any]) -> None:
    replayed = engine.replay(step)
    for seed in range(3):
        x = np.random.default_rng(seed).standard_normal((4, 3)).astype(np.float32)
        np.testing.assert_array_equal(replayed(x).numpy(), step(Tensor(x)).numpy())


def test_places_beyond_the_table_are_refused_before_anything_runs() -> None:
    x, last = np.zeros((2, 7), np.float32), np.float32([[0, 0, 0, 0, 0, 0, 1]] * 2)
    for step in (lambda x: engine.embedding(Tensor(TABLE), engine.argmax(x, axis=-1)),
                 lambda x: engine.embedding(Tensor(TABLE), engine.argmax(x, axis=None)),
                 lambda x: engine.cross_entropy(Tensor(np.ones((2, 5), np.float32)), engine.argmax(x, axis=-1),
                                                ignore_index=6)):
        for places in (x, last):
            with pytest.raises(GraphError, match="looks ids up that the step itself computes"):
                engine.replay(step)(places)


# --- ids that the step makes of others ------------------------------------------------------------
MAKE: dict[str, Callable[[Tensor], Tensor]] = {
    "joined": lambda i: engine.concat([i, i]),
    "joined and cut": lambda i: engine.concat([i[:, 1:], i], axis=1)[:, ::2],
    "added to": lambda i: engine.where(i < 0, i + 5, i).astype(np.int64),
    "multiplied and divided": lambda i: (6 * i - i) // 5 + engine.abs(i * i) % 1,
    "padded, turned and rolled": lambda i: engine.roll(engine.flip(engine.pad(i, ((1, 0), (0, 2)))), 1, axis=1),
    "the largest and the smallest": lambda i: engine.concat([engine.max(i, axis=0), engine.min(i, axis=0)]),
    "padding left out": lambda i: engine.where(engine.equal(i, 9), 0, i),
    "repeated": lambda i: engine.repeat(i, 2, axis=0),
    "doubled often": lambda i: (i + i + i + i) - i - i - i,
    "spread": lambda i: engine.tile(i, reps=(2, 1)).reshape(-1)}


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_ids_made_of_ids_are_checked_before_the_step(make: Callable[[Tensor], Tensor]) -> None:
    table = Tensor(TABLE, requires_grad=True)

    def step(ids: Tensor) -> tuple[Tensor, Tensor]:
        y = engine.embedding(table, make(ids))
        return y, grad(engine.sum(y * y), table)
    look, good = engine.replay(step), np.array([[0, 1, 2], [4, 3, 4]])
    for ids in (good, good[::-1].copy(), good % 3):
        for mine, wanted in zip(look(ids), step(Tensor(ids)), strict=True):
            np.testing.assert_array_equal(mine.numpy(), wanted.numpy())
    for bad in (5, -11, 2**40):
        with pytest.raises(IndexRangeError, match="out of range for 5 rows"):
            look(np.where(good == 4, bad, good))
    assert look(good)[0].numpy()[0].tolist() == step(Tensor(good))[0].numpy()[0].tolist()


@pytest.mark.parametrize("use", USES_OF_MANY.values(), ids=USES_OF_MANY)
@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_ids_whose_dtype_does_not_hold_the_size_replay(use: Callable[..., Tensor], dtype: Any) -> None:
    for device in ("cpu", "cuda"):
        with default_device(device):
            x = Tensor(ROWS, requires_grad=True)

            def step(ids: Tensor, x: Tensor = x) -> tuple[Tensor, Tensor]:
                y = use(ids, x)
                return y, grad(engine.sum(y * y), x)
            look = engine.replay(step)
            for places in (PLACES, PLACES[::-1], PLACES):
                mine, wanted = look(np.array(places, dtype)), step(Tensor(places))
                assert [t.tolist() for t in mine] == [t.tolist() for t in wanted]
            look(np.array(PLACES, np.int16))
            with pytest.raises(IndexRangeError, match="id 600 is out of range"):
                look(np.array([600, 0, 1, 2], np.int16))


def test_ids_divided_by_zero_are_refused() -> None:
    look = engine.replay(lambda i, by: engine.embedding(Tensor(TABLE), i % by))
    assert look(np.array([7, 9]), 5).numpy().tolist() == TABLE[[2, 4]].tolist()
    with pytest.raises(GraphError, match="remainder divides by zero"):
        look(np.array([7, 9]), 0)


def test_bad_ids_that_only_pick_other_ids_are_refused() -> None:
    look = engine.replay(lambda ids, which: engine.embedding(Tensor(TABLE), engine.take(ids, which, axis=0)))
    ids = np.array([1, 7, 3])
    for which in ([0, 2], [2, -3]):
        assert look(ids, np.array(which)).shape == (2, 2)
    with pytest.raises(IndexRangeError, match="id 7 is out of range for 5 rows"):
        look(ids, np.array([0, 1]))
    with pytest.raises(IndexRangeError, match="id 3 is out of range for 3 rows"):
        look(ids, np.array([0, 3]))


def test_ids_from_outside_are_checked_at_every_run() -> None:
    ids = Tensor([1, 4])
    look = engine.replay(lambda x: engine.embedding(Tensor(TABLE), ids) * x)
    for _ in range(3):
        assert look(2.0).tolist() == [[4, 6], [16, 18]]
    ids[1] = 5
    with pytest.raises(IndexRangeError, match="id 5 is out of range for 5 rows"):
        look(2.0)


def test_ids_that_nobody_knows_before_the_step_are_refused() -> None:
    kept = Tensor([1, 2])

    def overwritten(ids: Tensor) -> Tensor:
        engine.update("copy", [kept], [ids])
        return engine.embedding(Tensor(TABLE), kept)

    for step, numbers in (
            (lambda x: engine.embedding(Tensor(TABLE), x.astype(np.int64)), np.float32([1, 2])),
            (lambda x: engine.embedding(Tensor(TABLE), engine.where(x > 0, 1, 2)), np.float32([1, 2])),
            (lambda i: engine.embedding(Tensor(TABLE), i @ i), np.array([1, 2])),
            (overwritten, np.array([1, 9]))):
        with pytest.raises(GraphError, match="embedding looks ids up that the step itself computes"):
            engine.replay(step)(numbers)
