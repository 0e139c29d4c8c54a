"""Memory over a training step as a picture: every tensor a rectangle, as wide as its life and as high as its bytes."""
from __future__ import annotations

from bisect import insort
from html import escape
from typing import TYPE_CHECKING

from engine.diagram.boxes import Box
from engine.draw import colours
from engine.draw.marks import bytes_text
from engine.draw.svg import FONT
from engine.draw.words import text_width

if TYPE_CHECKING:
    from engine.diagram.memory import Life, Memory

WIDTH, HIGH, STRIP, LEFT, TOP = 900.0, 420.0, 70.0, 62.0, 62.0
MOST = 700                               # tensors that are drawn: the largest
KINDS = (("parameters and inputs", "#b7dfb5"), ("saved for the backward pass", "#b8c0ca"),
         ("only for the next ops", "#a9c8ea"), ("gradients", "#f1b3ab"))


def lives_svg(memory: Memory, boxes: list[Box], title: str = "") -> str:
    """Lives of the largest tensors over the steps of the pass, below them live bytes with the peak marked."""
    drawn = sorted(memory.lives, key=lambda life: (-life.bytes, life.box))[:MOST]
    floors, high = stacked(drawn)
    steps = max(len(memory.live) - 1, 1)
    wide = (WIDTH - LEFT - 16) / steps
    scale = HIGH / max(high, 1)
    turn = next((b.id for b in boxes if b.column), None)
    parts = [_text(LEFT, 22, title or "memory over the pass", 14, colours.INK, "bold"), *_legend()]
    for power in _grid(high):
        y = TOP + HIGH - power * scale
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - 16}" stroke="#e2e6ea"/>'
                     + _text(LEFT - 6, y + 3, bytes_text(power), 9, colours.FAINT, anchor="end"))
    for life, floor in zip(drawn, floors, strict=True):
        x, w = LEFT + wide * life.born, max(wide * (life.dies - life.born + 1), 0.6)
        h = life.bytes * scale
        parts.append(_tensor(boxes[life.box], life, x, TOP + HIGH - floor * scale - h, min(w, WIDTH - 16 - x), h))
    bottom = TOP + HIGH + 26
    parts += _strip(memory, bottom, wide)
    if turn is not None:
        x = LEFT + wide * turn
        parts.append(f'<path d="M{x:.1f} {TOP}V{bottom + STRIP}" stroke="{colours.INK}" stroke-dasharray="2 3"/>'
                     + _text(x - 4, TOP - 4, "forward", 10, colours.STROKE[0], "bold", "end")
                     + _text(x + 4, TOP - 4, "backward", 10, colours.STROKE[1], "bold"))
    rest = len(memory.lives) - len(drawn)
    if rest:
        small = sum(life.bytes for life in memory.lives) - sum(life.bytes for life in drawn)
        parts.append(_text(LEFT, bottom + STRIP + 32, f"Not drawn: {rest:,} smaller tensors, together "
                           f"{bytes_text(small)}.", 9.5, colours.FAINT))
    at, most = memory.peak
    height = bottom + STRIP + 42
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:g} {height:g}" width="{WIDTH:g}" '
            f'height="{height:g}" role="img" font-family="{escape(FONT)}">\n<title>'
            f'{escape(title or "memory over the pass")}</title>\n<desc>{len(memory.lives):,} tensors; the peak is '
            f'{bytes_text(most)} at step {at:,} of {len(memory.live):,}.</desc>\n<rect width="100%" height="100%" '
            f'fill="{colours.PAPER}"/>\n' + "\n".join(parts) + "\n</svg>\n")


def stacked(lives: list[Life]) -> tuple[list[int], int]:
    """How high above the floor each tensor lies so that no two overlap, in bytes; and the height of the pile.

    The largest lie lowest: each takes the lowest gap that is free over its whole life.
    """
    floors: list[int] = []
    high = 0
    for n, life in enumerate(lives):
        taken: list[tuple[int, int]] = []
        for other, floor in zip(lives[:n], floors, strict=True):
            if other.born <= life.dies and life.born <= other.dies:
                insort(taken, (floor, floor + other.bytes))
        at = 0
        for low, up in taken:
            if low - at >= life.bytes:
                break
            at = max(at, up)
        floors.append(at)
        high = max(high, at + life.bytes)
    return floors, high


def kind(box: Box) -> int:
    """Which of KINDS a tensor is."""
    if box.column:
        return 3
    if box.kind in ("input", "parameter"):
        return 0
    return 1 if any(e.kind == "saved" for e in box.readers) else 2


def _tensor(box: Box, life: Life, x: float, y: float, w: float, h: float) -> str:
    name = f"{box.label} {box.name}".strip() if box.op else box.name or box.label
    tip = (f"{box.id} {name}{' in ' + '/'.join(box.path) if box.path else ''}: {box.shape}, {bytes_text(life.bytes)}, "
           f"steps {life.born} to {life.dies}")
    fill = KINDS[kind(box)][1]
    text = ""
    if h >= 9 and w >= 30:
        shown = name
        while shown and text_width(shown, 8) > w - 6:
            shown = shown[:-2].rstrip("…") + "…" if len(shown) > 3 else ""
        text = _text(x + 3, y + min(h / 2 + 3, h - 2.5), shown, 8, colours.INK) if shown else ""
    return (f'<g><title>{escape(tip)}</title><rect x="{x:.1f}" y="{y:.2f}" width="{w:.1f}" height="{h:.2f}" '
            f'fill="{fill}" stroke="{colours.PAPER}" stroke-width="{min(0.5, h / 4):.2f}"/>{text}</g>')


def _legend() -> list[str]:
    parts, x = [], LEFT
    for name, colour in KINDS:
        parts.append(f'<rect x="{x:.1f}" y="32" width="14" height="9" fill="{colour}"/>'
                     + _text(x + 18, 40, name, 9.5, colours.INK))
        x += 36 + text_width(name, 9.5)
    return parts


def _grid(high: int) -> list[float]:
    """Round numbers of bytes up to the height."""
    step = 10.0 ** (len(str(max(high, 1))) - 1)
    step = next(s for s in (step / 5, step / 2, step, step * 2) if high / s <= 6)
    return [i * step for i in range(int(high / step) + 1)]


def _strip(memory: Memory, y: float, wide: float) -> list[str]:
    at, most = memory.peak
    points = [f"{LEFT + wide * i:.1f},{y + STRIP - (STRIP - 14) * live / max(most, 1):.1f}"
              for i, live in enumerate(memory.live)]
    end = LEFT + wide * max(len(memory.live) - 1, 1)
    x = LEFT + wide * at
    late = at > len(memory.live) / 2
    return [f'<polygon points="{LEFT:.1f},{y + STRIP:.1f} {" ".join(points)} {end:.1f},{y + STRIP:.1f}" '
            f'fill="{colours.STROKE[0]}" fill-opacity="0.3" stroke="{colours.STROKE[0]}" stroke-width="0.8"/>',
            f'<path d="M{x:.1f} {TOP}V{y + STRIP:.1f}" stroke="{colours.RED}"/>',
            _text(x + (-4 if late else 4), y + 8, f"peak {bytes_text(most)} at step {at:,}", 9.5, colours.RED, "bold",
                  "end" if late else "start"),
            _text(LEFT, y - 4, "live bytes", 9.5, colours.INK),
            _text((LEFT + end) / 2, y + STRIP + 16, f"step, 0 to {len(memory.live) - 1:,}: the order of execution", 10,
                  colours.INK, anchor="middle")]


def _text(x: float, y: float, text: str, size: float, colour: str, weight: str = "", anchor: str = "start") -> str:
    bold = f' font-weight="{weight}"' if weight else ""
    return (f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" fill="{colour}" text-anchor="{anchor}"{bold}>'
            f'{escape(text)}</text>')
