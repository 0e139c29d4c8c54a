"""`microtfm info`: what a run folder holds."""
from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

from microtfm import checkpoint, metrics
from microtfm.architecture import Model
from microtfm.files import PathLike
from microtfm.run_folder import RunFolder, check_model, new_model

PACKAGES = ("microtfm", "numpy", "numba", "sentencepiece", "sacrebleu", "safetensors")
SCORES = ("step", "bleu", "chrf", "exact_match", "valid_loss", "bleu_signature")


def inspect(folder: PathLike) -> dict[str, Any]:
    """Settings, parameters, vocabulary, steps, scores and versions, as plain values."""
    run = RunFolder.open(folder)
    source, target = run.tokenizers()
    lines = metrics.read(run.metrics)
    facts = {path: checkpoint.load(path).facts for path in (run.model, run.state) if path.exists()}
    for path in facts:
        check_model(path, facts[path], run.identity(source, target))
    best, state = facts.get(run.model, {}), facts.get(run.state, {}).get("progress", {})
    model = new_model(run.settings.model, source, target)
    return {
        "folder": str(folder),
        "step": state.get("step", best.get("step", 0)),
        "seconds": max((line.get("seconds", 0) for line in lines), default=0),
        "best": {name: best[name] for name in SCORES if name in best},
        "parameters": model.count(),
        "parameters_by_part": by_part(model),
        "tokenizer": run.settings.tokens.kind,
        "vocabulary": {"source": len(source), "target": len(target), "joint": source is target},
        "files": {path.relative_to(run.path).as_posix(): path.stat().st_size
                  for path in sorted(run.path.rglob("*")) if path.is_file() and not path.name.startswith(".")},
        "settings": run.settings.to_dict(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
    }


def by_part(model: Model) -> dict[str, int]:
    """Parameters by part of the model, to the depth of its layers; tied weights are counted where they first stand."""
    counts: dict[str, int] = {}
    for name, tensor in model.named_parameters():
        pieces = name.split(".")
        part = ".".join(pieces[:3] if "layers" in pieces[:2] else pieces[:1])
        counts[part] = counts.get(part, 0) + tensor.size
    return counts


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def as_text(answer: dict[str, Any]) -> str:
    """The same for a person."""
    vocabulary, best = answer["vocabulary"], answer["best"]
    sizes = f"{vocabulary['source']:,}" + (" joint" if vocabulary["joint"] else f" and {vocabulary['target']:,}")
    lines = [f"run         {answer['folder']}: step {answer['step']:,}, {answer['seconds'] / 60:.1f} minutes"]
    if "bleu" in best:
        lines.append(f"best        step {best['step']:,}: BLEU {best['bleu']:.2f}  chrF {best['chrf']:.2f}  exact "
                     f"{best['exact_match']:.1%}  loss {best['valid_loss']:.3f}  ({best['bleu_signature']})")
    elif best:
        lines.append(f"best        made of others, up to step {best['step']:,}; to score it: microtfm evaluate "
                     f"{answer['folder']}")
    else:
        lines.append("best        none yet: the model was not validated")
    lines.append(f"tokenizer   {answer['tokenizer']}: {sizes}")
    lines.append(f"parameters  {answer['parameters']:,}")
    lines += [f"  {count:>12,}  {part}" for part, count in answer["parameters_by_part"].items()]
    lines.append("settings")
    for name, value in answer["settings"].items():
        pairs = value.items() if isinstance(value, dict) else [("", value)]
        lines += [f"  {name}{'.' + key if key else ''} = {shown}" for key, shown in pairs]
    lines.append("files       " + ", ".join(f"{name} ({size:,} bytes)" for name, size in answer["files"].items()))
    lines.append("versions    " + ", ".join(f"{name} {found}" for name, found in answer["versions"].items() if found))
    return "\n".join(lines)
