"""Deep copies and pickles of tensors and modules: independent, and alike in everything else."""
from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import engine
from engine import GraphError, Tensor
from microtfm.layers import Linear
from microtfm.module import Module

pytest.importorskip("greenlet")

COPIES: dict[str, Callable[[Any], Any]] = {"copy": copy.copy, "deepcopy": copy.deepcopy,
                                           "pickle": lambda x: pickle.loads(pickle.dumps(x))}


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("way", COPIES)
def test_a_copy_has_a_gradient_of_its_own(way: str, device: str) -> None:
    x = Tensor(np.float32([1, 2]), requires_grad=True, name="x", device=device)
    x.axes = ("B",)
    engine.sum(x * x).backward()
    assert x.grad is not None
    y = COPIES[way](x)
    assert (y.name, y.axes, y.device, y.requires_grad, y.tolist()) == ("x", ("B",), device, True, [1, 2])
    assert y.grad.tolist() == [2, 4]
    y.grad[0] = 7
    assert x.grad.tolist() == [2, 4]
    y.grad = None
    engine.sum(y * y * y).backward()
    y[0] = 9
    assert y.grad.tolist() == [3, 12]
    assert x.tolist() == [1, 2] and x.grad is not None and x.grad.tolist() == [2, 4]


@pytest.mark.parametrize("way", COPIES)
def test_what_does_not_learn_stays_so(way: str) -> None:
    x = Tensor([1, 2])
    frozen = Tensor(np.float32([1.0]), requires_grad=True)
    frozen.requires_grad = False
    ids, still = COPIES[way](x), COPIES[way](frozen)
    assert ids.dtype == np.int64 and not ids.requires_grad and not still.requires_grad and still.node.frozen


@pytest.mark.parametrize("way", COPIES)
def test_results_are_copied_without_a_history_or_not_at_all(way: str) -> None:
    x = Tensor(np.float32([1, 2]), requires_grad=True)
    with pytest.raises(GraphError, match=r"the output of mul has a history.*detach\(\)"):
        COPIES[way](x * 2)
    assert COPIES[way]((x * 2).detach()).tolist() == COPIES[way](Tensor(np.float32([1, 2])) * 2).tolist() == [2, 4]


class Tied(Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        self.first, self.second = Linear(3, 3), Linear(3, 3)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_a_copied_module_learns_alone_and_keeps_what_is_shared(way: str, device: str) -> None:
    model = Tied().to(device)
    model.kept()["recording"] = lambda: None             # what cannot be copied, and need not
    other = COPIES[way](model)
    assert other.second.weight is other.first.weight and other.kept() == {}
    x = Tensor(np.ones((2, 3), np.float32), device=device)
    engine.sum(other(x)).backward()
    assert all(p.grad is not None for p in other.parameters())
    assert all(p.grad is None for p in model.parameters())
    np.testing.assert_array_equal(other(x).numpy(), model(x).numpy())
