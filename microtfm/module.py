"""Modules: parameters as a named tree. Calling a module opens a scope of its name, so that a drawing can fold it."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatch
from typing import Any, Self

import numpy as np

from engine import Tensor, place, scope
from microtfm.errors import UserError


def parameter(values: Tensor) -> Tensor:
    """A tensor that learns."""
    values.requires_grad = True
    return values


class Module:
    """Something with parameters and a `forward`.

    Attributes that are tensors made by `parameter`, modules, or lists of modules form a tree; a parameter's name is its
    path, `encoder.layers.0.feed_forward.linear1.weight`. A parameter that stands at two places (tied weights) is one
    parameter, named after the first.
    """
    name: str = ""
    training: bool = True
    forward: Callable[..., Any]

    def __setattr__(self, key: str, value: Any) -> None:
        if isinstance(value, Module) and not value.name:
            value.name = key
        elif isinstance(value, list):
            for i, item in enumerate(value):
                if isinstance(item, Module):
                    item.name = f"{key}.{i}"
        object.__setattr__(self, key, value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with scope(self.name or type(self).__name__):
            return self.forward(*args, **kwargs)

    # -- the tree
    def children(self) -> Iterator[tuple[str, Module]]:
        """Name and module of each direct child, in the order of definition."""
        for key, value in vars(self).items():
            if isinstance(value, Module):
                yield key, value
            elif isinstance(value, list):
                yield from ((f"{key}.{i}", item) for i, item in enumerate(value) if isinstance(item, Module))

    def modules(self) -> Iterator[Module]:
        """This module and all below it."""
        yield self
        for _, child in self.children():
            yield from child.modules()

    def _walk(self, path: str) -> Iterator[tuple[str, Tensor]]:
        for key, value in vars(self).items():
            if isinstance(value, Tensor) and not key.startswith("_"):
                yield path + key, value
        for key, child in self.children():
            yield from child._walk(f"{path}{key}.")

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Path and tensor of every parameter, each once; also names the tensors by their paths, for messages."""
        seen: set[int] = set()
        for path, tensor in self._walk(""):
            if id(tensor) not in seen:
                seen.add(id(tensor))
                tensor.name = path
                yield path, tensor

    def parameters(self) -> list[Tensor]:
        """The parameters that learn (frozen ones are left out)."""
        return [t for _, t in self.named_parameters() if t.requires_grad]

    def count(self) -> int:
        """How many numbers the parameters hold, tied weights counted once."""
        return sum(t.size for _, t in self.named_parameters())

    # -- where the numbers live
    @property
    def device(self) -> str:
        """Where its parameters are: "cpu" or "cuda"."""
        return next((t.device for _, t in self._walk("")), "cpu")

    def to(self, device: str) -> Self:
        """Move its parameters in place to "cpu", "cuda" or "auto". Raises DeviceError where it cannot be used."""
        before = self.device
        place([t for _, t in self.named_parameters()], device)
        if self.device != before:
            for module in self.modules():
                module.kept().clear()
        return self

    def kept(self) -> dict[Any, Any]:
        """What was made for its parameters where they are, to be used again; gone once they move."""
        found: dict[Any, Any] = self.__dict__.setdefault("_kept", {})
        return found

    def __getstate__(self) -> dict[str, Any]:
        """What a copy or a pickle of it has, too: all but what was made to be used again."""
        return {key: value for key, value in vars(self).items() if key != "_kept"}

    # -- modes
    def train(self, mode: bool = True) -> Module:
        """Dropout on (or off) in this module and below."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Module:
        """Dropout off."""
        return self.train(False)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for _, t in self.named_parameters():
            t.grad = None

    def freeze(self, *patterns: str) -> list[str]:
        """Stop parameters from learning, by name or pattern (`encoder.*`). Returns their names; none is an error."""
        return self._set_learning(False, patterns or ("*",))

    def unfreeze(self, *patterns: str) -> list[str]:
        """Let parameters learn again, by name or pattern. Returns their names; none is an error."""
        return self._set_learning(True, patterns or ("*",))

    def _set_learning(self, learns: bool, patterns: tuple[str, ...]) -> list[str]:
        named = list(self.named_parameters())
        chosen = []
        for pattern in patterns:
            hits = [(name, t) for name, t in named if fnmatch(name, pattern) or name.startswith(pattern + ".")]
            if not hits:
                raise UserError(f"no parameter is called {pattern!r}. There are: {', '.join(n for n, _ in named)}")
            chosen += hits
        for _, t in chosen:
            t.requires_grad = learns
        return [name for name, _ in chosen]

    # -- values
    def state_dict(self) -> dict[str, np.ndarray]:
        """A copy of every parameter's values, by name."""
        return {name: t.numpy() for name, t in self.named_parameters()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the values of a state dict, all or nothing.

        Raises UserError listing missing and unexpected names and shapes that differ.
        """
        own = dict(self.named_parameters())
        wrong = []
        if missing := sorted(own.keys() - state.keys()):
            wrong.append(f"missing: {', '.join(missing)}")
        if unexpected := sorted(state.keys() - own.keys()):
            wrong.append(f"unexpected: {', '.join(unexpected)}")
        wrong += [f"{name} has shape {np.shape(state[name])}, the model has {t.shape}"
                  for name, t in own.items() if name in state and np.shape(state[name]) != t.shape]
        if wrong:
            raise UserError("these parameters do not fit the model: " + "; ".join(wrong))
        for name, t in own.items():
            t[...] = np.asarray(state[name])
