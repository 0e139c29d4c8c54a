"""Optimisers and learning-rate schedules (§5.3)."""
from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

import engine
from engine import Tensor
from microtfm.errors import UserError
from microtfm.settings import TrainSettings

MOMENTUM = 0.9                           # of plain gradient descent
SCHEDULES = ("paper", "inverse-sqrt", "constant")
AVERAGE = "average"                      # the slot of the average of the parameters


def rate(schedule: str, step: int, peak: float, warmup: int, d_model: int, last: int | None = None,
         cooldown: int = 0) -> float:
    """The learning rate of update `step` (the first is 1).

    "paper": peak · D^(−½) · min(step^(−½), step · warmup^(−³⁄₂)), equation 3 with a factor in front (the paper's is 1).
    "inverse-sqrt": linear to `peak` at step `warmup`, then peak · √(warmup / step). "constant": linear, then `peak`.
    The last `cooldown` updates up to `last` take less and less of it, in a straight line that would be 0 one update
    later (Zhai et al. 2022, "Scaling Vision Transformers", §3.5; Hägele et al. 2024, "Scaling Laws and Compute-Optimal
    Training Beyond Fixed Training Durations").
    """
    warmup = max(warmup, 1)
    if schedule not in SCHEDULES:
        raise UserError(f"there is no schedule {schedule!r}; there are {', '.join(SCHEDULES)}")
    if cooldown and last is not None and step > last - cooldown:
        peak *= max(0, last + 1 - step) / (cooldown + 1)
    if schedule == "paper":
        return peak * d_model ** -0.5 * min(step ** -0.5, step * warmup ** -1.5)
    if step < warmup:
        return peak * step / warmup
    return peak if schedule == "constant" else peak * math.sqrt(warmup / step)


def global_norm(parameters: Iterable[Tensor]) -> Tensor:
    """The Euclidean norm of all gradients together, a 0-d float64 tensor."""
    return engine.global_norm([p.grad for p in parameters if p.grad is not None])


class Optimiser:
    """Updates parameters from their gradients. `slots` are the running averages it keeps for each parameter.

    average: where it is not 0, also an average of the parameters themselves, over the last tenth of the updates and
    over at most so many, fading (an exponential moving average: Polyak & Juditsky 1992; Popel & Bojar 2018, §4.8 on
    averaging checkpoints, of which this is the form that needs one copy and no choice of checkpoints).
    """
    slots: tuple[str, ...] = ()

    def __init__(self, named_parameters: Iterable[tuple[str, Tensor]], lr: float, weight_decay: float = 0.0,
                 average: int = 0) -> None:
        self.named = [(name, p) for name, p in named_parameters if p.requires_grad]
        if not self.named:
            raise UserError("there is nothing to train: no parameter requires a gradient")
        self.lr, self.weight_decay = lr, weight_decay
        device = self.named[0][1].device
        self.count = Tensor(np.zeros((), np.int64), name="step", device=device)                # updates made so far
        self.kept = {slot: [Tensor(np.zeros(p.shape, p.dtype), device=p.device) for _, p in self.named]
                     for slot in self.slots}
        self.average = average
        if average:
            self.kept[AVERAGE] = [Tensor(p.numpy(), device=p.device) for _, p in self.named]

    def decays(self) -> list[float]:
        """Weight decay of each parameter: none on biases and norms, which are vectors."""
        return [self.weight_decay if p.ndim > 1 else 0.0 for _, p in self.named]

    @property
    def steps(self) -> int:
        """The number of updates made so far."""
        return int(self.count.item())

    def step(self, lr: float | Tensor | None = None, *, norm: float | Tensor | None = None, clip_norm: float = 0.0,
             divisor: float | Tensor = 1.0) -> None:
        """Update every parameter that has a gradient. Numbers may be 0-d tensors; lr None: the optimiser's own.

        Gradients are divided by `divisor` and then, where `norm` (their `global_norm` as they are) is given and
        clip_norm > 0, scaled so that their norm is at most clip_norm. A norm that is not finite: nothing is changed.
        """
        self.follow()
        engine.update("count", [self.count], norm=norm)
        live = [i for i, (_, p) in enumerate(self.named) if p.grad is not None]
        decays = self.decays()
        self.apply([self.named[i][1] for i in live], [self.named[i][1].grad for i in live],
                   [[self.kept[slot][i] for i in live] for slot in self.slots],
                   lr=self.lr if lr is None else lr, weight_decay=[decays[i] for i in live], norm=norm,
                   clip_norm=clip_norm, divisor=divisor)
        if self.average:
            engine.update("average", self.kept[AVERAGE], [p for _, p in self.named], step=self.count,
                          window=self.average, norm=norm)

    def follow(self) -> None:
        """Move the averages to where the parameters are now."""
        device = self.named[0][1].device
        if self.count.device != device:
            engine.place([self.count, *(t for tensors in self.kept.values() for t in tensors)], device)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """With the averages in the parameters' place, where they are kept."""
        if not self.average:
            yield
            return
        own = [p.numpy() for _, p in self.named]
        self._put(self.kept[AVERAGE])
        try:
            yield
        finally:
            self._put(own)

    def _put(self, values: Iterable[Any]) -> None:
        for (_, p), value in zip(self.named, values, strict=True):
            p[...] = value

    def apply(self, parameters: list[Tensor], gradients: list[Any], kept: list[list[Tensor]], **settings: Any) -> None:
        raise TypeError(f"{type(self).__name__} does not say how it updates")

    def state_dict(self) -> dict[str, np.ndarray]:
        """The number of steps and the running averages, by slot and parameter name."""
        state = {"steps": self.count.numpy()}
        for slot, tensors in self.kept.items():
            state.update({f"{slot}.{name}": t.numpy() for (name, _), t in zip(self.named, tensors, strict=True)})
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state, all or nothing. Raises UserError naming what is missing or unexpected."""
        own = {f"{slot}.{name}": t for slot, tensors in self.kept.items()
               for (name, _), t in zip(self.named, tensors, strict=True)}
        wrong = sorted((own.keys() | {"steps"}) ^ state.keys())
        wrong += [f"{name} {np.shape(state[name])}" for name, t in own.items() if name in state
                  and np.shape(state[name]) != t.shape]
        if wrong:
            raise UserError(f"the optimiser's state does not fit the model: {', '.join(wrong)}")
        self.count[...] = int(state["steps"])
        for name, t in own.items():
            t[...] = np.asarray(state[name])


class SGD(Optimiser):
    """Stochastic gradient descent with momentum: v ← μ v + g, p ← p − lr · v."""
    slots = ("velocity",)

    def __init__(self, named_parameters: Iterable[tuple[str, Tensor]], lr: float, momentum: float = 0.0,
                 weight_decay: float = 0.0, average: int = 0) -> None:
        super().__init__(named_parameters, lr, weight_decay, average)
        self.momentum = momentum

    def apply(self, parameters: list[Tensor], gradients: list[Any], kept: list[list[Tensor]], **settings: Any) -> None:
        engine.update("sgd", parameters, gradients, *kept, momentum=self.momentum, **settings)


class Adam(Optimiser):
    """Adam (Kingma & Ba 2015) with the paper's β₁ = 0.9, β₂ = 0.98, ε = 10⁻⁹; weight decay is added to the gradient."""
    slots = ("m", "v")
    decoupled = False

    def __init__(self, named_parameters: Iterable[tuple[str, Tensor]], lr: float,
                 betas: tuple[float, float] = (0.9, 0.98),
                 eps: float = 1e-9, weight_decay: float = 0.0, average: int = 0) -> None:
        super().__init__(named_parameters, lr, weight_decay, average)
        self.betas, self.eps = betas, eps

    def apply(self, parameters: list[Tensor], gradients: list[Any], kept: list[list[Tensor]], **settings: Any) -> None:
        engine.update("adam", parameters, gradients, *kept, beta1=self.betas[0], beta2=self.betas[1], eps=self.eps,
                      step=self.count, decoupled=self.decoupled, **settings)


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019): the decay acts on the weight, not on the
    gradient."""
    decoupled = True


def chosen(named_parameters: Iterable[tuple[str, Tensor]], settings: TrainSettings) -> Optimiser:
    """The optimiser that the settings ask for."""
    named = list(named_parameters)
    same: dict[str, Any] = {"weight_decay": settings.weight_decay, "average": settings.average}
    if settings.optimizer == "sgd":
        return SGD(named, settings.lr, MOMENTUM, **same)
    return (AdamW if settings.optimizer == "adamw" else Adam)(named, settings.lr, **same)
