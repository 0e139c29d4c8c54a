"""Where training stands: everything that the next update depends on, in one checkpoint."""
from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from engine import random
from microtfm import checkpoint
from microtfm.architecture import Model
from microtfm.checkpoint import Checkpoint
from microtfm.errors import UserError
from microtfm.optim import AVERAGE, Optimiser
from microtfm.run_folder import check_model


@dataclass
class Progress:
    """Counters of a run. Plain numbers, so that they are stored exactly."""

    step: int = 0                        # updates done
    epoch: int = 0
    index: int = 0                       # batches of this epoch already used
    validated: int = 0                   # the last step that was validated
    waited: int = 0                      # validations since the last one that was better
    loss_sum: float = 0.0                # since the last line of metrics.jsonl
    loss_tokens: int = 0
    best: dict[str, Any] = field(default_factory=dict)             # metrics of the best validation
    lowest: float = float("inf")         # the lowest validation loss

    def to_facts(self) -> dict[str, Any]:
        facts = dataclasses.asdict(self)
        facts["lowest"] = self.lowest if self.lowest < float("inf") else None
        return facts

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> Self:
        """Raises KeyError, TypeError and ValueError for anything else than a run's counters."""
        found = cls(**{**facts, "lowest": float("inf") if facts["lowest"] is None else facts["lowest"]})
        for name in ("step", "epoch", "index", "validated", "waited", "loss_tokens"):
            _count(name, getattr(found, name))
        numbers = [found.loss_sum, *([found.lowest] if found.lowest != float("inf") else [])]
        if found.best:
            numbers += [found.best["bleu"], found.best["valid_loss"]]
            _count("best", found.best["step"])
        if not all(type(number) in (int, float) and math.isfinite(number) for number in numbers):
            raise ValueError("a loss or a score is no finite number")
        return found


def _count(name: str, value: Any) -> None:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"{name} = {value!r:.40} is no count")


def save(path: Path, model: Model, optimiser: Optimiser, progress: Progress, identity: dict[str, Any]) -> None:
    """Write the state, whole or not at all."""
    checkpoint.save(path, _arrays(model, optimiser), {**identity, "kind": "state", "progress": progress.to_facts(),
                                   "random": random.get_state(), "optimizer": type(optimiser).__name__})


def not_finite(model: Model, optimiser: Optimiser) -> str | None:
    """The name of an array that holds NaN or infinity: such a state is not worth keeping."""
    return next((name for name, array in _arrays(model, optimiser).items() if not np.isfinite(array).all()), None)


def read(path: Path, identity: dict[str, Any]) -> Checkpoint:
    """A saved state. Raises UserError where it belongs to another run, model, vocabulary or training text."""
    run = path.parent.parent
    if not path.exists():
        raise UserError(f"{run} has nothing to resume: {path} is missing. Train anew, or start from its model: "
                        f"microtfm train --init {run}")
    found = checkpoint.load(path)
    if found.facts.get("kind") != "state":
        raise UserError(f"{path} is not the state of a training run. Put back the one of this run.")
    check_model(path, found.facts, identity)
    if found.facts.get("data") != identity["data"]:
        raise UserError(f"The training text, or a setting that decides what is read of it, is not what it was when "
                        f"{run} began, so the run cannot go on as if nothing had happened. Put it back, or start from "
                        f"the trained model: microtfm train --init {run}.")
    return found


def restore(found: Checkpoint, path: Path, model: Model, optimiser: Optimiser) -> Progress:
    """Take up a state that was read from `path`: model, optimiser, random numbers; returns the counters.

    Raises UserError, before anything is changed, where it does not fit.
    """
    if found.facts.get("optimizer") != type(optimiser).__name__:
        raise UserError(f"{path} was written by the optimiser {found.facts.get('optimizer')}, and the settings ask for "
                        f"{type(optimiser).__name__}. Set train.optimizer back.")
    arrays = _averages(found.arrays, optimiser)
    checkpoint.fit(arrays, _arrays(model, optimiser), path)
    try:
        progress = Progress.from_facts(found.facts["progress"])
        random.set_state(found.facts["random"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not the state of a training run ({error}).") from None
    model.load_state_dict(_part(arrays, "model."))
    optimiser.load_state_dict(_part(arrays, "optimizer."))
    return progress


def _averages(arrays: dict[str, np.ndarray], optimiser: Optimiser) -> dict[str, np.ndarray]:
    """The arrays with averages of the weights where the optimiser keeps them, from now on if it did not, or without."""
    names = {f"optimizer.{AVERAGE}.{name}": f"model.{name}" for name, _ in optimiser.named}
    if not optimiser.average:
        return {name: array for name, array in arrays.items() if name not in names}
    new = {name: arrays[weights] for name, weights in names.items() if weights in arrays}
    return arrays if names.keys() & arrays.keys() else arrays | new


def _arrays(model: Model, optimiser: Optimiser) -> dict[str, np.ndarray]:
    arrays = {f"model.{name}": array for name, array in model.state_dict().items()}
    return arrays | {f"optimizer.{name}": array for name, array in optimiser.state_dict().items()}


def _part(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
