"""microtfm: the Transformer of "Attention Is All You Need" on an engine of its own, and a translator trained with it.

    from microtfm import Translator
    Translator.load("runs/demo").translate(["我喜欢猫。"])

What the commands do is a few lines of Python too, in a program or a notebook:

    from microtfm import Settings
    from microtfm.progress import Report
    from microtfm.train import resume, train

    settings = Settings.from_recipe("tiny", src="my.zh", tgt="my.en", out="runs/mine", train={"minutes": 20})
    result = train(settings, Report())                   # Report shows progress; without it there is silence
    resume(result.folder, Report(), changes={"minutes": 40})

    from microtfm.averaging import average
    from microtfm.corpus_check.report import check
    from microtfm.examination import examine, probe
    from microtfm.export import export
    from microtfm.inspection import inspect

    check(("my.zh", "my.en"), {})                        # microtfm data check my.zh my.en
    examine("runs/mine", "test.zh", "test.en")           # microtfm evaluate runs/mine --src test.zh --tgt test.en
    probe("runs/mine", "test.zh", "test.en")             # microtfm score runs/mine --src test.zh --tgt test.en
    average("runs/mine", "runs/mean", last=5)            # microtfm average runs/mine --last 5 --out runs/mean
    export("runs/mine", "mine.safetensors")              # microtfm export runs/mine --out mine.safetensors
    inspect("runs/mine")                                 # microtfm info runs/mine

Each answers with plain values. Besides: `microtfm.translator` has all that `translate` does, `microtfm.serving.Service`
is an application for any ASGI server, `engine.graph` draws a model or a tensor, `microtfm.evaluate.score` compares
lists of sentences, and `microtfm.fitting.fit` trains in memory, without a run folder.
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


def __dir__() -> list[str]:
    """The names that can be asked for, loaded or not, so that `python -m pydoc microtfm` shows them."""
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    """Load what is asked for when it is asked for: importing the package alone costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'microtfm' has no attribute {name!r}")
    return getattr(importlib.import_module(f"microtfm.{_HOMES[name]}"), name)
