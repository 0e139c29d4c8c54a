"""A run folder: everything that one training makes and needs.

config.toml            the resolved settings, and `run`, which says whose the checkpoints are
tokenizer.json         or tokenizer.source.json and tokenizer.target.json
held-out.tsv           the validation text, where it was held out of the training text
train.tsv valid.tsv    the texts, where the command made them itself (demo); exam.tsv what its score is over
model.safetensors      the best model so far
last/state.safetensors all that `resume` needs, in one file, so that it is always of one moment
checkpoints/           the weights of the last validations, for `average`
metrics.jsonl          a line at least every ten steps
*.png, *.svg           pictures
"""
from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import tomli_w

from microtfm import atomic, checkpoint, kept, lock, tokens
from microtfm.architecture import Model, build
from microtfm.errors import UserError
from microtfm.files import read_bytes, read_table
from microtfm.recipes import merged
from microtfm.settings import ModelSettings, Settings
from microtfm.tokens import Tokenizer

VERSION = 3                              # of the folder's layout: see `RunFolder.open` for the earlier ones
END = "# end"                            # the last line of config.toml: a file that was cut short lacks it
OWN = ("config.toml", "tokenizer.json", "tokenizer.source.json", "tokenizer.target.json", "held-out.tsv",
       "train.tsv", "valid.tsv", "exam.tsv", "model.safetensors", "last/state.safetensors", "metrics.jsonl",
       "curves.svg", "curves.html", "curves.png", "attention.svg", "attention.html", "beam.svg", "beam.html")
ANY = ("dropout", "inner_dropout")       # model settings that may change between a checkpoint and its use
LEAVE = ("steps", "minutes", "save_every", "validate_every", "validate_sentences", "patience", "keep", "log_every")
# of train: they end a run or look at it, and decide no number of its weights


class RunFolder:
    """The paths of a run, and how its parts are read and written."""

    def __init__(self, path: Path, settings: Settings, code: str | None) -> None:
        """`code` tells runs apart, `run_code`; a folder of the first format has none."""
        self.path, self.settings, self.code = path, settings, code
        self.config, self.metrics = path / "config.toml", path / "metrics.jsonl"
        self.model, self.state = path / "model.safetensors", path / "last" / "state.safetensors"
        self.held_out, self.curves = path / "held-out.tsv", path / "curves.svg"

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """An existing run folder. UserError for anything else."""
        path = Path(path)
        if not path.is_dir():
            what = "is a file, not a run folder" if path.exists() else "does not exist"
            raise UserError(f"{path} {what}. Give the folder that microtfm demo or microtfm train made, for example "
                            f"runs/demo.")
        if not (path / "config.toml").is_file():
            raise UserError(f"{path} is not a run folder: it has no config.toml. Give the folder that microtfm demo or "
                            f"microtfm train made.")
        config = path / "config.toml"
        table = read_table(config)
        version = table.pop("format_version", None)
        if type(version) is not int or not 1 <= version <= VERSION:
            raise UserError(f"{config} has format_version {version!r}; this microtfm reads 1 to {VERSION}. Use the "
                            f"version of microtfm that made the run.")
        code = table.pop("run", None) if version > 1 else None         # the first did not say whose its checkpoints are
        if version > 1 and not isinstance(code, str):
            raise UserError(f"{config} has lost its line  run = \"…\"  , which says whose the checkpoints beside it "
                            f"are. It stands in the facts of {path / 'model.safetensors'}.")
        if version > 2 and not read_bytes(config).rstrip().endswith(END.encode()):     # the second had no such line
            raise UserError(f"{config} is cut short: its last line,  {END}  , is missing. Restore it from a copy; or "
                            f"add the line, if all settings are there.")
        return cls(path, _moved(Settings.from_run(table, str(path / "config.toml")), path), code)

    @contextlib.contextmanager
    def claim(self) -> Iterator[None]:
        """Hold the folder, made if need be, against other processes, and sweep it of what was left unfinished.

        A folder that is empty in the end goes again. UserError where it cannot be made, or another process holds it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"The run folder {self.path} cannot be made: {error.strerror or error}.") from None
        try:
            with lock.locked(self.path):
                for folder in (self.path, self.state.parent, self.path / kept.FOLDER):
                    with contextlib.suppress(OSError):
                        atomic.sweep_folder(folder)
                yield
        finally:
            with contextlib.suppress(OSError):
                self.path.rmdir()        # stays where anything is in it

    def create(self, source: Tokenizer, target: Tokenizer, texts: dict[str, list[tuple[str, str]]],
               save: Callable[[RunFolder], None]) -> None:
        """Make the folder a new run: tokenizers, sentence pairs by file name, what `save` writes, settings.

        All is written beside its place first, so that a run that --force replaces is whole until the new one is. Raises
        UserError where `check_free` says that it may not be, or there is no room.
        """
        check_free(self.path, self.settings.force)
        new = RunFolder(atomic.unfinished(self.path / "new"), self.settings, self.code)
        try:
            new.state.parent.mkdir(parents=True)
            if source is target:
                atomic.write(new.path / "tokenizer.json", [source.to_bytes()])
            else:
                atomic.write(new.path / "tokenizer.source.json", [source.to_bytes()])
                atomic.write(new.path / "tokenizer.target.json", [target.to_bytes()])
            for name, pairs in texts.items():
                atomic.write(new.path / name, ["".join(f"{a}\t{b}\n" for a, b in pairs).encode()])
            save(new)
            new.write_config()
            self._take(new.path)
        except OSError as error:
            raise UserError(f"The run folder {self.path} cannot be made: {error.strerror or error}.") from None
        finally:
            shutil.rmtree(new.path, ignore_errors=True)

    def _take(self, new: Path) -> None:
        """Put new files in the place of the old run's; without config.toml, the first to go and the last to come, the
        folder is no run."""
        for name in OWN:
            (self.path / name).unlink(missing_ok=True)
        shutil.rmtree(self.path / kept.FOLDER, ignore_errors=True)
        self.state.parent.mkdir(exist_ok=True)
        for name in (*OWN[1:], OWN[0]):
            if (new / name).exists():
                os.replace(new / name, self.path / name)
        for folder in (self.state.parent, self.path, self.path.parent):
            atomic.sync_folder(folder)

    def changed(self, train: Mapping[str, Any] | None = None, device: str | None = None,
                precision: str | None = None) -> RunFolder:
        """The run with other train settings, device or precision, which `write_config` keeps. UserError for what does
        not exist or cannot be."""
        other: dict[str, Any] = {"device": device, "precision": precision}
        other = {name: value for name, value in other.items() if value is not None}
        if train:
            other["train"] = Settings.from_dict(merged(self.settings.to_dict(), {"train": dict(train)}), "").train
        return RunFolder(self.path, dataclasses.replace(self.settings, **other), self.code)

    def write_config(self) -> None:
        """Write the settings."""
        head = {"format_version": 1} if self.code is None else {"format_version": VERSION, "run": self.code}
        table = {**head, **self.settings.to_dict()}
        atomic.write(self.config, [f"{tomli_w.dumps(table)}\n{END}\n".encode()])

    def tokenizers(self) -> tuple[Tokenizer, Tokenizer]:
        """The source and the target tokenizer: one and the same where the vocabulary is joint."""
        joint = self.path / "tokenizer.json"
        if joint.exists() or not (self.path / "tokenizer.source.json").exists():
            one = tokens.load(joint)
            return one, one
        return tokens.load(self.path / "tokenizer.source.json"), tokens.load(self.path / "tokenizer.target.json")

    def load_model(self) -> Model:
        """The best model, in eval mode."""
        if not self.model.exists():
            raise UserError(f"{self.path} has no model yet: training stopped before its first validation. Go on with: "
                            f"microtfm resume {self.path}")
        found = checkpoint.load(self.model)
        source, target = self.tokenizers()
        check_model(self.model, found.facts, self.identity(source, target))
        return loaded(found.arrays, self.settings.model, source, target, self.model)

    def identity(self, source: Tokenizer, target: Tokenizer) -> dict[str, Any]:
        """What its checkpoints say of themselves: their run, architecture and vocabularies. Only so do their numbers
        mean the same in the model that the folder describes."""
        model = self.settings.model
        shape = {name: value for name, value in dataclasses.asdict(model).items() if name not in ANY}
        run = {} if self.code is None else {"run": self.code}
        return {**run, "model": {**shape, "final_norm": model.ends_with_norm},
                "vocabulary": tokens.fingerprint(source, target)}


def run_code(settings: Settings, source: Tokenizer, target: Tokenizer, data: str, start: dict[str, np.ndarray]) -> str:
    """A code for a run: runs with the same code that have done as many steps hold the same numbers.

    settings: those that decide a number of the weights count. data: digest of the training text. start: first weights.
    """
    train = {name: value for name, value in dataclasses.asdict(settings.train).items() if name not in LEAVE}
    if settings.train.cooldown:          # it is counted back from the last step
        train["steps"] = settings.train.last_step
    deciding = {"seed": settings.seed, "model": dataclasses.asdict(settings.model), "train": train, "data": data,
                "vocabulary": tokens.fingerprint(source, target), "token_dropout": settings.tokens.dropout}
    digest = hashlib.sha256(json.dumps(deciding, sort_keys=True).encode())
    for name in sorted(start):
        digest.update(name.encode() + np.ascontiguousarray(start[name]).tobytes())
    return digest.hexdigest()[:32]


def _moved(settings: Settings, path: Path) -> Settings:
    """The settings with paths that hold even if the run folder, and texts inside it, were moved."""
    before, now = settings.out, path.absolute()
    if before is None or before == now:
        return dataclasses.replace(settings, out=now)

    def rebased(text: Path | None) -> Path | None:
        return now / text.relative_to(before) if text is not None and text.is_relative_to(before) else text

    return dataclasses.replace(settings, out=now, src=rebased(settings.src), tgt=rebased(settings.tgt),
                               valid_src=rebased(settings.valid_src), valid_tgt=rebased(settings.valid_tgt))


def new_model(settings: ModelSettings, source: Tokenizer, target: Tokenizer) -> Model:
    """A model whose weights are about to be loaded: the seed's sequence of random numbers stays as it was."""
    from engine import random

    state = random.get_state()
    try:
        return build(settings, len(source), len(target))
    finally:
        random.set_state(state)


def loaded(arrays: dict[str, np.ndarray], settings: ModelSettings, source: Tokenizer, target: Tokenizer,
           where: Path) -> Model:
    """A model with the weights of a checkpoint, in eval mode.

    Raises UserError, before memory is taken for a model, where the file does not hold what the settings call for; and
    for a weight that is not finite, which no saved model has.
    """
    if settings.layers > len(arrays):
        raise UserError(f"{where} holds {len(arrays)} arrays, too few for a model of {settings.layers:,} layers. Put "
                        f"back the checkpoint that belongs to these settings.")
    from engine import shapes_only

    with shapes_only():
        empty = new_model(settings, source, target)
    checkpoint.fit(arrays, dict(empty.named_parameters()), where)
    broken = next((name for name, array in arrays.items() if not np.isfinite(array).all()), None)
    if broken is not None:
        raise UserError(f"{where} is damaged: {broken} holds numbers that are not finite. Put back an earlier model.")
    model = new_model(settings, source, target)
    model.load_state_dict(arrays)
    model.eval()
    return model


def check_model(where: Path, facts: dict[str, Any], wanted: dict[str, Any]) -> None:
    """UserError unless a checkpoint's facts agree with what its run folder describes."""
    found = facts.get("model")
    if not isinstance(found, dict):
        raise UserError(f"{where} is not a checkpoint of a translation model.")
    differ = [f"{name} is {found.get(name)!r} there and {value!r} in config.toml"
              for name, value in wanted["model"].items() if found.get(name) != value]
    if differ:
        raise UserError(f"{where} belongs to another model: {', '.join(differ)}. Put back the one that fits.")
    if facts.get("run") != wanted.get("run"):
        raise UserError(f"{where} belongs to another run than the config.toml in its folder, though to a model of the "
                        f"same shape. Put back the one of this run.")
    if facts.get("vocabulary") != wanted["vocabulary"]:
        raise UserError(f"{where} was trained with another vocabulary than the tokenizer beside it, so its numbers "
                        f"would mean other words. Put back the tokenizer file or the checkpoint of this run.")


def check_free(path: Path, force: bool) -> None:
    """UserError where a new run may not be written to `path`."""
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file, and a run needs a folder. Choose another --out.")
    if (path / "config.toml").exists():
        if not force:
            raise UserError(f"{path} already holds a run. Go on with it: microtfm resume {path}. Or choose another "
                            f"--out, or pass --force to replace it.")
    elif path.is_dir() and any(_foreign(entry.name) for entry in _entries(path)):
        raise UserError(f"{path} is a folder with other things in it. Choose an empty or a new folder as --out.")
    _check_writable(path)


def _foreign(name: str) -> bool:
    """Whether a file is of no run: what a run that was killed while it began has left is no hindrance."""
    return not name.startswith(".") and name not in {kept.FOLDER, *(own.partition("/")[0] for own in OWN)}


def _entries(path: Path) -> list[Path]:
    try:
        return list(path.iterdir())
    except OSError as error:
        raise UserError(f"The folder {path} cannot be read: {error.strerror or error}.") from None


def _check_writable(path: Path) -> None:
    """Try to make a folder where the run will be, and leave nothing behind."""
    existing = next(p for p in (path, *path.absolute().parents) if p.exists())
    probe = atomic.unfinished(existing / "microtfm")
    try:
        atomic.sweep(existing / "microtfm")
        probe.mkdir()
    except OSError as error:
        raise UserError(f"The run folder {path} cannot be made: {error.strerror or error} ({existing}). Choose another "
                        f"--out.") from None
    with contextlib.suppress(OSError):
        probe.rmdir()


def free_folder(wanted: Path) -> Path:
    """The first of wanted, wanted-2, wanted-3, ... that does not exist."""
    path, n = wanted, 1
    while path.exists():
        n += 1
        path = wanted.with_name(f"{wanted.name}-{n}")
    return path
