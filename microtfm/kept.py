"""Weights of the last validations, kept in the run folder so that they can be averaged afterwards."""
from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from microtfm import checkpoint
from microtfm.errors import UserError

FOLDER = "checkpoints"


def steps(run: Path) -> dict[int, Path]:
    """The files by step, the oldest first."""
    found = {path.stem.removeprefix("step-"): path for path in (run / FOLDER).glob("step-*.safetensors")}
    return {int(step): found[step] for step in sorted(found, key=lambda step: (len(step), step)) if step.isdecimal()}


def keep(run: Path, step: int, weights: Mapping[str, np.ndarray], facts: Mapping[str, Any], count: int) -> None:
    """Write the weights of a step, and let go of all but the last `count`; 0: of all, and nothing is written."""
    if count:
        (run / FOLDER).mkdir(exist_ok=True)
        checkpoint.save(run / FOLDER / f"step-{step}.safetensors", weights, {**facts, "kind": "model", "step": step})
    for path in list(steps(run).values())[:-count or None]:
        _remove(path)


def forget_after(run: Path, step: int) -> None:
    """Let go of the weights of later steps."""
    for found, path in steps(run).items():
        if found > step:
            _remove(path)


def mean(paths: list[Path]) -> dict[str, np.ndarray]:
    """The mean of the weights in some checkpoints of one model, summed in float64. UserError where they differ."""
    totals: dict[str, np.ndarray] = {}
    for path in paths:
        arrays = checkpoint.load(path).arrays
        if totals:
            checkpoint.fit(arrays, {name: array.astype(arrays[name].dtype) if name in arrays else array
                                    for name, array in totals.items()}, path)
        totals = {name: array + totals.get(name, 0.0) for name, array in _doubles(arrays).items()}
    if not totals:
        raise UserError("There are no checkpoints to average.")
    return {name: (array / len(paths)).astype(np.float32) for name, array in totals.items()}


def _doubles(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: array.astype(np.float64) for name, array in arrays.items()}


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):   # what cannot be removed takes room, and harms nothing
        path.unlink()
