"""Answers of the benchmark kept as files: each says when, on what and with which versions it was measured."""
from __future__ import annotations

import json
import platform
import tempfile
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import engine
from microtfm import atomic
from microtfm.errors import UserError

PACKAGES = ("numpy", "numba", "numba-cuda", "cupy-cuda13x", "cupy-cuda12x", "torch", "jax")


def check(folder: Path | None) -> None:
    """UserError, before anything is measured, where no file can be written into a folder. It is made if need be."""
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise UserError(f"--save {folder}: nothing can be written there ({error.strerror or error}).") from error


def write(folder: Path, what: str, answer: dict[str, Any]) -> Path:
    """Write an answer into a folder, made if need be. Raises OSError where that cannot be."""
    now = datetime.now(UTC)
    facts = {"measured": now.strftime("%Y-%m-%d %H:%M UTC"), "machine": platform.platform(),
             "processor": platform.processor() or platform.machine(), "python": platform.python_version(),
             "versions": versions(), "health": {f.name: f.found for f in engine.health()}}
    folder.mkdir(parents=True, exist_ok=True)
    label = "-simulated" if "note" in answer else ""
    file = folder / f"{what}-{answer.get('device', 'cpu')}{label}-{now.strftime('%Y-%m-%d-%H%M%S')}.json"
    atomic.write(file, [json.dumps(facts | answer, ensure_ascii=False, indent=1).encode() + b"\n"])
    return file


def versions() -> dict[str, str]:
    """Of the packages that are there and matter."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
