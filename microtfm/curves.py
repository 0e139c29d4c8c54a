"""Learning curves: loss, learning rate and BLEU against the step, from metrics.jsonl, as SVG and as one HTML page."""
from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import resources
from math import ceil, floor, isfinite, log10
from pathlib import Path
from typing import Any

from microtfm import atomic
from microtfm.metrics import read

Line = dict[str, Any]
Point = tuple[float, float]
BLUE, ORANGE, GREY, INK, RULE, PAPER = "#2166ac", "#c2560a", "#5b6470", "#1f2933", "#d5dbe1", "#ffffff"
WIDTH, LEFT, RIGHT, TOP, BETWEEN, BOTTOM = 860.0, 64.0, 20.0, 58.0, 34.0, 46.0
POINTS = 800                             # of one curve: more steps are drawn as the means of neighbours


@dataclass
class Curve:
    """One quantity against the step. Sparse ones, measured at a validation, have a mark at each point."""
    name: str
    key: str
    colour: str
    marks: bool = False
    points: list[Point] = field(default_factory=list)


@dataclass
class Panel:
    """Curves over one vertical axis, which begins at 0."""
    title: str
    height: float
    curves: list[Curve]
    most: float | None = None            # where the axis ends; None: a little above the largest value
    top: float = 0.0


def draw(metrics: Path, picture: Path) -> bool:
    """Draw metrics.jsonl as `picture`, an SVG, and beside it as an HTML page that shows values under the pointer.

    Returns False, writing nothing, where there is nothing to show. Raises UserError where a file cannot be written.
    """
    panels = panels_of(read(metrics))
    if not panels:
        return False
    title = f"Learning curves of {picture.absolute().parent.name}"
    svg = curves_svg(panels, title)
    atomic.write(picture, [svg.encode()])
    atomic.write(picture.with_suffix(".html"), [curves_page(panels, svg, title).encode()])
    return True


def panels_of(lines: Sequence[Line]) -> list[Panel]:
    """Loss, scores and learning rate as far as the lines have them; empty where no step was logged."""
    if not any("loss" in line for line in lines):
        return []
    panels = [Panel("loss a token", 230.0, [Curve("training", "loss", BLUE),
                                            Curve("validation", "valid_loss", ORANGE, True)]),
              Panel("validation score", 150.0, [Curve("BLEU", "bleu", ORANGE, True),
                                                Curve("chrF", "chrf", GREY, True)], 100.0),
              Panel("learning rate", 90.0, [Curve("learning rate", "lr", GREY)])]
    for panel in panels:
        for curve in panel.curves:
            marked = [line for line in lines if "valid_loss" in line] if curve.key in ("bleu", "chrf") else lines
            curve.points = thinned([(line["step"], line[curve.key]) for line in marked
                                    if isinstance(line.get(curve.key), int | float) and isfinite(line[curve.key])])
        panel.curves = [curve for curve in panel.curves if curve.points]
    return [panel for panel in panels if panel.curves]


def thinned(points: Sequence[Point], most: int = POINTS) -> list[Point]:
    """At most so many points: the means of neighbours; the last one is kept as it is."""
    share = -(-len(points) // most)
    if share <= 1:
        return list(points)
    groups = [points[i:i + share] for i in range(0, len(points) - 1, share)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups] + [points[-1]]


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers between two, about so many: steps of 1, 2 or 5 times a power of ten."""
    span = max(high - low, 1e-12)
    power = 10.0 ** floor(log10(span / about))
    step = next(k * power for k in (1, 2, 5, 10) if span / (k * power) <= about)
    return [i * step for i in range(ceil(low / step - 1e-9), floor(high / step + 1e-9) + 1)]


class _Scale:
    """Where a step and a value stand, in pixels."""

    def __init__(self, panels: Sequence[Panel]) -> None:
        steps = [x for panel in panels for curve in panel.curves for x, _ in curve.points]
        self.first, self.last = min(steps), max(*steps, min(steps) + 1)
        self.most: dict[int, float] = {}
        top = TOP
        for panel in panels:
            panel.top = top
            top += panel.height + BETWEEN
            largest = max(y for curve in panel.curves for _, y in curve.points)
            self.most[id(panel)] = panel.most if panel.most is not None else (largest * 1.05 or 1.0)
        self.height = top - BETWEEN + BOTTOM

    def x(self, step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (step - self.first) / (self.last - self.first)

    def y(self, panel: Panel, value: float) -> float:
        return panel.top + panel.height * (1 - value / self.most[id(panel)])


def curves_svg(panels: Sequence[Panel], title: str) -> str:
    """The panels below each other over one axis of steps; a mark's value is its tooltip."""
    scale = _Scale(panels)
    parts = [_text(LEFT, 24, title, INK, 15, weight="600")]
    for panel in panels:
        parts += _panel(panel, scale)
    bottom = panels[-1].top + panels[-1].height
    for step in ticks(scale.first, scale.last, 8):
        parts.append(_text(scale.x(step), bottom + 16, f"{step:,.10g}", GREY, 11, "middle"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, bottom + 34, "step", INK, 11.5, "middle"))
    ends = "; ".join(f"{curve.name} {curve.points[-1][1]:.4g}" for panel in panels for curve in panel.curves)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:g} {scale.height:g}" width="{WIDTH:g}" '
            f'height="{scale.height:g}" role="img" font-family="Helvetica, Arial, \'Liberation Sans\', sans-serif">\n'
            f'<title>{escape(title)}</title>\n<desc>At the last step: {escape(ends)}.</desc>\n'
            f'<rect class="paper" width="100%" height="100%" fill="{PAPER}"/>\n' + "\n".join(parts) + "\n</svg>\n")


def _panel(panel: Panel, scale: _Scale) -> Iterable[str]:
    right = WIDTH - RIGHT
    yield _text(LEFT, panel.top - 8, panel.title, INK, 11.5, weight="600")
    for value in ticks(0, scale.most[id(panel)], max(3, int(panel.height / 40))):
        y = scale.y(panel, value)
        yield f'<path class="rule" d="M{LEFT:g} {y:.1f}H{right:g}" stroke="{RULE}"/>'
        yield _text(LEFT - 8, y + 4, f"{value:.6g}", GREY, 11, "end")
    at = right
    for curve in reversed(panel.curves if panel.curves[0].name != panel.title else []):      # the legend
        at -= 7.0 * len(curve.name) + 34
        mark = f'<circle cx="{at + 9:g}" cy="{panel.top - 12:g}" r="3" fill="{curve.colour}"/>' if curve.marks else ""
        yield (f'<g class="{curve.key}"><path d="M{at:g} {panel.top - 12:g}h18" stroke="{curve.colour}" '
               f'stroke-width="2"/>{mark}</g>' + _text(at + 23, panel.top - 8, curve.name, INK, 11.5))
    for curve in panel.curves:
        places = [(scale.x(x), scale.y(panel, y)) for x, y in curve.points]
        d = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        yield (f'<g class="{curve.key}"><path d="M{d}" fill="none" stroke="{curve.colour}" stroke-width="1.6" '
               f'stroke-linejoin="round"/>')
        for (x, y), (step, value) in zip(places, curve.points, strict=True):
            if curve.marks or len(places) == 1:
                yield (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{curve.colour}"><title>{curve.name} at step '
                       f'{step:,.10g}: {value:.4g}</title></circle>')
        yield "</g>"


def _text(x: float, y: float, text: str, colour: str, size: float, anchor: str = "start", weight: str = "400") -> str:
    kind = "ink" if colour == INK else "faint"
    return (f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" font-weight="{weight}" '
            f'text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>')


def curves_page(panels: Sequence[Panel], svg: str, title: str) -> str:
    """The SVG in an offline page: the values at the step under the pointer, or under the arrow keys, and a table."""
    scale = _Scale(panels)
    data = {"first": scale.first, "last": scale.last, "left": LEFT, "right": WIDTH - RIGHT, "width": WIDTH,
            "top": panels[0].top, "bottom": panels[-1].top + panels[-1].height,
            "curves": [{"name": f"{curve.name}, {panel.title}" if len(panel.curves) > 1 else curve.name,
                        "key": curve.key, "points": [[round(x, 2), float(f"{y:.6g}")] for x, y in curve.points],
                        "y": [round(scale.y(panel, y), 1) for _, y in curve.points], "colour": curve.colour}
                       for panel in panels for curve in panel.curves]}
    page = resources.files(__package__).joinpath("curves.html").read_text(encoding="utf-8")
    return (page.replace("__TITLE__", escape(title)).replace("__SVG__", svg)
            .replace('"__DATA__"', json.dumps(data, separators=(",", ":"))))
