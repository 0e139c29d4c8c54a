"""Copies and pickles of tensors: a leaf like it, with numbers, a record and a gradient of its own."""
from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from engine.core import Tensor
from engine.errors import GraphError


def deepcopy(t: Tensor, memo: dict[int, Any]) -> Tensor:
    """For `copy.deepcopy` and `copy.copy`: independent of t, and equal to it also in device, name, axes and whether it
    learns."""
    _refuse_history(t, "copied")
    made = _leaf(t.read(), t.device, *_about(t))
    memo[id(t)] = made
    made.grad = copy.deepcopy(t.grad, memo)
    return made


def reduced(t: Tensor) -> tuple[Callable[..., Tensor], tuple[Any, ...]]:
    """For `pickle`: how to make t again. It is loaded to the device that it was on."""
    _refuse_history(t, "pickled")
    t.read()
    return rebuilt, (t.numpy(), t.device, *_about(t), t.grad)


def rebuilt(array: Any, device: str, name: str | None, axes: Any, requires_grad: bool, frozen: bool,
            grad: Tensor | None) -> Tensor:
    """A tensor from a pickle. Raises DeviceError where its device cannot be used."""
    made = _leaf(array, device, name, axes, requires_grad, frozen)
    made.grad = grad
    return made


def _about(t: Tensor) -> tuple[Any, ...]:
    return t.name, t.axes, t.requires_grad, t.node.frozen


def _leaf(array: Any, device: str, name: str | None, axes: Any, requires_grad: bool, frozen: bool) -> Tensor:
    made = Tensor(array, requires_grad=requires_grad, name=name, device=device)
    made.axes, made.node.frozen = axes, frozen
    return made


def _refuse_history(t: Tensor, what: str) -> None:
    if t.op is not None and t.requires_grad:
        raise GraphError(f"{t.node.label()} has a history, which is not {what}. Use detach() first.")
