"""Recipes: settings that are known to work together, under one name, and how layers of settings lie over each other.

What small translators owe their quality to: few parameters for few sentences, one subword vocabulary and one embedding
for both languages, dropout 0.3, label smoothing, a high peak rate after a warm-up, an average of the weights, and beam
search (Wu et al. 2021, "Good for Misconceived Reasons", whose smallest of three models is the best on Multi30k; Popel &
Bojar 2018, "Training Tips for the Transformer Model", on averaging).
"""
from __future__ import annotations

from typing import Any, Literal

Recipe = Literal["demo", "tiny", "small", "base"]
Table = dict[str, Any]

_SHARED: Table = {"beam": 5, "length_penalty": 1.0}
RECIPES: dict[str, Table] = {
    "demo": {                            # the corpus of microtfm.toy, learnt in half a minute
        "model": {"d_model": 64, "layers": 2, "dropout": 0.0, "tie": "output"},
        "tokens": {"kind": "word", "size": 2000, "joint": False},
        "train": {"steps": 1200, "batch_tokens": 1600, "lr": 0.004, "warmup": 150, "validate_every": 200},
    },
    "tiny": {                            # 10,000 to 100,000 pairs; the tiny model of Wu et al. 2021
        **_SHARED,
        "model": {"d_model": 128, "heads": 4, "layers": 4, "ffn": 256, "dropout": 0.3, "norm": "post", "tie": "all"},
        "tokens": {"kind": "subword", "size": 10_000, "joint": True},
        "train": {"batch_tokens": 4096, "accumulate": 2, "lr": 0.005, "warmup": 2000, "schedule": "inverse-sqrt",
                  "label_smoothing": 0.1, "average": 500, "steps": 8000, "validate_every": 250, "patience": 10},
    },
    "small": {                           # 100,000 to 500,000 pairs
        **_SHARED,
        "model": {"d_model": 256, "heads": 4, "layers": 3, "ffn": 1024, "dropout": 0.3, "norm": "post", "tie": "all"},
        "tokens": {"kind": "subword", "size": 10_000, "joint": True},
        "train": {"batch_tokens": 4096, "accumulate": 2, "lr": 0.002, "warmup": 4000, "schedule": "inverse-sqrt",
                  "label_smoothing": 0.1, "average": 1000, "steps": 30_000, "validate_every": 1000, "patience": 10},
    },
    "base": {                            # more; the base model of Vaswani et al. 2017, which needs a GPU
        **_SHARED,
        "model": {"d_model": 512, "heads": 8, "layers": 6, "ffn": 2048, "dropout": 0.3, "norm": "post", "tie": "all"},
        "tokens": {"kind": "subword", "size": 32_000, "joint": True},
        "train": {"batch_tokens": 4096, "accumulate": 6, "lr": 0.0007, "warmup": 4000, "schedule": "inverse-sqrt",
                  "label_smoothing": 0.1, "average": 2000, "steps": 100_000, "validate_every": 2000, "patience": 10},
    },
}


def merged(below: Table, above: Table) -> Table:
    """Two nested tables as one; where both have a value, that of `above`."""
    both = dict(below)
    for name, value in above.items():
        nested = isinstance(value, dict) and isinstance(below.get(name), dict)
        both[name] = merged(below[name], value) if nested else value
    return both


def expanded(table: Table) -> Table:
    """A table with the settings of the recipe that it names below its own, which win."""
    name = table.get("recipe")
    return merged(RECIPES[name], table) if isinstance(name, str) and name in RECIPES else table


class Default:
    """A setting's default that a recipe may replace: its repr says in signatures what it is without one."""

    def __init__(self, plain: Any) -> None:
        self.plain = plain               # a value, or the class of a group of settings

    def __repr__(self) -> str:
        plain = f"{self.plain.__name__}()" if isinstance(self.plain, type) else repr(self.plain)
        return f"<{plain}, or the recipe's>"

    def value(self, table: Table, name: str) -> Any:
        """What a setting of this name is where it is not given, `table` being the recipe's settings."""
        if isinstance(self.plain, type):
            return self.plain(**table.get(name, {}))
        return table.get(name, self.plain)


def default(plain: Any) -> Any:
    """A `Default`, whatever type a field is declared to have."""
    return Default(plain)
