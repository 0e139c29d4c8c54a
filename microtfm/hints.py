"""What a person may have meant by a command line that is not understood."""
from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from itertools import chain

from cyclopts import CoercionError, CycloptsError, MissingArgumentError, UnknownOptionError, UnusedCliTokensError

from microtfm.settings import Settings

ELSEWHERE = {                            # what other tools call it: ours
    "--src": "source source-file train-source in-src", "--tgt": "target target-file train-target",
    "--out": "output output-dir save-dir model-dir", "--device": "gpu gpus cuda use-gpu", "--file": "input in",
    "--train.steps": "epochs max-epochs num-epochs max-steps max-updates train-steps updates iterations",
    "--train.batch-tokens": "batch-size batch max-tokens", "--train.lr": "learning-rate rate",
    "--train.warmup": "warmup-steps warmup-updates", "--train.accumulate": "update-freq gradient-accumulation-steps",
    "--model.d-model": "hidden-size hidden dim embed-dim width d-model", "--model.ffn": "d-ff dim-feedforward ffn-dim",
    "--model.layers": "num-layers n-layers encoder-layers decoder-layers depth", "--model.heads": "num-heads n-heads",
    "--tokens.size": "vocab vocab-size vocabulary", "--beam": "beam-size num-beams beams", "--nbest": "n-best best",
    "--threads": "workers num-threads cpus jobs"}
UNITS = {"--train.steps": "updates, not passes over the text", "--train.batch-tokens": "tokens, not sentences"}
RUN = ("run", "model", "folder", "run-folder", "checkpoint")
CLOSE = 0.7                              # of get_close_matches


def explained(error: CycloptsError) -> str:
    """The error in words, and what was probably meant."""
    command = " ".join(["microtfm", *(error.command_chain or ())])
    if isinstance(error, UnknownOptionError):
        names = list(chain.from_iterable(each.names for each in error.argument_collection if each.parse))
        return _option(command, error.token.keyword or error.token.value, names)
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        return _unused(command, error)
    if isinstance(error, MissingArgumentError) and error.argument is not None and not error.keyword:
        name = error.argument.name
        return f"{command} needs {name}: {error.argument.parameter.help} {command} --help says more."
    if isinstance(error, CoercionError) and error.token is not None and error.token.keyword == "--device":
        card = error.token.value.lower().startswith(("gpu", "cuda", "nvidia"))
        return str(error).replace('Did you mean "cpu"?', 'Did you mean "cuda"?') if card else str(error)
    return str(error)


def exact(word: str, names: Iterable[str]) -> list[str]:
    """Of an option's names, those with the same last part, or what another tool calls by this word."""
    last, own = _last(word), _options(names)
    same = [name for name, part in own.items() if part == last]
    return same or [name for name, words in ELSEWHERE.items() if last in words.split() and name in own]


def near(word: str, names: Iterable[str]) -> list[str]:
    """Of an option's names, those that this word is a slip of."""
    own = _options(names)
    words = [*own.values(), *(each for name in own for each in ELSEWHERE.get(name, "").split())]
    return [name for found in get_close_matches(_last(word), words, 1, CLOSE) for name in exact(found, names)]


def _option(command: str, given: str, names: Sequence[str]) -> str:
    word = given.partition("=")[0]
    text = f"Unknown option: {word}."
    if _last(word) in RUN and "RUN" in names:
        return f"{text} The run stands first and has no name: {command} runs/mine"
    settled = exact(word, _settings()) if command.endswith("resume") and not exact(word, names) else []
    if settled:
        return f"{text} {settled[0]} is settled when a run begins, by microtfm train."
    if found := exact(word, names) or near(word, names):
        counted = [f"{name} counts {UNITS[name]}." for name in found if name in UNITS and _last(name) != _last(word)]
        return " ".join([text, f"Did you mean {' or '.join(found)}?", *counted])
    return f"{text} All there are: {command} --help"


def _unused(command: str, error: UnusedCliTokensError) -> str:
    left = " ".join(error.unused_tokens or ())
    target = {name.partition(":")[0] for name in getattr(error.target, "__annotations__", {})}
    how = f"{command} --help says what it takes."
    if command.split()[-1] in ("train", "evaluate", "score"):
        how = "Text files go behind --src and --tgt: --src my.zh --tgt my.en"
    elif command.endswith("demo"):
        how = f"A run folder goes behind --out: --out {left}"
    elif "out" in target and len(left.split()) == 1:
        how = f"What is written goes behind --out: --out {left}"
    return f"{command} cannot tell what {left} is. {how}"


def _last(name: str) -> str:
    return name.lstrip("-").replace("_", "-").lower().rpartition(".")[2]


def _options(names: Iterable[str]) -> dict[str, str]:
    return {name: _last(name) for name in names if name.startswith("--")}


def _settings() -> list[str]:
    groups = {each.name: getattr(Settings(), each.name) for each in dataclasses.fields(Settings)}
    return [f"--{group}.{inner.name}".replace("_", "-") for group, value in groups.items()
            if dataclasses.is_dataclass(value) for inner in dataclasses.fields(value)]
