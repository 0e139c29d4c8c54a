"""Tables of numbers as pictures: the positional encoding (§3.5) and the masks (§3.2.3)."""
from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from microtfm.attention_map import FAMILY
from microtfm.layers import sinusoids

LOW, MIDDLE, HIGH = (33, 102, 172), (247, 247, 247), (178, 24, 43)
OPEN, SHUT = "#3b6ea5", "#eceff3"
MARGIN = 24.0


def encoding_svg(length: int = 40, d_model: int = 48) -> str:
    """The positional encoding, a row a position and a column a dimension, blue −1 to red +1."""
    table, cell = sinusoids(length, d_model), 12.0
    left, top = MARGIN + 34, 78.0
    parts = [_text(MARGIN, 26, f"Positional encoding, {length} positions × D = {d_model}", 16, "600"),
             _text(MARGIN, 44, "PE[pos, 2i] = sin(pos / 10000^(2i/D)), PE[pos, 2i+1] = cos(…): fast waves on the left, "
                               "slow ones on the right", 11),
             _text(left, top - 8, "dimension →", 10), _text(MARGIN - 4, top + 9, "pos", 10)]
    for i in range(9):                   # the scale
        parts.append(f'<rect x="{left + cell * d_model - 150 + 14 * i:g}" y="{top - 20:g}" width="14" height="10" '
                     f'fill="{_colour(i / 4 - 1)}"/>')
    parts += [_text(left + cell * d_model - 154, top - 11, "−1", 10, anchor="end"),
              _text(left + cell * d_model - 20, top - 11, "1", 10)]
    for p in range(0, length, 5):
        parts.append(_text(left - 6, top + cell * (p + 0.8), str(p), 9, anchor="end"))
    for p, row in enumerate(table):
        for i, v in enumerate(row):
            parts.append(f'<rect x="{left + cell * i:g}" y="{top + cell * p:g}" width="{cell:g}" height="{cell:g}" '
                         f'fill="{_colour(float(v))}"><title>PE[{p}, {i}] = {v:.3f}</title></rect>')
    return _page("Positional encoding", left + cell * d_model + MARGIN, top + cell * length + MARGIN, parts)


def masks_svg(lengths: Sequence[int] = (6, 4, 5), target: int = 6) -> str:
    """The three masks of a batch: which source keys are real, which past a query may see, and both applied."""
    source = max(lengths)
    padding = np.arange(source)[None, :] < np.asarray(lengths)[:, None]                            # (B, S)
    causal = np.tril(np.ones((target, target), bool))                                              # (T, T)
    panels = [("source mask (B, 1, 1, S)", "sentence", "source position S", padding),
              ("causal mask (T, T)", "query T", "key T", causal)]
    panels += [(f"cross-attention, sentence {b}", "query T", "source key S", np.tile(row, (target, 1)))
               for b, row in enumerate(padding)]
    parts = [_text(MARGIN, 26, "Masks: blue = attend", 16, "600"),
             _text(MARGIN, 44, "Padding is never a key; in the decoder's self-attention no query sees what comes after "
                               "it.", 11)]
    x, cell = MARGIN + 20, 22.0
    tall = 0.0
    for name, down, across, mask in panels:
        top = 96.0
        parts += [_text(x, top - 20, name, 11, "600"), _text(x, top - 6, f"{across} →", 9),
                  f'<text transform="translate({x - 6:g} {top + 4:g}) rotate(-90)" font-size="9" text-anchor="end">'
                  f"← {escape(down)}</text>"]
        for i, row in enumerate(mask):
            for j, v in enumerate(row):
                parts.append(f'<rect x="{x + cell * j:g}" y="{top + cell * i:g}" width="{cell:g}" height="{cell:g}" '
                             f'fill="{OPEN if v else SHUT}" stroke="#ffffff"><title>{down} {i}, {across} {j}: '
                             f'{"attend" if v else "hidden"}</title></rect>')
        tall = max(tall, top + cell * len(mask))
        x += max(cell * mask.shape[1], 150.0) + 44
    return _page("Masks", x, tall + MARGIN, parts)


def _colour(v: float) -> str:
    end, t = (HIGH, v) if v > 0 else (LOW, -v)
    return "#" + "".join(f"{round(a + (b - a) * t):02x}" for a, b in zip(MIDDLE, end, strict=True))


def _text(x: float, y: float, text: str, size: float, weight: str = "400", anchor: str = "start") -> str:
    return (f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" font-weight="{weight}" text-anchor="{anchor}" '
            f'fill="#1f2933">{escape(text)}</text>')


def _page(title: str, width: float, height: float, parts: Sequence[str]) -> str:
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
            f'viewBox="0 0 {width:.0f} {height:.0f}" role="img" font-family="{escape(FAMILY)}"><title>{title}</title>\n'
            '<rect width="100%" height="100%" fill="#ffffff"/>\n' + "\n".join(parts) + "\n</svg>\n")
