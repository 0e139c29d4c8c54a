"""`microtfm graph`: the running model as a picture, forward and backward, at any level of detail."""
from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

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

SMOOTHING = 0.1                          # of the loss that is drawn (§5.4)
SAMPLE = (32, 12, 11)                    # sentences, source and target tokens of the batch that a run is drawn with


def draw(run: Path | None, size: str | None, *, backward: bool, depth: int | None, open_: list[str],
         level: Literal["module", "op"] | None, inside: str | None, unfused: bool, real: bool, out: Path | None) -> int:
    """Record one training step of a run's model, or of a model by its size, and write or print its graph."""
    if (run is None) == (size is None):
        raise UserError("Give a run folder or --size, one of the two: microtfm graph runs/demo, or microtfm graph "
                        "--size base.")
    if depth is not None and depth < 0:
        raise UserError(f"--depth {depth} must be 0 or more.")
    loss = record(run, size, unfused, real, backward)
    try:
        graph = engine.graph(loss, backward=backward)
        if out is None:
            print(graph.table())
        else:
            whole = out.suffix in (".html", ".json", ".txt") or level == "op" or inside is not None
            shown = depth if depth is not None or whole else 2
            graph.save(out, depth=shown, open=open_, level=level, inside=inside, title=f"microtfm {size or run}")
            print(f"{out}: {len(graph.boxes):,} boxes, {graph.parameters:,} parameters", file=sys.stderr)
    except engine.EngineError as error:
        raise UserError(str(error)) from None
    if graph.notice:
        print(f"note: {graph.notice}", file=sys.stderr)
    return 0


def record(run: Path | None, size: str | None, unfused: bool = False, real: bool = False,
           backward: bool = False) -> Tensor:
    """The loss of one batch with its whole record: on shapes alone, or with numbers and measured."""
    with ExitStack() as modes:
        if not real:
            modes.enter_context(engine.shapes_only())
        if unfused:
            modes.enter_context(engine.unfused())
        model, batch = _run_model(run, real) if run is not None else _size_model(str(size))
        model.train()
        source, target, following = _ids(model, batch, real)
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


def _run_model(folder: Path, real: bool) -> tuple[Model, tuple[int, int, int]]:
    from microtfm.run_folder import RunFolder

    run = RunFolder.open(folder)
    source, target = run.tokenizers()
    model = run.load_model() if real else build(run.settings.model, len(source), len(target))
    return model, SAMPLE


def _ids(model: Model, batch: tuple[int, int, int], real: bool) -> tuple[Tensor, Tensor, Tensor]:
    """A batch of random ids, or of their shapes."""
    rows, s, t = batch
    made: list[Any] = []
    rng = np.random.default_rng(0)
    sizes = (model.source_embedding.weight.shape[0], *[model.target_embedding.weight.shape[0]] * 2)
    for name, length, words in zip(("source", "target", "next tokens"), (s, t, t), sizes, strict=True):
        shape = (rows, length)
        ids = Tensor(rng.integers(BOS + 1, words, shape)) if real else Tensor.placeholder(shape, np.int64)
        ids.name, ids.axes = name, IDS["source" if name == "source" else "target"]
        made.append(ids)
    return made[0], made[1], made[2]
