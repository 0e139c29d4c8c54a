"""microtfm: the Transformer of "Attention Is All You Need" on an engine of its own, and a translator trained with it.

    from microtfm import Translator
    Translator.load("runs/demo").translate(["我喜欢猫。"])
"""
from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from microtfm.errors import UserError
    from microtfm.settings import ModelSettings, Settings, TokenSettings, TrainSettings
    from microtfm.transformer import Transformer
    from microtfm.translator import Translator

__version__ = "0.1.0"
__all__ = ["ModelSettings", "Settings", "TokenSettings", "TrainSettings", "Transformer", "Translator", "UserError"]

_HOMES = {"ModelSettings": "settings", "Settings": "settings", "TokenSettings": "settings", "TrainSettings": "settings",
          "Transformer": "transformer", "Translator": "translator", "UserError": "errors"}


def __getattr__(name: str) -> Any:
    """Load what is asked for when it is asked for: importing the package alone costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'microtfm' has no attribute {name!r}")
    return getattr(importlib.import_module(f"microtfm.{_HOMES[name]}"), name)
