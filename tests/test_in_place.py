"""`engine.update` and `global_norm` on both devices: what they refuse before anything changes, and extreme norms."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import engine
from engine import DeviceError, DtypeError, EngineError, IndexRangeError, ShapeError, Tensor

pytest.importorskip("greenlet")

ONES = np.ones((2, 3), np.float32)


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def tensors(device: str, *arrays: Any) -> list[Tensor]:
    return [Tensor(a, device=device) for a in arrays]


SGD: dict[str, Any] = {"lr": 0.1, "weight_decay": [0.0]}
REFUSED: dict[str, tuple[type[EngineError], str, str, tuple[list[np.ndarray], ...], dict[str, Any]]] = {
    "other shapes": (ShapeError, "copy", r"shape \(2, 3\), and what goes with it \(3,\)", ([ONES], [ONES[0]]), {}),
    "shapes that would broadcast": (ShapeError, "average", "and what goes with it", ([ONES], [ONES[:1]]),
                                    {"step": 1, "window": 4.0}),
    "other dtypes": (DtypeError, "sgd", "float32, and what goes with it float64", ([ONES], [ONES.astype("f8")]), SGD),
    "whole numbers": (DtypeError, "sgd", "changes float32 and float64 tensors, and an unnamed tensor is int64",
                      ([np.arange(3)], [np.arange(3)]), SGD),
    "counters that are no whole numbers": (DtypeError, "count", "int64", ([ONES],), {}),
    "lists of other lengths": (EngineError, "accumulate", "equal length, not of 2, 1 tensors", ([ONES, ONES], [ONES]),
                               {}),
    "too few lists": (EngineError, "adam", "takes 4 lists of tensors, not 2", ([ONES], [ONES]), {}),
    "too wide": (ShapeError, "write", "all axes but the last but one must agree", ([ONES], [ONES[:, :2]]), {"at": 0}),
    "another batch": (ShapeError, "write", "must agree", ([ONES[None]], [np.stack([ONES[:1]] * 2)]), {"at": 0}),
    "too far": (IndexRangeError, "write", "from position 1 on: that is outside its 2 positions", ([ONES], [ONES]),
                {"at": 1}),
    "before the beginning": (IndexRangeError, "write", "from position -1 on", ([ONES], [ONES[:1]]), {"at": -1}),
    "half a position": (DtypeError, "write", "`at` is a whole number or a tensor of one, not 1.5", ([ONES], [ONES[:1]]),
                        {"at": 1.5}),
    "no position at all": (DtypeError, "write", "not None", ([ONES], [ONES[:1]]), {"at": None}),
    "no step": (EngineError, "average", "step is 0, and steps count from 1", ([ONES], [ONES]),
                {"step": 0, "window": 4.0}),
    "too few decays": (EngineError, "sgd", "1 weight decays for 2 tensors", ([ONES, ONES], [ONES, ONES]), SGD),
    "two rates": (ShapeError, "sgd", r"lr is a single number, not of shape \(2,\)", ([ONES], [ONES]),
                  SGD | {"lr": Tensor([0.1, 0.2])}),
    "no position": (DtypeError, "write", "`at` is a whole number", ([ONES], [ONES[:1]]), {"at": Tensor([0.5, 1.0])}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_and_changes_nothing(case: str, device: str) -> None:
    kind, rule, message, lists, settings = REFUSED[case]
    given = [tensors(device, *many) for many in lists]
    settings = {name: x.to(device) if isinstance(x, Tensor) else x for name, x in settings.items()}
    with pytest.raises(kind, match=message):
        engine.update(rule, *given, **settings)
    for made, many in zip(given, lists, strict=True):
        for t, array in zip(made, many, strict=True):
            np.testing.assert_array_equal(t.numpy(), array)


def test_numbers_may_be_arrays_of_one(device: str) -> None:
    one = np.array([1.0])
    for rule, more in (("sgd", {}), ("adam", {"beta1": 0.5, "beta2": 0.5, "eps": 1e-3, "step": np.array([1])})):
        found = []
        for lr in (0.1, np.array([0.1]), np.float32([[0.1]])):
            p, g, *slots = tensors(device, *[ONES + 1] * (4 if rule == "adam" else 2))
            engine.update(rule, [p], [g], *([t] for t in slots), lr=lr, divisor=2 * one, norm=3 * one, clip_norm=1.0,
                          weight_decay=[0.0], **more)
            found.append(p.numpy())
        np.testing.assert_array_equal(found[1], found[0])
        np.testing.assert_allclose(found[2], found[0], rtol=1e-6)


def test_a_tensor_that_changes_twice_is_refused(device: str) -> None:
    p, g = tensors(device, ONES, ONES)
    with pytest.raises(EngineError, match="a tensor stands twice"):
        engine.update("sgd", [p, p], [g, g], lr=1.0, weight_decay=[0.0, 0.0])


def test_two_devices_are_refused() -> None:
    here, there = Tensor(ONES), Tensor(ONES, device="cuda")
    for lists, settings in (([[here], [there]], {}), ([[here], [here]], {"norm": Tensor(np.float64(1), device="cuda")}),
                            ([[there], [there]], {"lr": Tensor(0.1)})):
        with pytest.raises(DeviceError, match="tensors are on cpu and cuda"):
            engine.update("sgd", *lists, **SGD | settings)
    with pytest.raises(DeviceError, match="tensors are on cpu and cuda"):
        engine.global_norm([here, there])
    x = Tensor(ONES, requires_grad=True)
    with pytest.raises(DeviceError, match="the cotangent is on cuda, the output of mul on cpu"):
        (x * 2).backward(there)
    assert x.grad is None


def test_memory_that_is_not_contiguous_is_refused(device: str) -> None:
    with pytest.raises(EngineError, match="do not lie one behind the other"):
        engine.update("copy", [Tensor(ONES, device=device).T], [Tensor(ONES.T.copy(), device=device)])


@pytest.mark.parametrize("columns_first", [False, True])
def test_positions_in_memory_write_what_lies_inside(columns_first: bool, device: str) -> None:
    """Where `at` is known only on the card, or in a step that is replayed."""
    with engine.default_device(device):
        cache = np.zeros((2, 5, 3), np.float32)
        kept = Tensor(np.zeros((2, 3, 5), np.float32)).swapaxes(1, 2) if columns_first else Tensor(cache)
        write = engine.replay(lambda x, at: engine.update("write", [kept], [x], at=at))
        x = np.random.default_rng(0).standard_normal((2, 2, 3)).astype(np.float32)
        for at in (0, 3, 4, -1, 5, -2, 70, 1):
            write(x, at)
            for t in range(2):
                if 0 <= at + t < 5:
                    cache[:, at + t] = x[:, t]
            np.testing.assert_array_equal(kept.numpy(), cache)
            x = x + 1


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.uint8, np.int64])
def test_whole_numbers_of_any_kind_are_read_at_every_run(dtype: type, device: str) -> None:
    with engine.default_device(device):
        cache, mean, x = Tensor(np.zeros((6, 1), np.float32)), Tensor(np.float32([0.0])), Tensor(np.float32([1.0]))

        def step(at: Tensor, norm: Tensor) -> Tensor:
            engine.update("write", [cache], [x.reshape(1, 1)], at=at)
            engine.update("average", [mean], [x], step=at, window=1000.0, norm=norm)
            return at + 0
        run = engine.replay(step)
        for at, norm in ((1, 1.0), (3, np.nan), (5, 2.0)):
            run(np.array(at, dtype), np.array(norm, np.float32))
        assert cache.numpy()[:, 0].tolist() == [0, 1, 0, 1, 0, 1]
        assert mean.item() == 1.0                        # the first step's share is 1; the second changes nothing


@pytest.mark.parametrize("dtype", [np.int64, np.float16, bool])
def test_other_numbers_are_copied_and_written_too(dtype: type, device: str) -> None:
    a, b = tensors(device, np.zeros((3, 2), dtype), np.ones((3, 2), dtype))
    engine.update("copy", [a], [b])
    assert a.tolist() == b.tolist()
    engine.update("write", [a], tensors(device, np.zeros((1, 2), dtype)), at=1)
    assert a.tolist() == np.array([[1, 1], [0, 0], [1, 1]], dtype).tolist()


# --- norms ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("value", [3.0, 1e25, 3e38, 1e-19, 1e-30, 1e-42, 0.0, np.inf, np.nan])
def test_norms_neither_overflow_nor_vanish(value: float, device: str) -> None:
    x = np.full(5000, 1.0, np.float32) * np.float32(value)
    x[::3] = 0
    found = engine.global_norm(tensors(device, x, x[:7])).item()
    np.testing.assert_allclose(found, np.linalg.norm(np.concatenate([x, x[:7]]).astype(np.float64)), rtol=1e-6)


def test_norms_of_numbers_of_all_sizes(device: str) -> None:
    x = np.exp(np.random.default_rng(0).uniform(-90, 88, 9001)).astype(np.float32)
    np.testing.assert_allclose(engine.global_norm(tensors(device, x)).item(), np.linalg.norm(x.astype(np.float64)),
                               rtol=1e-6)


def test_norms_of_gradients_that_are_not_contiguous(device: str) -> None:
    x = Tensor(np.float32([3, 100, 4, 100]), device=device)
    zero = Tensor(np.zeros(1, np.float32), device=device)
    for many, norm in (([x[::2]], 5), ([zero, x[::2]], 5), ([zero, x[::-2]], 100 * 2**0.5)):
        assert engine.global_norm(many).item() == pytest.approx(norm)
    p, q = (Tensor(np.ones((2, 2), np.float32), requires_grad=True, device=device) for _ in "ab")
    scale = Tensor(np.arange(8, dtype=np.float32).reshape(2, 4), device=device)
    engine.sum(engine.concat([p, q], axis=1) * scale).backward()
    assert p.grad is not None and q.grad is not None
    assert engine.global_norm([zero, p.grad, q.grad]).item() == pytest.approx(140**0.5)


def test_norms_are_of_floating_tensors(device: str) -> None:
    for dtype in (np.int64, np.float16):
        with pytest.raises(DtypeError, match="it is of float32 and float64 tensors"):
            engine.global_norm(tensors(device, np.ones(3, dtype)))
