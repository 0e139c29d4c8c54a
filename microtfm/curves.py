"""Learning curves: loss, learning rate and BLEU against the step, from metrics.jsonl."""
from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from microtfm import atomic
from microtfm.metrics import read

Line = dict[str, Any]
BLUE, ORANGE, GREY = "#2166ac", "#d95f02", "#555555"


def draw(metrics: Path, picture: Path) -> bool:
    """Draw metrics.jsonl as a PNG; needs no display. Returns False, writing nothing, where there is nothing to show."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = read(metrics)
    steps, checks = [x for x in lines if "loss" in x], [x for x in lines if "valid_loss" in x]
    if not steps:
        return False
    figure = Figure(figsize=(8, 8), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    loss, scores, rate = figure.subplots(3, 1, sharex=True, height_ratios=[3, 2, 1])
    _line(loss, steps, "loss", BLUE, "training")
    _line(loss, checks, "valid_loss", ORANGE, "validation", "o")
    loss.set_ylabel("loss a token")
    loss.set_ylim(bottom=0)
    loss.legend(frameon=False)
    _line(scores, checks, "bleu", ORANGE, "BLEU", "o")
    _line(scores, checks, "chrf", GREY, "chrF", "o")
    scores.set_ylabel("validation score")
    scores.set_ylim(0, 102)
    if checks:
        scores.legend(frameon=False, loc="lower right")
    _line(rate, steps, "lr", GREY, "learning rate")
    rate.set_ylabel("learning rate")
    rate.set_ylim(bottom=0)
    rate.set_xlabel("step")
    for axes in (loss, scores, rate):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    atomic.write(picture, [file.getvalue()])
    return True


def _line(axes: Any, lines: list[Line], key: str, colour: str, label: str, marker: str = "") -> None:
    shown = [line for line in lines if key in line]
    if shown:
        axes.plot([line["step"] for line in shown], [line[key] for line in shown], color=colour, label=label,
                  marker=marker, markersize=4, linewidth=1.5)
