"""A drawing as plain SVG: links and tooltips work without script, text stays text, and it prints in black and white."""
from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

from engine.diagram.boxes import Box, Path
from engine.diagram.view import Item, Link, View, ticks
from engine.draw import colours
from engine.draw.grid import arrange
from engine.draw.marks import marks, memory_strip, ring
from engine.draw.route import Drawing, Label, Point, Route, Router
from engine.draw.words import Line, Span, Speaker, Words, shape_spans, text_width

FONT = "Helvetica, Arial, 'Liberation Sans', 'Noto Sans CJK SC', 'Noto Sans SC', 'PingFang SC', sans-serif"
Entry = tuple[str, list[Span], float]    # of the legend: a sample, what it means, the sample's width


class Picture:
    """A view with its words and places."""

    def __init__(self, view: View, boxes: list[Box], measured: bool = False, viewer: bool = False) -> None:
        """viewer: for the HTML viewer, which says itself what a tooltip would: equal modules give equal texts."""
        self.view, self.boxes, self.viewer = view, boxes, viewer
        self.measured = measured
        self.first_bad = next((b.id for b in boxes if b.seen is not None and not b.seen.finite), None)
        self.departing = next((b.id for b in boxes if b.departs is not None), None)
        self.compared = self.departing is not None or any(b.change or any(e.change for e in b.inputs) for b in boxes)
        self.speaker = Speaker(view, boxes, measured, viewer)
        self.words: list[Words] = [self.speaker.item(item) for item in view.items]
        router = Router(view, arrange(view, self.words), self.words)
        self.drawing: Drawing = router.draw()

    def svg(self, prefix: str = "g", legend: bool = True, title: str = "") -> str:
        """The picture as one SVG text. `prefix` keeps the ids of two pictures on one page apart."""
        d = self.drawing
        parts = [*self._heads(), *self._frames()]
        parts += [self._route(route) for route in d.routes]
        parts += [*self._frame_titles(), *map(_label, d.labels)]
        parts += [self._item(item, prefix) for item in self.view.items]
        height, width = d.height, d.width
        if legend:
            key, wide, tall = self._legend(height + 6, title)
            parts.append('<g class="legend">' + "".join(key) + "</g>")
            height, width = height + tall + 10, max(width, wide)
        if legend and self._remembers():
            parts.append(memory_strip(self.boxes, 12.0, height, width - 24))
            height += 74
        what = escape(title or self.view.title or "computation graph")
        return (f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" role="img" '
                f'viewBox="0 0 {_n(width)} {_n(height)}" width="{_n(width)}" height="{_n(height)}" '
                f'font-family="{escape(FONT)}">\n<title>{what}</title>\n'
                f'<desc>{"" if self.viewer else escape(self._summary())}</desc>\n'
                f'<style>a:hover rect, a:focus rect, .box:target rect {{ stroke-width: 2.4 }}</style>\n'
                f'<rect width="100%" height="100%" fill="{colours.PAPER}"/>\n' + "\n".join(parts) + "\n</svg>\n")

    def _remembers(self) -> bool:
        """Whether a strip shows the memory over the pass: of a whole graph, run or with its backward pass."""
        both = len({item.column for item in self.view.items}) > 1
        return (self.measured or both) and not (self.viewer or self.compared or self.view.title or self.view.shift)

    def _summary(self) -> str:
        tick = ticks(self.boxes, self.boxes, {})
        columns = sorted({item.column for item in self.view.items})
        text = f"{len(self.view.items)} boxes, {len(self.view.links)} arrows"
        if tick.text:
            text += f", {tick.text} parameters"
        return f"{text}; columns: {', '.join(map(self.column_title, columns))}. {self.view.notice}".strip()

    def _heads(self) -> list[str]:
        heads = []
        for column, (left, right) in self.drawing.columns.items():
            text = self.column_title(column)
            heads.append(_text((left + right) / 2, 16, [Span(text, self.hue(column), bold=True)], 11, "middle"))
        return heads if len(self.drawing.columns) > 1 else []

    def hue(self, column: int) -> str:
        """The colour of a column."""
        return colours.stroke(column + self.view.shift)

    def column_title(self, column: int) -> str:
        """What a column is and which way it runs."""
        passes = colours.TITLES[min(column + self.view.shift, 2)].partition(",")[0]
        return f"{passes}, {'upwards' if column % 2 else 'downwards'}"

    def frame_spans(self, path: Path, column: int) -> list[Span]:
        """The title of an open module."""
        frame = self.view.frames.get(path)
        name = path[-1].rpartition(".")[0] if frame and frame.copies else path[-1]
        spans = [Span(name + (" ′" * bool(column + self.view.shift)), self.hue(column), bold=True)]
        if frame and frame.copies:
            spans.append(Span(f"  {frame.copies}", colours.FAINT))
        tick = ticks(frame.boxes, self.boxes, self.view.badges) if frame and column == 0 else None
        if tick and tick.text:
            spans.append(Span(f"  {tick.text}", colours.TICK, bold=True))
        return spans

    def box_fill(self, item: Item) -> str:
        """The colour of a box."""
        if self.compared and not item.port:
            departs = any(b.departs is not None for b in item.boxes)
            return colours.DEPARTS if departs else colours.CHANGED[item.change][0]
        kind = "module" if item.module is not None else "input" if item.port else item.box.kind
        return colours.fill(kind, item.column + self.view.shift)

    def box_stroke(self, item: Item) -> str:
        """The colour of a box's border."""
        if self.compared:
            return colours.CHANGED[item.change][1]
        return colours.RED if item.box.kind == "failed" and item.module is None else self.hue(item.column)

    def edge_looks(self, link: Link) -> tuple[str, str, float]:
        """A line's colour, its kind of dashes and its width."""
        colour = (colours.SAVED if link.kind == "saved" else colours.FAINT if link.kind == "constant" else
                  colours.RESIDUAL if link.residual else self.hue(self.view.items[link.source].column))
        dash = {"saved": "dotted", "constant": "dashed"}.get(link.kind, "")
        width = 1.0 if link.kind == "saved" else 1.8 if link.residual else 1.2
        if self.compared:
            colour = colours.CHANGED[link.change][1]
            dash = dash or ("dashed" if link.change == "−" else "")
            width = 1.8 if link.change else width
        return colour, dash, width

    def edge_style(self, route: Route) -> str:
        """A line's colour and dashes for Graphviz."""
        colour, dash, width = self.edge_looks(route.link)
        return f'color="{colour}"{f", style={dash}" if dash else ""}, penwidth={width}'

    def _frames(self) -> list[str]:
        out = []
        for path, column, x, y, w, h in self.drawing.frames:
            frame = self.view.frames.get(path)
            copies = f" {frame.copies}" if frame and frame.copies else ""
            tip = escape(path[-1].rpartition(".")[0] if self.viewer else "/".join(path) + copies)
            out.append(f'<g class="module"><title>{tip}</title><rect x="{_n(x)}" y="{_n(y)}" width="{_n(w)}" '
                       f'height="{_n(h)}" rx="7" fill="{self.hue(column)}" fill-opacity="0.05" '
                       f'stroke="{self.hue(column)}" stroke-opacity="0.45"/></g>')
        return out

    def _frame_titles(self) -> list[str]:
        """Over the lines, on paper, so that a line that passes under a title does not run through its letters."""
        out = []
        for path, column, x, y, w, _ in self.drawing.frames:
            spans = self.frame_spans(path, column)
            wide = Line(spans, 9.5).width * 0.93
            anchor, at, left = ("start", x + 6, x + 5) if column == 0 else ("end", x + w - 6, x + w - 7 - wide)
            place = f' data-p="{escape("/".join(path))}"' if self.viewer else ""
            out.append(f'<g class="name"{place}><rect x="{_n(left)}" y="{_n(y + 3)}" width="{_n(wide + 2)}" '
                       f'height="11" fill="{colours.PAPER}" fill-opacity="0.75"/>'
                       f"{_text(at, y + 12, spans, 9.5, anchor)}</g>")
        return out

    def _route(self, route: Route) -> str:
        kind = route.link.kind
        colour, dashes, width = self.edge_looks(route.link)
        dash = {"dotted": ' stroke-dasharray="1.5 3" stroke-linecap="round"',
                "dashed": ' stroke-dasharray="5 3"'}.get(dashes, "")
        tip = escape(self.speaker.link(route.link))
        ends = f' data-e="{route.link.source} {route.link.target}"' if self.viewer else ""
        return (f'<g class="edge {"residual" if route.link.residual else kind}"{ends}><title>{tip}</title>'
                f'<path d="{rounded(route.points)}" fill="none" stroke="{colour}" stroke-width="{width}"{dash}/>'
                f'<path d="{arrow(route.points)}" fill="{colour}"/></g>')

    def _item(self, item: Item, prefix: str) -> str:
        x, y, w, h = self.drawing.boxes[item.id]
        words, box = self.words[item.id], item.box
        kind = "module" if item.module is not None else "input" if item.port else box.kind
        colour = self.box_stroke(item)
        round_ = min(h / 2, 17.0) if kind in ("input", "parameter") else 5
        dash, fill = ' stroke-dasharray="4 3"' * bool(item.port), self.box_fill(item)
        stack = ""
        if words.pile:                   # boxes behind the first
            x, y, w, h = x, y + words.pile, w - words.pile, h - words.pile
            for k in (2, 1):
                stack += _rect(x + 3 * k, y - 3 * k, w, h, round_, fill, colour, 0.8)
        shape = stack + _rect(x, y, w, h, round_, fill, colour, 2.2 if kind == "failed" else 1.1, dash)
        if item.residuals:
            shape += _arc(x, y, h)
        text, at = [], y + 4.0
        for line in words.lines:
            at += line.size * 1.32
            text.append(_text(x + w / 2, at - line.size * 0.3, line.spans if not line.mark else (), line.size, "middle",
                              line.mark))
        if self.viewer:
            room = (f'<g class="w" data-x="{_n(x + 4)}" data-y="{_n(y + h - 33)}" data-w="{_n(w - 8)}"/>'
                    if words.below else "")
            return f'<g data-k="{item.id}" class="box {kind}" tabindex="0">{shape}{"".join(text)}{room}</g>'
        content = f"<title>{escape(words.tip)}</title>{shape}{''.join(text)}"
        if self.measured and not item.port:
            bad = next((b for b in item.boxes if b.id == self.first_bad), None)
            content += marks(box, self.boxes, x, y, w, h, bad, item.module is None)
        if self.departing is not None and any(b.id == self.departing for b in item.boxes):
            content += ring(x, y, w, h, "the first box whose values depart")
        ident = f'{prefix}{item.id}'
        if item.of is not None:
            content = f'<a xlink:href="#{prefix}{item.of}" href="#{prefix}{item.of}">{content}</a>'
        return f'<g id="{ident}" class="box {kind}">{content}</g>'

    # ------------------------------------------------------------------------------------------ the legend
    def _legend(self, y: float, title: str) -> tuple[list[str], float, float]:
        """What the colours and lines mean: elements, width, height."""
        out, wide, last = [], 0.0, y
        for x, top, (sample, spans, room) in self.legend(y, title):
            if sample:
                out.append(f'<g transform="translate({_n(x)},{_n(top - 3)})">{sample}</g>')
            out.append(_text(x + room, top, spans, 9, "start"))
            wide, last = max(wide, x + entry_width(spans, room)), top
        return out, wide, last - y + 4

    def legend(self, y: float, title: str) -> list[tuple[float, float, Entry]]:
        """The entries of the legend, each with its place."""
        kinds = {link.kind for link in self.view.links}
        shown = [b for item in self.view.items for b in item.boxes]
        shared = {e.source for b in shown for e in b.inputs} | {b.id for b in shown}
        entries: list[Entry] = []
        if title and not self.viewer:
            entries.append(("", [Span(title, bold=True)], 0))
        for column in self.drawing.columns:
            entries.append((_sample(self.hue(column), ""), [Span(self.column_title(column))], 26))
        if self.compared:
            entries = entries[:bool(title)]
            for sign, text in (("", "in both"), ("−", "only in the first"), ("+", "only in the second"),
                               ("~", "changed, or holds changes")):
                fill, stroke = colours.CHANGED[sign]
                entries.append((f'<rect y="-7" width="17" height="9" fill="{fill}" stroke="{stroke}"/>',
                                [Span(f"{sign} {text}".strip())], 22))
        if self.departing is not None:
            entries.append((f'<rect y="-7" width="17" height="9" fill="{colours.DEPARTS}" stroke="{colours.RED}"/>',
                            [Span("values depart; by how much of their size (ringed: the first)")], 22))
        if any(link.residual for link in self.view.links) and not self.compared:
            entries.append((_sample(colours.RESIDUAL, "", 1.8), [Span("residual connection")], 26))
        if "saved" in kinds:
            entries.append((_sample(colours.SAVED, "1.5 3"), [Span("saved for the backward pass")], 26))
        if "constant" in kinds:
            entries.append((_sample(colours.FAINT, "5 3"), [Span("no gradient flows")], 26))
        if any(b.kind == "parameter" for b in shown):
            entries.append(("", [Span("✓", colours.TICK, bold=True), Span(" learns: how many numbers")], 0))
        if any(b.kind == "parameter" and not b.learns for b in shown):
            entries.append(("", [Span("☐", colours.TICK, bold=True), Span(" frozen")], 0))
        if self.measured:
            for power in (-4, -2, 0, 2, 4):
                entries.append((f'<rect y="-5" width="13" height="8" fill="{colours.heat(10.0 ** power)}" '
                                f'stroke="{colours.FAINT}" stroke-width="0.4"/>',
                                [Span(f"rms 1e{power}" if power else "rms 1 (left value, right gradient)")], 17))
        for i, letter in ((i, letter) for i, letter in self.view.badges.items() if i in shared):
            name = self.boxes[i].name
            entries.append(("", [Span(f"[{letter}]", colours.TICK, bold=True), Span(f" one shared weight: {name}")], 0))
        if any(item.module is None and item.box.kind == "accumulate" for item in self.view.items):
            entries.append(("", [Span("+=", bold=True), Span(" gradients meet")], 0))
        if any(item.copies for item in self.view.items) or any(f.copies for f in self.view.frames.values()):
            entries.append(("", [Span("×N", bold=True), Span(" N equal modules, drawn once")], 0))
        for name in self._axis_names():
            meaning = Span(f" {MEANING.get(name, 'an axis')}")
            entries.append(("", [Span(name, colours.axis(name), bold=True), meaning], 0))
        return _flow(entries, y, max(self.drawing.width, 420.0))

    def _axis_names(self) -> list[str]:
        shown = {name for link in self.view.links for size in link.tensor.sizes for term in size.terms
                 for name, _ in term if name}
        return sorted(shown, key=lambda name: (list(MEANING).index(name) if name in MEANING else 99, name))


MEANING = {"B": "batch", "T": "target length", "S": "source length", "D": "model width", "H": "heads",
           "K": "width of a head", "F": "feed-forward width", "V": "vocabulary", "R": "width of a recurrent state"}


def _flow(entries: Sequence[Entry], y: float, most: float) -> list[tuple[float, float, Entry]]:
    out, x, top = [], 12.0, y + 12
    for entry in entries:
        width = entry_width(entry[1], entry[2])
        if x + width > most and x > 12:
            x, top = 12.0, top + 15
        out.append((x, top, entry))
        x += width
    return out


def entry_width(spans: Sequence[Span], room: float) -> float:
    """The width of an entry of the legend, with the gap behind it."""
    return room + sum(text_width(s.text, 9, s.bold) for s in spans) + 16


def _sample(colour: str, dash: str, width: float = 1.2) -> str:
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return (f'<path d="M0 0H17" stroke="{colour}" stroke-width="{width}"{dashed} fill="none"/>'
            f'<path d="M21 0l-6 -2.6v5.2z" fill="{colour}"/>')


def _rect(x: float, y: float, w: float, h: float, r: float, fill: str, stroke: str, width: float,
          more: str = "") -> str:
    return (f'<rect x="{_n(x)}" y="{_n(y)}" width="{_n(w)}" height="{_n(h)}" rx="{_n(min(r, h / 2))}" fill="{fill}" '
            f'stroke="{stroke}" stroke-width="{width}"{more}/>')


def _arc(x: float, y: float, h: float) -> str:
    """A residual connection inside a closed box."""
    return (f'<path d="M{_n(x)} {_n(y + 6)}h-6q-5 0 -5 5v{_n(h - 22)}q0 5 5 5h4" fill="none" '
            f'stroke="{colours.RESIDUAL}" stroke-width="1.5"/><path d="M{_n(x)} {_n(y + h - 6)}l-5 -2.4v4.8z" '
            f'fill="{colours.RESIDUAL}"/>')


def _label(label: Label) -> str:
    x = label.x - label.line.width if label.left else label.x
    back = (f'<rect x="{_n(x - 1)}" y="{_n(label.y - 8)}" width="{_n(label.line.width + 2)}" height="10.5" '
            f'fill="{colours.PAPER}" fill-opacity="0.85"/>')
    return f'<g class="shape">{back}{_text(x, label.y, label.line.spans, label.line.size, "start")}</g>'


def _text(x: float, y: float, spans: Sequence[Span], size: float, anchor: str, mark: str = "") -> str:
    pieces = []
    for span in spans:
        style = f' fill="{span.colour}"' + ' font-weight="bold"' * span.bold + ' font-style="italic"' * span.italic
        pieces.append(f"<tspan{style}>{escape(span.text)}</tspan>")
    place = f' text-anchor="{anchor}"' if anchor != "start" else ""
    place += f' class="{mark}" fill="{colours.INK}"' if mark else ""
    return f'<text x="{_n(x)}" y="{_n(y)}" font-size="{_n(size)}"{place} xml:space="preserve">{"".join(pieces)}</text>'


def rounded(points: Sequence[Point], radius: float = 4.0) -> str:
    """A polyline with round corners, as the `d` of a path."""
    d = f"M{_n(points[0][0])} {_n(points[0][1])}"
    for before, here, after in zip(points, points[1:], points[2:], strict=False):
        a, b = _towards(here, before, radius), _towards(here, after, radius)
        d += f"L{_n(a[0])} {_n(a[1])}Q{_n(here[0])} {_n(here[1])} {_n(b[0])} {_n(b[1])}"
    return d + f"L{_n(points[-1][0])} {_n(points[-1][1])}"


def _towards(a: Point, b: Point, most: float) -> Point:
    dx, dy = b[0] - a[0], b[1] - a[1]
    length = max((dx * dx + dy * dy) ** 0.5, 1e-6)
    step = min(most, length / 2) / length
    return a[0] + dx * step, a[1] + dy * step


def arrow(points: Sequence[Point]) -> str:
    """The head at the end of a polyline."""
    (x, y), (ax, ay) = points[-1], _towards(points[-1], points[-2], 6.0) if len(points) > 1 else points[-1]
    dx, dy = x - ax, y - ay
    length = max((dx * dx + dy * dy) ** 0.5, 1e-6)
    ux, uy = dx / length, dy / length
    bx, by = x - 6 * ux, y - 6 * uy
    return (f"M{_n(x)} {_n(y)}L{_n(bx - 2.6 * uy)} {_n(by + 2.6 * ux)}L{_n(bx + 2.6 * uy)} {_n(by - 2.6 * ux)}z")


def _n(x: float) -> str:
    return re.sub(r"\.?0+$", "", f"{x:.1f}") if "." in f"{x:.1f}" else f"{x:.1f}"


__all__ = ["Line", "Picture", "arrow", "rounded", "shape_spans"]
