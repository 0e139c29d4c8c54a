"""PNG and PDF: Graphviz draws the boxes and lines at the places that the layout has given them."""
from __future__ import annotations

import re
import shutil
from html import escape
from itertools import pairwise

from engine.diagram.boxes import Box
from engine.diagram.view import View
from engine.draw import colours
from engine.draw.route import Drawing, Point
from engine.draw.svg import Picture
from engine.draw.words import Line, Span
from engine.errors import GraphError

INSTALL = ("PNG and PDF need Graphviz's `dot`: apt install graphviz, brew install graphviz, or "
           "https://graphviz.org/download/. SVG, HTML, DOT and JSON need nothing.")


def has_graphviz() -> bool:
    """Whether Graphviz's programs are installed."""
    return shutil.which("dot") is not None


def raster(view: View, boxes: list[Box], kind: str, measured: bool = False, title: str = "") -> bytes:
    """The view as PNG or PDF. Raises GraphError where Graphviz is not installed."""
    if not has_graphviz():
        raise GraphError(INSTALL)
    import graphviz

    return graphviz.Source(placed_dot(Picture(view, boxes, measured), title), engine="neato").pipe(
        format=kind, neato_no_op=2, quiet=True)


def placed_dot(picture: Picture, title: str = "") -> str:
    """The drawing as DOT with the place of everything, for `neato -n2`."""
    d, view = picture.drawing, picture.view
    lines = ["digraph {", '  graph [outputorder=edgesfirst, pad=0.2, dpi=144, splines=true];',
             '  node [fontname="Helvetica", margin=0, fixedsize=true, penwidth=1];', "  edge [arrowsize=0.5];"]
    for n, (path, column, x, y, w, h) in enumerate(d.frames):
        lines.append(_node(f"f{n}", x, d.height - y, w, h, f'shape=box, style=rounded, label="", '
                           f'color="{picture.hue(column)}66"'))
        spans = picture.frame_spans(path, column)
        line = Line(spans, 9.5)
        at = x + line.width / 2 + 6 if column == 0 else x + w - line.width / 2 - 6
        lines.append(_node(f"t{n}", at - 1, d.height - y - 2, 2, 13, f"shape=plaintext, label=<{_html(line)}>"))
    for n, route in enumerate(d.routes):
        for end in ("a", "b"):
            x, y = route.points[0 if end == "a" else -1]
            lines.append(_node(f"{end}{n}", x, d.height - y, 0.1, 0.1, 'shape=point, style=invis, label=""'))
        lines.append(f'  a{n} -> b{n} [pos="{_spline(route.points, d.height)}", {picture.edge_style(route)}];')
    for n, label in enumerate(d.labels):
        x = label.x - label.line.width if label.left else label.x
        lines.append(_node(f"l{n}", x + (-3 if label.left else 5), d.height - label.y + 8, label.line.width, 10,
                           f'shape=plaintext, style=filled, fillcolor="white", label=<{_html(label.line)}>'))
    for item in view.items:
        x, y, w, h = d.boxes[item.id]
        words = picture.words[item.id]
        text = '<BR/>'.join(_html(line) for line in words.lines)
        lines.append(_node(f"n{item.id}", x, d.height - y, w, h,
                           f'shape=box, style="rounded,filled", color="{picture.box_stroke(item)}", '
                           f'fillcolor="{picture.box_fill(item)}", label=<{text}>'))
    return "\n".join([*lines, *_arcs(picture), *_heads(picture), *_legend(picture, title), "}"])


def _arcs(picture: Picture) -> list[str]:
    """Residual connections inside closed boxes."""
    lines, d = [], picture.drawing
    for item in (item for item in picture.view.items if item.residuals):
        x, y, _, h = d.boxes[item.id]
        path: list[Point] = [(x, y + 8), (x - 10, y + 8), (x - 10, y + h - 8), (x, y + h - 8)]
        for end, (px, py) in (("ra", path[0]), ("rb", path[-1])):
            lines.append(_node(f"{end}{item.id}", px, d.height - py, 0.1, 0.1, 'shape=point, style=invis, label=""'))
        lines.append(f'  ra{item.id} -> rb{item.id} [pos="{_spline(path, d.height)}", color="{colours.RESIDUAL}", '
                     "penwidth=1.5];")
    return lines


def _heads(picture: Picture) -> list[str]:
    """What the columns are."""
    d, lines = picture.drawing, []
    for column, (left, right) in d.columns.items() if len(d.columns) > 1 else ():
        title = Line([Span(picture.column_title(column), picture.hue(column), True)], 11.0)
        lines.append(_words(f"h{column}", (left + right) / 2, 16, title, d))
    return lines


def _legend(picture: Picture, title: str) -> list[str]:
    """The legend in words: a sample is an arrow or a square of its colour."""
    lines, d = [], picture.drawing
    for n, (x, top, (sample, spans, room)) in enumerate(picture.legend(d.height + 6, title)):
        colour = re.search(r"#[0-9a-f]{6}", sample)
        glyph = [Span("■ " if "<rect" in sample else "→ ", colour[0], True)] if colour else []
        line = Line([*glyph, *spans], 9.0)
        lines.append(_words(f"k{n}", x + line.width / 2 + room / 4, top, line, d))
    return lines


def _words(name: str, x: float, y: float, line: Line, d: Drawing) -> str:
    """A line of text with its middle at a place."""
    return _node(name, x - line.width / 2, d.height - y + line.size, line.width, line.size * 1.2,
                 f"shape=plaintext, label=<{_html(line)}>")


def _node(name: str, x: float, top: float, w: float, h: float, style: str) -> str:
    return (f'  {name} [pos="{x + w / 2:.1f},{top - h / 2:.1f}", width={w / 72:.4f}, height={h / 72:.4f}, {style}];')


def _html(line: Line) -> str:
    pieces = []
    for span in line.spans:
        piece = escape(span.text).replace("  ", "&#160;&#160;")
        piece = f"<B>{piece}</B>" if span.bold else f"<I>{piece}</I>" if span.italic else piece
        pieces.append(f'<FONT COLOR="{span.colour}" POINT-SIZE="{line.size * 0.92:.1f}">{piece}</FONT>')
    return "".join(pieces)


def _spline(points: list[Point], height: float) -> str:
    """A polyline as Graphviz's spline: an arrow head, then straight cubic pieces."""
    flipped = [(x, height - y) for x, y in points]
    (ax, ay), (bx, by) = flipped[-2], flipped[-1]
    length = max(((bx - ax) ** 2 + (by - ay) ** 2) ** 0.5, 1e-6)
    back = min(5.0, length / 2) / length
    last = (bx + (ax - bx) * back, by + (ay - by) * back)
    flipped[-1] = last
    text = f"e,{bx:.1f},{by:.1f} {flipped[0][0]:.1f},{flipped[0][1]:.1f}"
    for (x, y), (u, v) in pairwise(flipped):
        a, b = (u - x) / 3, (v - y) / 3
        text += f" {x + a:.1f},{y + b:.1f} {u - a:.1f},{v - b:.1f} {u:.1f},{v:.1f}"
    return text
