"""Every setting of a run, once: the same name in Python, in the TOML file and on the command line.

`Settings().train.batch_tokens`, `[train] batch_tokens = 1024` and `--train.batch-tokens 1024` are one setting. Values
are checked when an object is made, so settings that cannot work do not exist. The defaults are a good recipe for a
small corpus (tens of thousands of sentence pairs) on a laptop.
"""
from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from microtfm import field_docs
from microtfm.errors import UserError
from microtfm.files import read_table
from microtfm.recipes import RECIPES, Default, Recipe, default, expanded

LARGEST, FINITE = 2**53, 2.0**128        # whole numbers are below the first, others, float32, below the second
DEEPEST = 1000                           # layers of all models
WIDEST = 1000                            # beam of all
DEFAULT_STEPS = 10_000                   # where neither steps nor minutes are given


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The Transformer: its sizes and the few choices that the field disagrees on."""

    kind: Literal["transformer", "rnn"] = "transformer"
    """Architecture: the Transformer, or a recurrent encoder-decoder (GRU) with attention, for which heads, ffn,
    inner_dropout, norm and final_norm have no meaning."""
    d_model: int = 128
    """Width D of every embedding and every layer's output."""
    heads: int = 4
    """Attention heads H; each attends in D / H dimensions."""
    layers: int = 3
    """Layers in the encoder, and as many in the decoder."""
    ffn: int = 256
    """Width F of the feed-forward networks."""
    dropout: float = 0.2
    """Share of the numbers zeroed in training where the paper has dropout."""
    inner_dropout: float = 0.0
    """The same for the attention weights and inside the feed-forward, where the paper has none."""
    norm: Literal["post", "pre"] = "post"
    """Normalise after adding the residual (the paper) or before the sub-layer."""
    final_norm: bool | None = None
    """Normalise once more after the last layer. Unset: only with norm = pre, which needs it."""
    tie: Literal["all", "output", "none"] = "all"
    """Which weights are one: source embedding, target embedding and output projection (all; needs one joint
    vocabulary), target embedding and output projection (output), or none."""

    def __post_init__(self) -> None:
        _check_types(self, "model")
        _at_least("model", self, 1, "d_model", "heads", "layers", "ffn")
        if self.layers > DEEPEST:
            raise UserError(f"model.layers = {self.layers:,} must be at most {DEEPEST:,}; 2 to 12 is usual.")
        _share("model", self, "dropout")
        _share("model", self, "inner_dropout")
        _check_heads(self.d_model, self.heads)

    @property
    def ends_with_norm(self) -> bool:
        """Whether each stack ends with a layer norm of its own."""
        return self.norm == "pre" if self.final_norm is None else self.final_norm


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How long, how fast and in what portions the model learns."""

    steps: int | None = None
    """Stop after this many updates. Unset: 10,000, or no limit where minutes is given."""
    minutes: float | None = None
    """Stop after this much wall time, counted from the start of the command."""
    batch_tokens: int = 512
    """Sentences are batched until a side, padded, holds this many tokens."""
    accumulate: int = 1
    """Batches whose gradients are summed for one update."""
    lr: float = 0.003
    """Peak learning rate."""
    warmup: int = 600
    """Updates until the peak rate is reached."""
    schedule: Literal["inverse-sqrt", "paper", "constant"] = "inverse-sqrt"
    """Rate after warm-up: falling with the root of the step, the paper's (§5.3; lr is then a factor), or constant."""
    cooldown: int = 0
    """The last updates before steps, over which the rate falls to zero in a straight line. 0: it does not."""
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    """Rule of the update."""
    weight_decay: float = 0.0
    """Pull of the weights towards zero; norms and biases are left alone."""
    label_smoothing: float = 0.1
    """Share of the probability that the target gives to all other tokens (§5.4)."""
    consistency: float = 0.0
    """Weight of R-Drop (Liang et al. 2021): a batch is predicted twice at once, under different dropout, and the two
    predictions are drawn together. An update then costs twice as much. 0: once."""
    clip_norm: float = 1.0
    """Longest gradient (global norm) that is taken as it is; longer ones are scaled down. 0: never."""
    average: int = 0
    """What is validated and kept is an average over the last updates, a tenth and at most so many. 0: the weights."""
    save_every: int = 1000
    """Updates between checkpoints to resume from."""
    validate_every: int = 1000
    """Updates between validations."""
    validate_sentences: int = 500
    """At most this many validation sentences are translated for BLEU; the loss is always over all."""
    patience: int = 0
    """Stop after this many validations without a better loss or BLEU. 0: never."""
    keep: int = 5
    """Weights of so many of the last validations stay in the run folder, for microtfm average."""
    log_every: int = 10
    """Updates between lines of metrics.jsonl: 1 to 10."""

    def __post_init__(self) -> None:
        _check_types(self, "train")
        _at_least("train", self, 1, "steps", "batch_tokens", "accumulate", "warmup", "save_every", "validate_every",
                  "validate_sentences", "log_every")
        _at_least("train", self, 0, "cooldown", "weight_decay", "consistency", "clip_norm", "average", "patience",
                  "keep")
        if self.cooldown and self.cooldown > (self.last_step or 0):
            raise UserError(f"train.cooldown = {self.cooldown} is counted back from train.steps: give as many or more.")
        _share("train", self, "label_smoothing")
        for name in ("minutes", "lr"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"train.{name} = {value} must be more than 0.")
        if self.log_every > 10:
            raise UserError(f"train.log_every = {self.log_every} must be 1 to 10: metrics.jsonl has a line at least "
                            f"every 10 steps.")

    @property
    def last_step(self) -> int | None:
        """The update after which training ends, or None where only time or patience ends it."""
        return self.steps if self.steps is not None or self.minutes is not None else DEFAULT_STEPS


@dataclass(frozen=True, kw_only=True)
class TokenSettings:
    """How text is cut into tokens."""

    kind: Literal["word", "char", "subword"] = "subword"
    """Words and punctuation, characters, or subwords learnt by sentencepiece from the training text."""
    size: int = 4000
    """Largest vocabulary; it shrinks for tiny corpora, with a notice."""
    joint: bool = True
    """One vocabulary for both languages."""
    max_length: int = 100
    """Sentence pairs with more tokens on a side are left out of training, counted and said."""
    piece_length: int | None = None
    """Source lines of more tokens are cut where sentences end. Unset: 0 if training has one a line, or its usual."""
    dropout: float = 0.0
    """Share of the merges of subwords that each pass over the training text leaves out at random, so that a word is
    learnt in many cuts (BPE-dropout, Provilkov et al. 2020). 0: none."""

    def __post_init__(self) -> None:
        _check_types(self, "tokens")
        _at_least("tokens", self, 8, "size")
        _at_least("tokens", self, 1, "max_length")
        _at_least("tokens", self, 0, "piece_length")
        _share("tokens", self, "dropout")
        if self.dropout and self.kind != "subword":
            raise UserError(f"tokens.dropout = {self.dropout} leaves out merges of subwords, but tokens.kind = "
                            f"{self.kind} has none. Use --tokens.kind subword, or --tokens.dropout 0.")


BEAM, LENGTH_PENALTY, MODEL, TRAIN, TOKENS = map(default, (1, 1.0, ModelSettings, TrainSettings, TokenSettings))


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings of a run. What is not given comes from the recipe, where there is one, and then has its default.

    A group that is given counts as a whole; to change single settings of a recipe, `Settings.from_recipe`.
    """

    recipe: Recipe | None = None
    """Settings that are known to work together: tiny (tens of thousands of sentence pairs), small (hundreds of
    thousands), base (millions; a GPU), or demo (its own small text). Settings that are given besides win."""
    src: Path | None = None
    """Training text in the source language, one sentence a line; or, without --tgt, a TSV of source and target."""
    tgt: Path | None = None
    """Training text in the target language, line by line the translation of src."""
    valid_src: Path | None = None
    """Validation text, as src. Unset: a seeded part of the training text is held out."""
    valid_tgt: Path | None = None
    """Validation text, as tgt."""
    out: Path | None = None
    """Run folder. Unset: the first free one of runs/run, runs/run-2, ..."""
    init: Path | None = None
    """Run folder of a trained model to start from: its weights, tokenizer and model settings are taken."""
    seed: int = 0
    """Decides every random number: initial weights, dropout, order of the data, what is held out."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""
    precision: Literal["float32", "tf32x3", "tf32", "bf16"] = "float32"
    """What products of matrices are computed in on a card; sums, weights and the optimiser are float32 in any case."""
    threads: int | None = None
    """Processor threads. Unset: all. The result does not depend on it."""
    force: bool = False
    """Replace the run in the run folder, if there is one."""
    beam: int = BEAM
    """Hypotheses that translate and evaluate keep side by side; 1 is greedy search."""
    length_penalty: float = LENGTH_PENALTY
    """A of translate and evaluate: hypotheses compare by log-probability / length^A."""
    model: ModelSettings = MODEL
    """What learns."""
    train: TrainSettings = TRAIN
    """How it learns."""
    tokens: TokenSettings = TOKENS
    """What it reads."""

    def __post_init__(self) -> None:
        table = RECIPES.get(self.recipe, {}) if isinstance(self.recipe, str) else {}
        for each in dataclasses.fields(self):             # what was not given: the recipe's, or the default
            if isinstance(each.default, Default) and getattr(self, each.name) in (None, each.default):
                object.__setattr__(self, each.name, each.default.value(table, each.name))
        _check_types(self, "")
        _at_least("", self, 1, "threads", "beam")
        if self.beam > WIDEST:
            raise UserError(f"beam = {self.beam:,} must be at most {WIDEST:,}; 4 to 10 is usual.")
        if not 0 <= self.length_penalty < 100:
            raise UserError(f"length_penalty = {self.length_penalty} must be 0 or more, and usually about 1.")
        _at_least("", self, 0, "seed")
        if self.model.tie == "all" and not self.tokens.joint:
            raise UserError("model.tie = all makes source and target share one embedding, which needs one vocabulary, "
                            "but tokens.joint is off. Use --model.tie output, or leave tokens.joint on.")
        if self.train.consistency and not (self.model.dropout or self.model.inner_dropout):
            raise UserError(f"train.consistency = {self.train.consistency} draws together two predictions that differ "
                            f"by their dropout, but model.dropout = 0. Use --model.dropout 0.1, or --train.consistency "
                            f"0.")
        for name in ("src", "tgt", "valid_src", "valid_tgt", "out", "init"):
            if any("\ud800" <= char <= "\udfff" for char in str(getattr(self, name) or "")):
                raise UserError(f"{name} = {str(getattr(self, name)).encode(errors='backslashreplace').decode()}: the "
                                f"name is not UTF-8, and could not be written into config.toml. Rename it.")
        if self.tgt is not None and self.src is None:
            raise UserError("--tgt was given without --src. Give both files, or one TSV file as --src.")
        if self.valid_tgt is not None and self.valid_src is None:
            raise UserError("--valid-tgt was given without --valid-src. Give both files, or one TSV as --valid-src.")

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, as written to config.toml: unset settings are left out, and so is force."""
        table = _plain(self)
        table.pop("force")
        return table

    @classmethod
    def from_dict(cls, table: dict[str, Any], where: str = "settings") -> Self:
        """Settings from nested plain values. Unknown names, wrong types and values that cannot work: UserError."""
        return _build(cls, expanded(table) if isinstance(table, dict) else table, where, "")

    @classmethod
    def from_run(cls, table: dict[str, Any], where: str) -> Self:
        """Settings from a run's config.toml, where all are written: one that is younger than the run has its default,
        whatever the recipe says of it today. Errors as `from_dict`."""
        return _build(cls, table, where, "")

    @classmethod
    def from_recipe(cls, recipe: Recipe, **changes: Any) -> Self:
        """A recipe's settings but for what is given: `Settings.from_recipe("tiny", src=…, train={"minutes": 60})`."""
        return cls.from_dict({"recipe": recipe, **changes})


def read_toml(path: Path) -> Settings:
    """The settings in a TOML file. UserError names the file and the key."""
    return Settings.from_dict(read_table(path), str(path))


def names(cls: Any = Settings, prefix: str = "") -> list[str]:
    """Every setting's dotted name: src, seed, model.d_model, ..."""
    found = []
    for each in dataclasses.fields(cls):
        kind = typing.get_type_hints(cls)[each.name]
        found += names(kind, f"{prefix}{each.name}.") if dataclasses.is_dataclass(kind) else [prefix + each.name]
    return found


def unknown(name: str, where: str) -> UserError:
    """The error for a setting that does not exist, with the nearest right name."""
    known = names()
    wanted = name.replace("-", "_")
    near = difflib.get_close_matches(wanted, known, n=1, cutoff=0.5)
    if not near:
        last = {k.rsplit(".", 1)[-1]: k for k in reversed(known)}
        near = [last[k] for k in difflib.get_close_matches(wanted.rsplit(".", 1)[-1], list(last), n=1, cutoff=0.6)]
    hint = f" Did you mean {near[0]}?" if near else f" The settings are {', '.join(known)}."
    return UserError(f"{_at(where)}unknown setting {name}.{hint}")


def _at(where: str) -> str:
    return f"{where}: " if where else ""


def _plain(settings: Any) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for each in dataclasses.fields(settings):
        value = getattr(settings, each.name)
        if dataclasses.is_dataclass(value):
            table[each.name] = _plain(value)
        elif value is not None:
            table[each.name] = str(value) if isinstance(value, Path) else value
    return table


def _build(cls: Any, table: Any, where: str, prefix: str) -> Any:
    if not isinstance(table, dict):
        group = prefix.rstrip(".")
        raise UserError(f"{_at(where)}{group} is a group of settings. Write [{group}] and below it one setting a line.")
    hints = typing.get_type_hints(cls)
    given: dict[str, Any] = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in hints:
            raise unknown(prefix + key, where)
        kind = hints[name]
        if dataclasses.is_dataclass(kind):
            given[name] = _build(kind, value, where, f"{prefix}{name}.")
        else:
            given[name] = Path(value) if Path in _options(kind) and isinstance(value, str) else value
    try:
        return cls(**given)
    except UserError as error:
        raise UserError(f"{_at(where)}{error}") from None


def _options(kind: Any) -> tuple[Any, ...]:
    return typing.get_args(kind) if typing.get_origin(kind) in (types.UnionType, typing.Union) else (kind,)


_HINTS: dict[type, dict[str, Any]] = {}


def _check_types(settings: Any, group: str) -> None:
    cls = type(settings)
    if cls not in _HINTS:
        _HINTS[cls] = typing.get_type_hints(cls)
    for name, kind in _HINTS[cls].items():
        value = getattr(settings, name)
        options = _options(kind)
        if float in options and _fits(value, int):
            object.__setattr__(settings, name, float(value))
            continue
        if not any(_fits(value, option) for option in options):
            raise UserError(f"{_dotted(group, name)} = {value!r} does not fit: it takes {_in_words(options)}.")


def _fits(value: Any, kind: Any) -> bool:
    if typing.get_origin(kind) is Literal:
        return isinstance(value, str) and value in typing.get_args(kind)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST
    if kind is float:
        return isinstance(value, float) and abs(value) < FINITE
    return isinstance(value, kind)


def _in_words(options: tuple[Any, ...]) -> str:
    words = {int: "a whole number", float: f"a number below {FINITE:.0e}", bool: "true or false", Path: "a path"}
    said = [" | ".join(typing.get_args(o)) if typing.get_origin(o) is Literal else words.get(o, str(o))
            for o in options if o is not type(None)]
    return " or ".join(said)


def _dotted(group: str, name: str) -> str:
    return f"{group}.{name}" if group else name


def _at_least(group: str, settings: Any, low: int, *fields: str) -> None:
    for name in fields:
        value = getattr(settings, name)
        if value is not None and value < low:
            raise UserError(f"{_dotted(group, name)} = {value} must be {low} or more.")


def _share(group: str, settings: Any, name: str) -> None:
    value = getattr(settings, name)
    if not 0 <= value < 1:
        raise UserError(f"{_dotted(group, name)} = {value} is a share: 0 or more and less than 1.")


def _check_heads(d_model: int, heads: int) -> None:
    if d_model % heads == 0 and d_model % 2 == 0:
        return
    every = math.lcm(heads, 2)
    below, above = d_model // every * every, -(-d_model // every) * every
    widths = " or ".join(str(w) for w in dict.fromkeys((below, above)) if w)
    if d_model % 2:
        raise UserError(f"model.d_model = {d_model} is odd, but positions are pairs of a sine and a cosine. "
                        f"Nearest that work with {heads} heads: {widths}.")
    divisors = [h for h in range(1, d_model + 1) if d_model % h == 0]
    near = sorted(sorted(divisors, key=lambda h: abs(h - heads))[:3])
    raise UserError(f"model.d_model = {d_model} cannot be split over model.heads = {heads}. Nearest that work: "
                    f"d_model {widths}, or heads {', '.join(map(str, near))}.")


field_docs.described(ModelSettings, TrainSettings, TokenSettings, Settings)
