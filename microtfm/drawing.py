"""`microtfm graph`: the running model as a picture, forward and backward, at any level of detail."""
from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

import engine
from engine import Tensor
from microtfm.architecture import Model, build
from microtfm.axes import IDS
from microtfm.errors import UserError
from microtfm.loss import translation_loss
from microtfm.settings import ModelSettings
from microtfm.tokens import BOS
from microtfm.transformer import Transformer

if TYPE_CHECKING:
    from microtfm.run_folder import RunFolder
    from microtfm.tokens import Tokenizer

SMOOTHING = 0.1                          # of the loss that is drawn (§5.4)
SAMPLE = (32, 12, 11)                    # sentences, source and target tokens of the batch that a run is drawn with


def draw(run: Path | None, size: str | None, *, backward: bool, depth: int | None, open_: list[str],
         level: Literal["module", "op"] | None, inside: str | None, unfused: bool, real: bool, out: Path | None,
         memory: bool = False, diff: str | None = None) -> int:
    """Record one training step of a run's model, or of a model by its size, and write or print its graph."""
    if (run is None) == (size is None):
        raise UserError("Give a run folder or --size, one of the two: microtfm graph runs/demo, or microtfm graph "
                        "--size base.")
    if depth is not None and depth < 0:
        raise UserError(f"--depth {depth} must be 0 or more.")
    if memory and diff is not None:
        raise UserError("Give --memory or --diff, not both.")
    if out is not None and not out.absolute().parent.is_dir():
        raise UserError(f"{out}: the folder {out.parent} does not exist.")
    title = f"microtfm {size or run}"
    whole = out is None or out.suffix in (".html", ".json", ".txt") or level == "op" or inside is not None
    view = {"depth": depth if depth is not None or whole else 2, "open": open_, "level": level, "inside": inside}
    try:
        graph = engine.graph(record(run, size, unfused, real, backward), backward=backward)
        if memory:
            _put(graph.memory(), out, title=f"{title}: memory over a training step")
        elif diff is not None:
            other = engine.graph(record(*_named(diff), unfused, real, backward), backward=backward)
            _put(graph.diff(other), out, title=f"{title} (−) against {diff} (+)", **view)
        else:
            _put(graph, out, title=title, **view)
    except engine.EngineError as error:
        raise UserError(str(error)) from None
    if out is not None:
        print(f"{out}: {len(graph.boxes):,} boxes, {graph.parameters:,} parameters", file=sys.stderr)
    if graph.notice:
        print(f"note: {graph.notice}", file=sys.stderr)
    return 0


def _put(shown: Any, out: Path | None, **choices: Any) -> None:
    """Save a graph, a difference or a memory, or print it as text."""
    if out is not None:
        shown.save(out, **choices)
    elif hasattr(shown, "table"):
        if choices["open"]:
            shown.view(0, choices["open"])       # a table has nothing to open, but a wrong name is said all the same
        print(shown.table(choices["inside"]))
    else:
        print(shown)


def _named(text: str) -> tuple[Path | None, str | None]:
    """A run folder, or a size by its name."""
    from microtfm.bench.sizes import SIZES

    return (None, text) if text in SIZES and not Path(text).is_dir() else (Path(text), None)


def record(run: Path | None, size: str | None, unfused: bool = False, real: bool = False,
           backward: bool = False) -> Tensor:
    """The loss of one batch with its whole record: on shapes alone, or with numbers and measured."""
    with ExitStack() as modes:
        if not real:
            modes.enter_context(engine.shapes_only())
        if unfused:
            modes.enter_context(engine.unfused())
        model, batch, ids = _run_model(run, real) if run is not None else (*_size_model(str(size)), None)
        model.train()
        source, target, following = _ids(model, batch, ids, real)
        if not real:
            return translation_loss(model(source, target), following, SMOOTHING)
        translation_loss(model(source, target), following, SMOOTHING).backward()         # warms the kernels up
        model.zero_grad()
        with engine.observe():
            loss = translation_loss(model(source, target), following, SMOOTHING)
            if backward:
                loss.backward()
        return loss


def _size_model(name: str) -> tuple[Model, tuple[int, int, int]]:
    from microtfm.bench.sizes import SIZES

    if name not in SIZES:
        raise UserError(f"--size {name} is not one of {', '.join(SIZES)}.")
    size = SIZES[name]
    settings = ModelSettings(d_model=size.d_model, heads=size.heads, layers=size.layers, ffn=size.ffn,
                             dropout=size.dropout, inner_dropout=size.dropout, final_norm=True, tie="none")
    engine.seed(0)
    return Transformer(settings, size.vocabulary, size.vocabulary), (size.batch, size.length, size.length)


def _run_model(folder: Path, real: bool) -> tuple[Model, tuple[int, int, int], list[np.ndarray] | None]:
    from microtfm.run_folder import RunFolder

    if _named(str(folder))[1] is not None:
        raise UserError(f"{folder} is not a run folder but a size: microtfm graph --size {folder}")
    run = RunFolder.open(folder)
    source, target = run.tokenizers()
    if not real:
        return build(run.settings.model, len(source), len(target)), SAMPLE, None
    return run.load_model(), SAMPLE, _sentences(run, source, target)


def _sentences(run: RunFolder, source: Tokenizer, target: Tokenizer) -> list[np.ndarray] | None:
    """The first sentences of the run's validation text as a batch of ids; None where the text is no longer there."""
    from microtfm import data

    given = run.settings.valid_src is not None
    path, other = (run.settings.valid_src, run.settings.valid_tgt) if given else (run.held_out, None)
    if path is None or not path.is_file() or (other is not None and not other.is_file()):
        return None
    pairs = [(source.encode(a), target.encode(b)) for a, b in data.read_parallel(path, other).pairs[:SAMPLE[0]]]
    batch = data.batch(pairs, range(len(pairs)))
    return [batch.source, batch.target_in, batch.target_out]


def _ids(model: Model, batch: tuple[int, int, int], given: list[np.ndarray] | None, real: bool) -> tuple[
        Tensor, Tensor, Tensor]:
    """A batch of the ids given, of random ones, or of their shapes."""
    rows, s, t = batch
    made: list[Any] = []
    rng = np.random.default_rng(0)
    sizes = (model.source_embedding.weight.shape[0], *[model.target_embedding.weight.shape[0]] * 2)
    for i, (name, length, words) in enumerate(zip(("source", "target", "next tokens"), (s, t, t), sizes, strict=True)):
        shape = (rows, length)
        ids = (Tensor.placeholder(shape, np.int64) if not real else Tensor(given[i]) if given is not None
               else Tensor(rng.integers(BOS + 1, words, shape)))
        ids.name, ids.axes = name, IDS["source" if name == "source" else "target"]
        made.append(ids)
    return made[0], made[1], made[2]
