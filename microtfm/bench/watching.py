"""Seeing every call of an op, by standing in for `Op.__call__`."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

from engine import Op, Tensor


@dataclass(frozen=True)
class Seen:
    """One call of an op."""
    name: str
    inputs: tuple[Any, ...]
    parameters: dict[str, Any]
    out: Tensor
    alone: bool
    """Whether it made no other calls: the op itself did the work, not its meaning."""

    def tensors(self) -> list[Tensor]:
        """The inputs that are given, those of a sequence one by one."""
        flat = [x for given in self.inputs for x in (given if isinstance(given, (list, tuple)) else [given])]
        return [x for x in flat if isinstance(x, Tensor)]


@contextmanager
def watching(tell: Callable[[Seen], None]) -> Iterator[None]:
    """`tell` hears of every call of an op inside, when it is done."""
    plain, made = Op.__call__, 0

    def call(op: Op, *inputs: Any, **parameters: Any) -> Tensor:
        nonlocal made
        made += 1
        before = made
        out = plain(op, *inputs, **parameters)
        tell(Seen(op.name, inputs, parameters, out, made == before))
        return out

    with mock.patch.object(Op, "__call__", call):
        yield
