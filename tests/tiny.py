"""A tiny corpus, tiny settings, and a trained run folder, for tests that need one."""
from __future__ import annotations

from pathlib import Path

from microtfm.settings import ModelSettings, Settings, TokenSettings, TrainSettings

NUMBERS = {"一": "one", "二": "two", "三": "three", "四": "four", "五": "five", "六": "six"}


def pairs() -> list[tuple[str, str]]:
    """Numbers read in reverse: 216 pairs, whose word orders differ."""
    return [(a + b + c, f"{NUMBERS[c]} {NUMBERS[b]} {NUMBERS[a]}") for a in NUMBERS for b in NUMBERS for c in NUMBERS]


def corpus() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Training and validation pairs."""
    everything = pairs()
    return [pair for i, pair in enumerate(everything) if i % 9], everything[::9]


def settings(out: Path, **train: object) -> Settings:
    """A model small enough to be trained in a second."""
    chosen = {"steps": 12, "batch_tokens": 60, "lr": 0.01, "warmup": 10, "validate_every": 5, "save_every": 4,
              "validate_sentences": 12, "log_every": 2, "average": 8, "keep": 2} | train
    model = ModelSettings(d_model=16, heads=2, layers=1, ffn=32, dropout=0.1, tie="output")
    return Settings(out=out, seed=1, model=model,
                    train=TrainSettings(**chosen),  # type: ignore[arg-type]
                    tokens=TokenSettings(kind="word", size=50, joint=False))


SMALL_RECIPE = (                         # what makes a recipe's run small, as arguments of `Settings.from_recipe`
    'model={"d_model": 16, "heads": 2, "layers": 1, "ffn": 32}, tokens={"kind": "word", "size": 50, "joint": True}, '
    'train={"steps": 5, "batch_tokens": 60, "validate_every": 1, "validate_sentences": 12, "keep": 5}')


def text_files(folder: Path) -> tuple[Path, Path]:
    """The corpus as two files."""
    source, target = folder / "all.zh", folder / "all.en"
    source.write_text("".join(f"{a}\n" for a, _ in pairs()), encoding="utf-8")
    target.write_text("".join(f"{b}\n" for _, b in pairs()), encoding="utf-8")
    return source, target
