"""Optimisers and schedules against what their papers say, and against PyTorch where it is installed."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import engine
from engine import Tensor
from microtfm.errors import UserError
from microtfm.optim import SCHEDULES, SGD, Adam, AdamW, Optimiser, global_norm, rate


def parameters(seed: int = 0) -> list[tuple[str, Tensor]]:
    rng = np.random.default_rng(seed)
    return [("matrix", Tensor(rng.normal(size=(7, 5)).astype(np.float32), requires_grad=True)),
            ("bias", Tensor(rng.normal(size=5).astype(np.float32), requires_grad=True))]


def steps(opt: Optimiser, n: int, seed: int = 1, **kwargs: Any) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(n):
        for _, p in opt.named:
            p.grad = Tensor(rng.normal(size=p.shape).astype(np.float32))
        opt.step(**kwargs)


CASES: dict[str, tuple[Callable[..., Optimiser], dict[str, Any], str, dict[str, Any]]] = {
    "sgd": (SGD, {"lr": 0.1}, "SGD", {"lr": 0.1}),
    "momentum": (SGD, {"lr": 0.1, "momentum": 0.9}, "SGD", {"lr": 0.1, "momentum": 0.9}),
    "adam": (Adam, {"lr": 0.01}, "Adam", {"lr": 0.01, "betas": (0.9, 0.98), "eps": 1e-9}),
    "adam decay": (Adam, {"lr": 0.01, "weight_decay": 0.1}, "Adam",
                   {"lr": 0.01, "betas": (0.9, 0.98), "eps": 1e-9, "weight_decay": 0.1}),
    "adamw": (AdamW, {"lr": 0.01, "weight_decay": 0.1, "betas": (0.9, 0.999), "eps": 1e-8}, "AdamW",
              {"lr": 0.01, "weight_decay": 0.1}),
}


@pytest.mark.parametrize("case", CASES)
def test_updates_are_pytorchs(case: str) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed, so there is nothing to agree with")
    make, ours, peer, theirs = CASES[case]
    opt = make(parameters(), **ours)
    decay = theirs.pop("weight_decay", 0.0)
    tensors = [torch.tensor(p.numpy(), requires_grad=True) for _, p in opt.named]
    groups = [{"params": [t], "weight_decay": decay if t.ndim > 1 else 0.0} for t in tensors]
    peer_opt = getattr(torch.optim, peer)(groups, **theirs)
    rng = np.random.default_rng(1)
    for _ in range(20):
        for (_, p), t in zip(opt.named, tensors, strict=True):
            g = rng.normal(size=p.shape).astype(np.float32)
            p.grad, t.grad = Tensor(g), torch.tensor(g)
        opt.step()
        peer_opt.step()
    for (name, p), t in zip(opt.named, tensors, strict=True):
        np.testing.assert_allclose(p.numpy(), t.detach().numpy(), rtol=2e-5, atol=2e-6, err_msg=name)


def test_adam_follows_algorithm_1() -> None:
    """Kingma & Ba 2015, Algorithm 1, spelt out in float64."""
    p = Tensor(np.array([[1.0, -2.0]], np.float64), requires_grad=True)
    opt = Adam([("p", p)], lr=0.1, betas=(0.9, 0.99), eps=1e-8)
    x, m, v = p.numpy(), 0.0, 0.0
    for t, g in enumerate(([0.5, 1.0], [-1.0, 0.25], [0.0, 3.0]), start=1):
        p.grad = Tensor(np.array([g]))
        opt.step()
        m, v = 0.9 * m + 0.1 * np.array([g]), 0.99 * v + 0.01 * np.array([g]) ** 2
        x = x - 0.1 * (m / (1 - 0.9 ** t)) / (np.sqrt(v / (1 - 0.99 ** t)) + 1e-8)
        np.testing.assert_allclose(p.numpy(), x, rtol=1e-9)


def test_weight_decay_leaves_vectors_alone() -> None:
    opt = AdamW(parameters(), lr=0.1, weight_decay=0.5)
    before = [p.numpy() for _, p in opt.named]
    for _, p in opt.named:
        p.grad = engine.zeros(p.shape)
    opt.step()
    np.testing.assert_allclose(opt.named[0][1].numpy(), before[0] * (1 - 0.1 * 0.5), rtol=1e-6)
    assert (opt.named[1][1].numpy() == before[1]).all()


def test_a_divisor_divides_the_gradients() -> None:
    one, two = SGD(parameters(), lr=0.1), SGD(parameters(), lr=0.05)
    steps(one, 3, divisor=2)
    steps(two, 3)
    for (_, a), (_, b) in zip(one.named, two.named, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-6)


@pytest.mark.parametrize("make", [SGD, Adam])
def test_clipping_shortens_what_is_too_long(make: Any) -> None:
    """Gradients are divided first; clipped to a norm, they are as if they had been multiplied by hand."""
    clipped, scaled = make(parameters(), lr=0.1), make(parameters(), lr=0.1)
    for _, p in [*clipped.named, *scaled.named]:
        p.grad = Tensor(np.full(p.shape, 3.0, np.float32))
    length = global_norm(p for _, p in clipped.named)
    clipped.step(norm=length, clip_norm=0.5, divisor=4)
    for _, p in scaled.named:
        p.grad = Tensor(np.full(p.shape, 3.0 * 0.5 / length.item(), np.float32))
    scaled.step(norm=global_norm(p for _, p in scaled.named), clip_norm=0.6)
    for (_, a), (_, b) in zip(clipped.named, scaled.named, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-6)


@pytest.mark.parametrize("make", [SGD, AdamW])
@pytest.mark.parametrize("wrong", [np.inf, np.nan])
def test_a_norm_that_is_no_number_changes_nothing(make: Any, wrong: float) -> None:
    opt = make(parameters(), lr=0.1, weight_decay=0.1)
    steps(opt, 2)
    before = [*opt.state_dict().values(), *(p.numpy() for _, p in opt.named)]
    opt.named[0][1].grad = Tensor(np.full((7, 5), wrong, np.float32))
    opt.step(norm=global_norm(p for _, p in opt.named), clip_norm=1.0)
    after = [*opt.state_dict().values(), *(p.numpy() for _, p in opt.named)]
    assert all((a == b).all() for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("make", [SGD, Adam])
def test_numbers_and_tensors_give_the_same_bits(make: Any) -> None:
    one, two = make(parameters(), lr=0.5), make(parameters(), lr=0.5)
    steps(one, 3, lr=0.1, norm=7.0, clip_norm=1.0, divisor=3)
    steps(two, 3, lr=Tensor(np.float64(0.1)), norm=Tensor(7), clip_norm=1.0, divisor=Tensor(np.float32(3)))
    assert one.steps == two.steps == 3
    for (_, a), (_, b) in zip(one.named, two.named, strict=True):
        assert (a.numpy() == b.numpy()).all()


def test_huge_gradients_have_a_norm() -> None:
    assert engine.global_norm([Tensor(np.full(4, 1e30, np.float32))]).item() == pytest.approx(2e30)
    assert engine.global_norm([Tensor(np.full(4, 3.0))], Tensor(np.float64(0.5))).item() == 3.0


def test_global_norm() -> None:
    named = parameters()
    for _, p in named:
        p.grad = Tensor(p)
    expected = np.sqrt(sum((p.numpy().astype(np.float64) ** 2).sum() for _, p in named))
    assert global_norm(p for _, p in named).item() == pytest.approx(expected, rel=1e-12)
    assert global_norm([]).item() == 0


@pytest.mark.parametrize("make", [SGD, Adam, AdamW])
def test_state_round_trip_goes_on_with_the_same_bits(make: Any) -> None:
    straight, first, second = (make(parameters(), lr=0.1) for _ in range(3))
    steps(straight, 3, seed=1)
    steps(straight, 3, seed=2)
    steps(first, 3, seed=1)
    second.load_state_dict(first.state_dict())
    for (_, a), (_, b) in zip(second.named, first.named, strict=True):
        a[...] = b
    steps(second, 3, seed=2)
    for (_, a), (_, b) in zip(straight.named, second.named, strict=True):
        assert (a.numpy() == b.numpy()).all()


@pytest.mark.parametrize("make", [SGD, Adam])
def test_an_average_of_the_weights_can_take_their_place(make: Any) -> None:
    opt = make(parameters(), lr=0.1, average=4)
    seen = [[p.numpy().astype(np.float64)] for _, p in opt.named]
    for step in range(1, 6):
        steps(opt, 1, seed=step)
        for values, (_, p) in zip(seen, opt.named, strict=True):
            share = 1 / min(4, 1 + (step - 1) / 10)
            values.append(p.numpy())
            values[0] = values[0] + (values[-1] - values[0]) * share
    with opt.averaged():
        for values, (_, p) in zip(seen, opt.named, strict=True):
            np.testing.assert_allclose(p.numpy(), values[0], rtol=1e-6)
            assert (p.numpy() != values[-1]).any()
    for values, (_, p) in zip(seen, opt.named, strict=True):
        assert (p.numpy() == values[-1]).all()


def test_a_foreign_state_is_refused() -> None:
    opt = Adam(parameters(), lr=0.1)
    state = opt.state_dict()
    state["m.other"] = state.pop("m.bias")
    with pytest.raises(UserError, match=r"m\.bias.*m\.other"):
        opt.load_state_dict(state)


def test_nothing_to_train_is_refused() -> None:
    with pytest.raises(UserError, match="nothing to train"):
        SGD([("x", Tensor([1.0]))], lr=0.1)


def test_a_gradientless_parameter_stays() -> None:
    opt = Adam(parameters(), lr=0.1)
    before = opt.named[0][1].numpy()
    opt.named[1][1].grad = engine.ones((5,))
    opt.step()
    assert (opt.named[0][1].numpy() == before).all()


def test_schedules() -> None:
    assert rate("paper", 100, 1.0, 4000, 512) == pytest.approx(512 ** -0.5 * 100 * 4000 ** -1.5)
    assert rate("paper", 8000, 2.0, 4000, 512) == pytest.approx(2 * 512 ** -0.5 * 8000 ** -0.5)
    assert rate("inverse-sqrt", 300, 0.003, 600, 128) == pytest.approx(0.0015)
    assert rate("inverse-sqrt", 600, 0.003, 600, 128) == pytest.approx(0.003)
    assert rate("inverse-sqrt", 2400, 0.003, 600, 128) == pytest.approx(0.0015)
    assert rate("constant", 5, 0.1, 10, 128) == pytest.approx(0.05)
    assert rate("constant", 5000, 0.1, 10, 128) == pytest.approx(0.1)
    assert rate("constant", 1, 0.1, 0, 128) == pytest.approx(0.1)
    with pytest.raises(UserError, match="cosine"):
        rate("cosine", 1, 0.1, 10, 128)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_cooldown_ends_one_step_before_zero(schedule: str) -> None:
    plain = [rate(schedule, step, 0.1, 10, 128) for step in range(1, 101)]
    cooled = [rate(schedule, step, 0.1, 10, 128, last=100, cooldown=20) for step in range(1, 101)]
    assert cooled[:80] == plain[:80]
    shares = [a / b for a, b in zip(cooled[80:], plain[80:], strict=True)]
    assert shares == pytest.approx([(20 - i) / 21 for i in range(20)])
    assert rate(schedule, 101, 0.1, 10, 128, last=100, cooldown=20) == 0
    assert rate(schedule, 95, 0.1, 10, 128, last=None, cooldown=20) == plain[94]
