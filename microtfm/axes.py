"""What the axes of the model's parameters and inputs are called, said once: the letters that the pictures show."""
from __future__ import annotations

from fnmatch import fnmatch
from typing import Any

from microtfm.module import Module

IDS = {"source": ("B", "S"), "target": ("B", "T"), "next": ("B", "T")}
HEADS = "H·K"                            # D features as H heads of K
PARAMETERS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("*embedding.weight", ("V", "D")),
    ("projection.weight", ("D", "V")),
    ("*attention.output.weight", (HEADS, "D")),
    ("*attention.output.bias", ("D",)),
    ("*attention.*.weight", ("D", HEADS)),
    ("*attention.*.bias", (HEADS,)),
    ("encoder.*.input_gates.weight", ("D", "2·R")),          # R = D/2: of the recurrent encoder, which reads both ways
    ("encoder.*.input_new.weight", ("D", "R")),
    ("encoder.*.state_gates.weight", ("R", "2·R")),
    ("encoder.*.state_new.weight", ("R", "R")),
    ("encoder.*_gates.bias", ("2·R",)),
    ("encoder.*_new.bias", ("R",)),
    ("decoder.begin.*.weight", ("R", "D")),
    ("decoder.begin.*.bias", ("D",)),
    ("decoder.*_gates.weight", ("D", "2·D")),
    ("decoder.*_gates.bias", ("2·D",)),
    ("decoder.*_new.weight", ("D", "D")),
    ("decoder.*_new.bias", ("D",)),
    ("decoder.combine.weight", ("2·D", "D")),
    ("decoder.combine.bias", ("D",)),
    ("*linear1.weight", ("D", "F")),
    ("*linear1.bias", ("F",)),
    ("*linear2.weight", ("F", "D")),
    ("*linear2.bias", ("D",)),
    ("*norm*.weight", ("D",)),
    ("*norm*.bias", ("D",)),
)


def declare(model: Module, heads: int) -> None:
    """Give every parameter's axes their names."""
    for path, tensor in model.named_parameters():
        for pattern, names in PARAMETERS:
            if fnmatch(path, pattern) and len(names) == len(tensor.shape):
                tensor.axes = [_name(name, size, heads) for name, size in zip(names, tensor.shape, strict=True)]
                break


def _name(name: str, size: int, heads: int) -> Any:
    if name == HEADS:
        return {"H": heads, "K": size // heads}
    return {"2": 2, name[2:]: size // 2} if name.startswith("2·") else name
