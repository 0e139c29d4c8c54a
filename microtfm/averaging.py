"""`microtfm average`: one model out of the last checkpoints of a run, their weights averaged."""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from microtfm import checkpoint, kept
from microtfm.data import columns, read_lines
from microtfm.errors import UserError
from microtfm.files import PathLike
from microtfm.run_folder import RunFolder, check_free, check_model

TEXTS = ("held-out.tsv", "valid.tsv", "exam.tsv")        # what `evaluate` may want to read


def average(folder: PathLike, out: PathLike, last: int | None = None) -> dict[str, Any]:
    """Make `out` a run folder whose model is the mean of the last checkpoints of a run, of all that it keeps if `last`
    is None. Raises UserError where there are too few, or `out` is not free."""
    folder, out = Path(folder), Path(out)
    run = RunFolder.open(folder)
    found = list(kept.steps(run.path).items())
    if last is not None and last < 1:
        raise UserError(f"--last {last} must be 1 or more.")
    if len(found) < (last or 1):
        raise UserError(f"{folder} keeps {len(found)} checkpoints, and {last or 1} are wanted. A run keeps those of as "
                        f"many of its last validations as --train.keep says.")
    chosen = found[-(last or len(found)):]
    if (out / "config.toml").exists():
        raise UserError(f"{out} already holds a run. Choose another --out, or remove it first.")
    check_free(out, force=False)
    source, target = run.tokenizers()
    identity = run.identity(source, target)
    for _, path in chosen:
        check_model(path, checkpoint.load(path).facts, identity)
    weights, steps = kept.mean([path for _, path in chosen]), [step for step, _ in chosen]
    valid = run.settings.valid_src
    own = valid is not None and valid.parent == run.path.absolute()
    settings = replace(run.settings, out=out.absolute(), force=False,
                       valid_src=out.absolute() / valid.name if valid is not None and own else valid)
    texts = {name: columns(run.path / name, read_lines(run.path / name))
             for name in TEXTS if (run.path / name).exists()}
    new = RunFolder(out, settings, run.code)
    with new.claim():
        new.create(source, target, texts, lambda made: checkpoint.save(
            made.model, weights, {**identity, "kind": "model", "step": steps[-1], "averaged": steps}))
    return {"folder": str(out), "steps": steps, "parameters": sum(array.size for array in weights.values())}


def as_text(answer: dict[str, Any]) -> str:
    """The same for a person."""
    steps = ", ".join(f"{step:,}" for step in answer["steps"])
    return (f"wrote   {answer['folder']}: the mean of the weights after steps {steps}\n"
            f"next    microtfm evaluate {answer['folder']}")
