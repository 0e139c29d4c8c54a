"""Cross-attention as a picture: which source pieces the model looked at while it wrote each target piece.

The SVG stands alone. It carries a small font (a subset of Noto Sans CJK SC, SIL Open Font License, `fonts/OFL.txt`)
with the characters of the demo and the commonest others, so that Chinese is readable on a machine without Chinese
fonts; characters beyond it fall back to the system's.
"""

from __future__ import annotations

import base64
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from microtfm import atomic

CELL = 22                        # pixels a side
FONT_SIZE = 13
GAP = 26                         # between panels
MARGIN = 20
LONGEST_LABEL = 16               # characters
PANELS_WIDE = 4                  # at most; further heads go below
PALE, DARK = (247, 251, 255), (8, 48, 107)
FAMILY = ("'microtfm CJK', 'Noto Sans CJK SC', 'Noto Sans SC', 'Source Han Sans SC', 'PingFang SC', 'Microsoft YaHei', "
          "'WenQuanYi Micro Hei', sans-serif")
FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")       # in XML


def attention_svg(weights: ArrayLike, source_pieces: Sequence[str], target_pieces: Sequence[str],
                  path: str | os.PathLike[str] | None = None, *, title: str = "Cross-attention") -> str:
    """Draw attention weights as SVG text, and write it to `path` if one is given.

    `weights` is (layers, heads, T, S), or (T, S) for one panel; each cell is one weight, 0 pale and 1 dark, shown in
    figures when the pointer rests on it. Targets run down, sources across. Raises ValueError when the shape does not
    fit the pieces, UserError when the file cannot be written.
    """
    array = np.asarray(weights, dtype=np.float64)
    if array.ndim not in (2, 4):
        raise ValueError(f"weights must be (layers, heads, T, S) or (T, S), not {array.shape}")
    if array.shape[-2:] != (len(target_pieces), len(source_pieces)):
        raise ValueError(f"weights of shape {array.shape} do not fit {len(target_pieces)} target and "
                         f"{len(source_pieces)} source pieces")
    sources, targets = [_label(piece) for piece in source_pieces], [_label(piece) for piece in target_pieces]
    text = _document(array, sources, targets, title)
    if path is not None:
        atomic.write(Path(path), [text.encode()])
    return text


def _document(array: NDArray[np.float64], sources: list[str], targets: list[str], title: str) -> str:
    leaning = max((width for width in map(_width, sources) if width > CELL), default=0.0)
    left = max(map(_width, targets), default=0) + 8
    top = 20 + (leaning * 0.87 + 12 if leaning else FONT_SIZE + 6)
    lean = leaning * 0.5
    panels = list(_panels(array))
    columns = min(PANELS_WIDE, len(panels)) if array.ndim == 2 else _columns(array.shape[1])
    wide = left + max(CELL * len(sources) + lean, 90)
    high = top + CELL * len(targets)
    rows = -(-len(panels) // columns) if panels else 0
    head = MARGIN + 78
    width = max(MARGIN * 2 + columns * wide + (columns - 1) * GAP, 560)
    height = head + rows * high + max(rows - 1, 0) * GAP + MARGIN
    drawn = [_heading(title)]
    for index, (name, matrix) in enumerate(panels):
        x = MARGIN + (index % columns) * (wide + GAP) + left
        y = head + (index // columns) * (high + GAP) + top
        drawn += [f'<g transform="translate({x:.1f} {y:.1f})">',
                  *_panel(name, matrix, sources, targets, top), "</g>"]
    style = f"text {{ font: {FONT_SIZE}px {FAMILY}; fill: #1f2933 }} .small {{ font-size: 12px; fill: #52606d }}"
    style = font_style((*sources, *targets, title)) + style
    return "\n".join((
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(_plain(title))}">',
        f"<style>{style}</style>",
        '<rect width="100%" height="100%" fill="#ffffff"/>', *drawn, "</svg>", "",
    ))


def strongest(weights: ArrayLike, source_pieces: Sequence[str], target_pieces: Sequence[str]) -> tuple[
        list[str], list[list[str]]]:
    """The same as a table, heads and rows: for each target piece, where each head looked most, and how much."""
    panels = list(_panels(np.asarray(weights, np.float64)))
    heads = ["target piece", *(name for name, _ in panels)]
    rows = [[_label(piece), *(f"{_label(source_pieces[int(m[t].argmax())])} {m[t].max():.2f}" for _, m in panels)]
            for t, piece in enumerate(target_pieces)]
    return heads, rows


def font_style(texts: Iterable[str]) -> str:
    """CSS that brings the font along where a text needs it, for a `<style>` in an SVG; else nothing."""
    return _font_face() if any(ord(char) > 0x2000 for text in texts for char in text) else ""


def _columns(heads: int) -> int:
    """Panels a row, so that a layer fills whole rows: the heads, or their largest divisor that is few enough."""
    return next((n for n in range(min(heads, PANELS_WIDE), 0, -1) if heads % n == 0), 1)


def _panels(array: NDArray[np.float64]) -> Iterator[tuple[str, NDArray[np.float64]]]:
    if array.ndim == 2:
        yield "", array
        return
    for layer, heads in enumerate(array, 1):
        for head, matrix in enumerate(heads, 1):
            yield f"layer {layer}, head {head}", matrix


def _heading(title: str) -> str:
    legend = MARGIN + 300
    return "\n".join((
        f'<text x="{MARGIN}" y="{MARGIN + 16}" style="font-size: 18px; font-weight: 600">'
        f"{escape(_plain(title))}</text>",
        f'<text class="small" x="{MARGIN}" y="{MARGIN + 38}">A row is a target piece as it is written, a column a '
        "source piece; each row adds up to 1.</text>",
        '<defs><linearGradient id="scale">'
        f'<stop offset="0" stop-color="{_colour(0)}"/><stop offset="1" stop-color="{_colour(1)}"/>'
        "</linearGradient></defs>",
        f'<text class="small" x="{MARGIN}" y="{MARGIN + 60}">weight 0</text>',
        f'<rect x="{MARGIN + 58}" y="{MARGIN + 50}" width="{legend - MARGIN - 100}" height="12" '
        'fill="url(#scale)" stroke="#9aa5b1" stroke-width="0.5"/>',
        f'<text class="small" x="{legend - 34}" y="{MARGIN + 60}">1</text>',
    ))


def _panel(name: str, matrix: NDArray[np.float64], sources: list[str], targets: list[str],
           top: float) -> Iterator[str]:
    if name:
        yield f'<text x="0" y="{14 - top:.1f}" style="font-weight: 600">{name}</text>'
    for s, label in enumerate(sources):
        x = (s + 0.5) * CELL
        place = (f'x="{x}" y="-6" text-anchor="middle"' if _width(label) <= CELL
                 else f'transform="translate({x + 3} -6) rotate(-60)"')
        yield f"<text {place}>{escape(label)}</text>"
    for t, label in enumerate(targets):
        yield f'<text x="-7" y="{(t + 0.5) * CELL + FONT_SIZE * 0.36:.1f}" text-anchor="end">{escape(label)}</text>'
        for s, weight in enumerate(matrix[t]):
            figure = f"{weight:.3f}" if np.isfinite(weight) else "not a number"
            yield (f'<rect x="{s * CELL}" y="{t * CELL}" width="{CELL}" height="{CELL}" fill="{_colour(weight)}" '
                   f'data-c="{t},{s}" stroke="#e4e7eb"><title>{escape(label)} ← {escape(sources[s])}: {figure}</title>'
                   "</rect>")


def _colour(weight: float) -> str:
    if not np.isfinite(weight):
        return "#f3c5c5"
    share = min(max(float(weight), 0.0), 1.0)
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(PALE, DARK, strict=True))


def _width(label: str) -> float:
    """A label's width in pixels, about: wide characters are square."""
    return sum(FONT_SIZE if unicodedata.east_asian_width(char) in "WF" else FONT_SIZE * 0.6 for char in label)


def _plain(text: str) -> str:
    return FORBIDDEN.sub("\ufffd", text)


def _label(piece: str) -> str:
    piece = _plain(piece) or "∅"
    return piece if len(piece) <= LONGEST_LABEL else piece[:LONGEST_LABEL - 1] + "…"


def _font_face() -> str:
    data = resources.files(__package__).joinpath("fonts/toy-cjk.woff2").read_bytes()
    encoded = base64.b64encode(data).decode("ascii")
    return ("@font-face { font-family: 'microtfm CJK'; src: url(data:font/woff2;base64," + encoded
            + ") format('woff2') } ")
