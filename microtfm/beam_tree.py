"""Beam search as a tree: every hypothesis that was kept, when it was dropped, and the one that won."""
from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from microtfm import decode
from microtfm.attention_map import FAMILY, font_style
from microtfm.data import pad_sources
from microtfm.tokens import EOS
from microtfm.translator import Translator

Prefix = tuple[int, ...]
WIDE, HIGH, MARGIN, TOP = 130.0, 26.0, 20.0, 74.0        # of a node's place
BEST, KEPT, DROPPED = "#15803d", "#3b6ea5", "#8b929c"
DASHED = ' stroke-dasharray="4 3"'


@dataclass
class Tree:
    """Prefixes of token ids with their log-probabilities; `ended` holds those with <eos>, by their value."""

    scores: dict[Prefix, float]
    ended: dict[Prefix, float]
    best: Prefix


def search(translator: Translator, line: str, beam: int, length_penalty: float = 1.0) -> Tree:
    """Translate one line with beam search (§6.1) and keep what it looked at. Raises UserError for a line that is
    translated in pieces."""
    tree = Tree({(): 0.0}, {}, ())

    def watch(state: Any) -> None:
        tree.scores.update({tuple(ids): total for total, ids in state.live})
        tree.ended.update({(*ids, EOS): value for value, ids in state.finished})

    was_training = translator.model.training
    translator.model.eval()
    try:
        source = pad_sources([translator.sentence(line)])
        found = decode.beam(translator.model, source, beam, length_penalty, watch=watch)[0]
    finally:
        translator.model.train(was_training)
    tree.best = (*found, EOS) if (*found, EOS) in tree.ended else tuple(found)
    return tree


def beam_svg(tree: Tree, translator: Translator, title: str) -> str:
    """The tree as SVG, from left to right: a column a token, the winner green, what was dropped pale."""
    nodes = sorted({p[:n] for p in [*tree.scores, *tree.ended] for n in range(len(p) + 1)}, key=len)
    value = {**tree.scores, **tree.ended}
    children: dict[Prefix, list[Prefix]] = {p: [] for p in nodes}
    for p in nodes[1:]:
        children[p[:-1]].append(p)
    longest = max(map(len, tree.scores))
    alive = {p[:n] for p in [*tree.ended, *(p for p in tree.scores if len(p) == longest)] for n in range(len(p) + 1)}
    y: dict[Prefix, float] = {}
    stack: list[tuple[Prefix, bool]] = [((), False)]
    row = 0
    while stack:
        p, done = stack.pop()
        if done:
            y[p] = float(np.mean([y[c] for c in children[p]]))
        elif children[p]:
            stack.append((p, True))
            stack += [(c, False) for c in sorted(children[p], key=lambda c: value.get(c, 0.0))]
        else:
            y[p] = MARGIN + TOP + HIGH * row
            row += 1
    width = max(2 * MARGIN + WIDE * (max(map(len, nodes)) + 1), 560)
    parts = [_edge(p, y, tree, alive) for p in nodes[1:]] + [_node(p, y, tree, alive, value, translator) for p in nodes]
    height = MARGIN + TOP + HIGH * row + MARGIN
    style = font_style([title, *(piece for p in nodes for piece in translator.target.pieces(list(p[-1:])))])
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
            f'viewBox="0 0 {width:.0f} {height:.0f}" role="img" font-family="{escape(FAMILY)}">\n'
            f'<title>{escape(title)}</title>\n<style>{style}</style>\n'
            '<rect width="100%" height="100%" fill="#ffffff"/>\n'
            f'<text x="{MARGIN}" y="{MARGIN + 14}" font-size="17" font-weight="600">{escape(title)}</text>\n'
            f'<text x="{MARGIN}" y="{MARGIN + 34}" font-size="12" fill="#52606d">Beside each piece: the sum of '
            f'log-probabilities so far; beside &lt;eos&gt;: that divided by the length, which decides.</text>\n'
            f'<text x="{MARGIN}" y="{MARGIN + 50}" font-size="12" fill="#52606d">Thick and green: the translation. '
            f'Blue: kept to the end. Grey and dashed: dropped on the way.</text>\n'
            + "\n".join(parts) + "\n</svg>\n")


def hypotheses(tree: Tree, translator: Translator) -> tuple[list[str], list[list[str]]]:
    """The finished translations as a table, heads and rows, the best first."""
    rows = [[f"{value:.3f}", translator.target.decode([t for t in p if t != EOS])]
            for p, value in sorted(tree.ended.items(), key=lambda entry: -entry[1])]
    return ["value", "translation"], rows


def _x(p: Prefix) -> float:
    return MARGIN + WIDE * len(p)


def _hue(p: Prefix, tree: Tree, alive: set[Prefix]) -> str:
    return BEST if tree.best[:len(p)] == p else KEPT if p in alive else DROPPED


def _edge(p: Prefix, y: dict[Prefix, float], tree: Tree, alive: set[Prefix]) -> str:
    x0, x1, a, b = _x(p[:-1]) + WIDE - 22, _x(p), y[p[:-1]], y[p]
    middle = (x0 + x1) / 2
    return (f'<path d="M{x0:.1f} {a:.1f}C{middle:.1f} {a:.1f} {middle:.1f} {b:.1f} {x1:.1f} {b:.1f}" fill="none" '
            f'stroke="{_hue(p, tree, alive)}" stroke-width="{2 if tree.best[:len(p)] == p else 1.1}"'
            f'{DASHED * (p not in alive)}/>')


def _node(p: Prefix, y: dict[Prefix, float], tree: Tree, alive: set[Prefix], value: dict[Prefix, float],
          translator: Translator) -> str:
    name = "<bos>" if not p else "<eos>" if p[-1] == EOS else translator.target.pieces(list(p[-1:]))[0]
    shown = name if len(name) <= 12 else name[:11] + "…"
    number = f"{value[p]:.2f}" if p and p in value else ""
    text = translator.target.decode([t for t in p if t != EOS])
    return (f'<g><title>{escape(text)} {number}</title><rect x="{_x(p):.1f}" y="{y[p] - 11:.1f}" '
            f'width="{WIDE - 22:.1f}" height="22" rx="5" fill="#ffffff" stroke="{_hue(p, tree, alive)}"'
            f'{DASHED * (p not in alive)} stroke-width="{2 if tree.best[:len(p)] == p else 1}"/>'
            f'<text x="{_x(p) + 6:.1f}" y="{y[p] + 4:.1f}" font-size="11.5">{escape(shown)}</text>'
            f'<text x="{_x(p) + WIDE - 27:.1f}" y="{y[p] + 4:.1f}" font-size="8.5" fill="#52606d" text-anchor="end">'
            f'{number}</text></g>')
