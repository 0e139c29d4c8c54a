"""Colours and line styles: one colour an axis, and what each kind of line and box looks like."""
from __future__ import annotations

from colorsys import hls_to_rgb, rgb_to_hls
from math import log10

AXES = {"B": "#b45309", "T": "#1d6fb8", "S": "#0f766e", "D": "#15803d", "H": "#c2410c", "K": "#a21caf",
        "F": "#7c3aed", "V": "#be123c"}
OTHERS = ("#4d7c0f", "#0369a1", "#9d174d", "#854d0e", "#5b21b6", "#065f46")
INK, FAINT, PAPER = "#1f2933", "#6b7280", "#ffffff"
FILL = {"input": "#f1f5f9", "op": "#eaf2fb", "module": "#dbe9f8", "parameter": "#e5f4e3", "accumulate": "#fff3d6",
        "failed": "#fbd5d5", "constant": "#f1f5f9"}
BACK = {"op": "#fdecea", "module": "#fadbd6", "input": "#f1f5f9", "accumulate": "#fff3d6"}
TWICE = {"op": "#f3ecfb", "module": "#e6d8f7", "input": "#f1f5f9", "accumulate": "#fff3d6"}
STROKE = ("#3b6ea5", "#b4423a", "#7345a8")
SAVED, RESIDUAL, RED, TICK = "#8b929c", "#2f855a", "#d11a1a", "#15803d"
CHANGED = {"−": ("#fde2e2", "#c01818"), "+": ("#dcf5e0", "#15803d"), "~": ("#fff3d6", "#b45309"),
           "": ("#f4f5f7", "#8b929c")}     # of two graphs compared: fill, line
DEPARTS = "#fde68a"
TITLES = ("forward, downwards", "backward, upwards", "backward of the backward")


def fill(kind: str, column: int) -> str:
    """The colour of a box."""
    return (FILL, BACK, TWICE)[min(column, 2)].get(kind, FILL.get(kind, PAPER))


def stroke(column: int) -> str:
    """The colour of a column's boxes and arrows."""
    return STROKE[min(column, 2)]


def axis(name: str) -> str:
    """The colour of an axis: always the same for the same name."""
    return AXES.get(name) or OTHERS[sum(map(ord, name)) % len(OTHERS)]


def heat(rms: float) -> str:
    """A magnitude as a colour: blue where small, white at 1, red where large, on a logarithmic scale."""
    t = max(-1.0, min(1.0, log10(max(rms, 1e-12)) / 4))
    r, g, b = (255, 255 - 150 * t, 255 - 200 * t) if t >= 0 else (255 + 190 * t, 255 + 110 * t, 255)
    return f"#{round(r):02x}{round(g):02x}{round(b):02x}"


def dark(colour: str) -> str:
    """The same hue for a dark page: pale becomes deep and deep becomes pale, with contrast kept."""
    r, g, b = (int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5))
    hue, light, strong = rgb_to_hls(r, g, b)
    turned = 0.09 + 0.83 * (1 - light) if light < 0.75 else 0.09 + 0.5 * (1 - light)
    return "#" + "".join(f"{round(255 * v):02x}" for v in hls_to_rgb(hue, turned, strong * 0.8))


def dark_rules(selector: str) -> str:
    """CSS that recolours a picture for a dark page: presentation attributes give way to any rule."""
    fixed = (INK, FAINT, PAPER, SAVED, RESIDUAL, RED, TICK)
    every = {*FILL.values(), *BACK.values(), *TWICE.values(), *AXES.values(), *OTHERS, *STROKE, *fixed,
             *(c for pair in CHANGED.values() for c in pair), DEPARTS}
    return "\n".join(f'{selector} [{what}="{c}"] {{ {what}: {dark(c)} }}' for c in sorted(every)
                     for what in ("fill", "stroke"))
