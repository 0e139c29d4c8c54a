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
    return {"H": heads, "K": size // heads} if name == HEADS else name
