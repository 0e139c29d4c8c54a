"""What a real run adds to the picture: heat, the first number that is not finite, attention weights, memory."""
from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from html import escape

from engine.diagram.boxes import Box
from engine.diagram.memory import memory
from engine.draw import colours


def marks(box: Box, boxes: list[Box], x: float, y: float, w: float, h: float, bad: Box | None,
          alone: bool = True) -> str:
    """Magnitudes of value and gradient under the box's text, a ring where numbers first were not finite, and the
    attention weights of the first sentence, head by head."""
    parts = []
    seen = box.seen
    gradient = boxes[box.gradient].seen if box.gradient is not None else None
    if seen is not None:
        parts.append(_bar(x + 10, y + h - 5, w / 2 - 10, seen.rms))
    if gradient is not None:
        parts.append(_bar(x + w / 2, y + h - 5, w / 2 - 10, gradient.rms))
    if seen is not None and seen.weights and alone:
        n = len(seen.weights)
        side = min(24.0, (w - 8) / n - 2)
        left = x + w / 2 - n * (side + 2) / 2
        for k, head in enumerate(seen.weights):
            parts.append(f'<image x="{left + k * (side + 2):.1f}" y="{y + h - 33:.1f}" width="{side:.1f}" '
                         f'height="{side:.1f}" preserveAspectRatio="none" style="image-rendering:pixelated" '
                         f'href="data:image/png;base64,{png(head)}"><title>attention weights of head {k}: rows are '
                         f'queries, columns keys, dark is 1</title></image>')
    if bad is not None and bad.seen is not None:
        parts.append(ring(x, y, w, h, f"the first number that is not finite: {bad.seen.line}"))
    return "".join(parts)


def ring(x: float, y: float, w: float, h: float, tip: str) -> str:
    """A red ring around a box."""
    return (f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="{w + 8:.1f}" height="{h + 8:.1f}" rx="9" fill="none" '
            f'stroke="{colours.RED}" stroke-width="3"><title>{escape(tip)}</title></rect>')


def _bar(x: float, y: float, w: float, rms: float) -> str:
    return (f'<rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="3" fill="{colours.heat(rms)}" '
            f'stroke="{colours.FAINT}" stroke-width="0.3"><title>root mean square {rms:.3g}</title></rect>')


def png(rows: Sequence[Sequence[int]]) -> str:
    """A picture in shades, 255 darkest, as PNG in base64."""
    height, width = len(rows), len(rows[0])
    raw = b"".join(b"\0" + bytes(v for cell in row for v in (255 - cell, 255 - cell * 2 // 3, 255)) for row in rows)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw, 9))
                            + chunk(b"IEND", b"")).decode("ascii")


def bytes_text(n: float) -> str:
    """`4.2 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.3g} TB"


def memory_strip(boxes: list[Box], x: float, y: float, width: float) -> str:
    """Live bytes over the pass, the peak marked."""
    found = memory(boxes)
    if not found.live:
        return ""
    at, most = found.peak
    steps = max(len(found.live) - 1, 1)
    stride = max(1, len(found.live) // 800)
    points = [f"{x + width * i / steps:.1f},{y + 62 - 44 * max(found.live[i:i + stride]) / max(most, 1):.1f}"
              for i in range(0, len(found.live), stride)]
    peak = x + width * at / steps
    turn = next((i for i, b in enumerate(boxes) if b.column), None)
    anchor = "end" if at > steps / 2 else "start"
    border = "" if turn is None else (
        f'<path d="M{x + width * turn / steps:.1f} {y + 16:.1f}v46" stroke="{colours.FAINT}" stroke-dasharray="2 2"/>')
    return (f'<g class="memory"><title>live bytes over forward and backward; peak {most:,} at step {at}</title>'
            f'<text x="{x:.1f}" y="{y + 10:.1f}" font-size="9" fill="{colours.INK}">live memory, step by step</text>'
            f'<polygon points="{x:.1f},{y + 62:.1f} {" ".join(points)} {x + width:.1f},{y + 62:.1f}" '
            f'fill="{colours.STROKE[0]}" fill-opacity="0.3" stroke="{colours.STROKE[0]}" stroke-width="0.8"/>{border}'
            f'<path d="M{peak:.1f} {y + 14:.1f}v48" stroke="{colours.RED}"/>'
            f'<text x="{peak + (-4 if anchor == "end" else 4):.1f}" y="{y + 16:.1f}" font-size="9" '
            f'text-anchor="{anchor}" fill="{colours.RED}">peak {bytes_text(most)}</text></g>')
