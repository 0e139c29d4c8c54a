"""What stands in a box and on an edge: lines of coloured pieces of text, and how much room they take."""
from __future__ import annotations

from dataclasses import dataclass, field

from engine.diagram.boxes import Box
from engine.diagram.cost import flop, touched
from engine.diagram.measure import Seen
from engine.diagram.sizes import Size, Sizes
from engine.diagram.view import Item, Link, View, ticks
from engine.draw import colours

WIDE = 210.0                             # the longest line of a box
TITLE, SMALL = 11.0, 8.5
NARROW = set("iljtfr.,:;'|!()[] ·′")


@dataclass
class Span:
    """A piece of text in one style."""
    text: str
    colour: str = colours.INK
    bold: bool = False
    italic: bool = False


@dataclass
class Line:
    """A line of a box. `mark`: what the viewer writes into it, step by step."""
    spans: list[Span]
    size: float = SMALL
    mark: str = ""

    @property
    def width(self) -> float:
        return sum(text_width(s.text, self.size, s.bold) for s in self.spans)


@dataclass
class Words:
    """A box's text, and the sentence that its tooltip says."""
    lines: list[Line]
    tip: str = ""
    size: tuple[float, float] = field(default=(0.0, 0.0))
    pile: int = 0                        # room for the edges of the boxes behind it
    below: int = 0                       # room for small pictures under the text

    def measure(self) -> Words:
        width = max(line.width for line in self.lines) + 16
        self.size = (max(round(width), 44) + self.pile, round(sum(line.size * 1.32 for line in self.lines) + 8)
                     + self.pile + self.below)
        return self


def text_width(text: str, size: float, bold: bool = False) -> float:
    """Room for a text in any common sans-serif font."""
    units = sum(0.34 if c in NARROW else 1.05 if ord(c) > 0x2E80 else 0.86 if c in "mwMW✓☐" else
                0.68 if c.isupper() else 0.555 for c in text)
    return units * size * (1.06 if bold else 1.0)


def shape_spans(sizes: Sizes) -> list[Span]:
    """`B×T×D = 64×12×128`, each axis and its number in the axis's colour."""
    if not sizes:
        return [Span("scalar", colours.FAINT)]
    names: list[Span] = []
    numbers: list[Span] = []
    for i, size in enumerate(sizes):
        if i:
            names.append(Span("×", colours.FAINT))
            numbers.append(Span("×", colours.FAINT))
        names += _name_spans(size)
        numbers.append(Span(str(int(size)), _colour(size)))
    if not any(name for size in sizes for term in size.terms for name, _ in term):
        return numbers
    return [*names, Span(" = ", colours.FAINT), *numbers]


def _name_spans(size: Size) -> list[Span]:
    if len(size.terms) == 1 and size.named and size != 1:
        spans: list[Span] = []
        for i, (name, _) in enumerate(size.terms[0]):
            spans += [Span("·", colours.FAINT)] * bool(i) + [Span(name, colours.axis(name))]
        return spans
    text = size.text()
    return [Span(f"({text})" if " + " in text or "−" in text else text, colours.INK if size.named else colours.FAINT)]


def _colour(size: Size) -> str:
    names = {name for term in size.terms for name, _ in term}
    return colours.axis(next(iter(names))) if len(names) == 1 and "" not in names else colours.FAINT


class Speaker:
    """Words for the boxes of one view."""

    def __init__(self, view: View, boxes: list[Box], measured: bool, viewer: bool = False) -> None:
        """viewer: room for the numbers that the page writes as they are made, instead of the numbers."""
        self.view, self.boxes, self.measured, self.viewer = view, boxes, measured, viewer

    def item(self, item: Item) -> Words:
        """The text of a box."""
        if item.port:
            return self._port(item)
        return self._module(item) if item.module is not None else self._op(item)

    def _port(self, item: Item) -> Words:
        box = item.box
        name = box.name or box.label
        where = "/".join(box.path)
        if item.port == "to":
            text = name if box.name else "out" if item.column == 0 else "gradient out"
        else:
            stem, _, number = box.path[-1].rpartition(".") if box.path else ("", "", "")
            maker = stem if number.isdigit() else number         # of one of many neighbours: their common name
            text = box.name.rpartition(".")[2] or ("gradient in" if item.column else
                                                   f"from {maker}" if maker else box.label)
        return Words([Line([Span(text, italic=True)], 10.0)], f"{name} of {where}: {box.shape}").measure()

    def _module(self, item: Item) -> Words:
        assert item.module is not None
        name, _, number = item.module[-1].rpartition(".")
        title = name if item.copies and number.isdigit() else item.module[-1]
        if item.column:
            title += " ′" if item.column == 1 else " ″"
        lines = [Line([*self._change(item), Span(title, bold=True)], TITLE)]
        if item.copies:
            lines.append(Line([Span(item.copies, colours.FAINT)]))
        tick = ticks(item.boxes, self.boxes, self.view.badges) if item.column == 0 else None
        if tick and tick.text:
            lines.append(Line([Span(tick.text, colours.TICK, bold=True)]))
        made = [b for b in item.boxes if b.kind in ("op", "accumulate")]
        facts = f"{len(made):,} op{'s' * (len(made) != 1)}"
        if item.residuals:
            facts += f", {item.residuals} residual"
        lines.append(Line([Span(facts, colours.FAINT)]))
        lines += changes_lines(item)
        if self.measured:
            lines += blank_lines(item.column == 0) if self.viewer else total_lines(made, self.boxes)
        tip = f"{'/'.join(item.module)}{' ' + item.copies if item.copies else ''}: {facts}"
        return Words(lines, tip + (f", {tick.text} parameters" if tick and tick.text else ""),
                     pile=6 if item.copies else 0, below=7 * (self.measured and not self.viewer)).measure()

    def _op(self, item: Item) -> Words:
        box = item.box
        title = [Span(box.label, bold=True, colour=colours.RED if box.kind == "failed" else colours.INK)]
        if box.name and box.kind in ("op", "accumulate"):
            title.append(Span(f"  {box.name}", colours.FAINT, italic=True))
        given = [f"{key}={value}" for key, value in box.params.items()]
        given += [value if value == "key" else f"{'XYZ'[i]} = {value}" if i < 3 else value
                  for i, value in box.literals.items()]
        lines = [Line([*self._change(item), *title], TITLE)]
        if len(item.boxes) > 1 and box.kind == "accumulate":
            lines.append(Line([Span(f"{len(item.boxes) + 1} gradients meet")]))
        elif box.equation:
            lines += wrapped(", ".join([box.equation, *(g for g in given if " = " in g)]), colours.INK)
        given = [g for g in given if " = " not in g]
        if given:
            lines += wrapped(", ".join(given), colours.FAINT)
        chips = [b for b in item.boxes[:-1] if b.kind == "parameter"]
        for chip in [*chips, *self._shared(box)]:
            lines += self._chip(chip, chip in chips)
        if box.kind == "parameter":
            lines += self._chip(box, True)[:1]
        if box.gradient_of is not None and self.boxes[box.gradient_of].kind == "parameter":
            what = self.boxes[box.gradient_of]
            lines.append(Line([Span(f"= ∂{what.name.rpartition('.')[2] or 'input'}", colours.TICK, bold=True)]))
        if box.kind == "failed":
            lines += told(refusal(box.error), colours.RED)
        lines += changes_lines(item)
        if self.measured:
            lines += blank_lines(box.column == 0) if self.viewer else measured_lines(box, self.boxes)
        seen = box.seen if self.measured else None
        below = 30 * bool(seen.weights) + 7 * (not self.viewer) if seen is not None else 0
        return Words(lines, self.tip(item), below=below).measure()

    def _change(self, item: Item) -> list[Span]:
        """The sign of two graphs compared."""
        return [Span(f"{item.change} ", colours.CHANGED[item.change][1], bold=True)] * bool(item.change)

    def _shared(self, box: Box) -> list[Box]:
        """Weights that are counted elsewhere."""
        if box.column:
            return []
        return [self.boxes[e.source] for e in box.inputs if e.source in self.view.badges
                and box.path != self.boxes[e.source].path]

    def _chip(self, chip: Box, counted: bool) -> list[Line]:
        letter = f" [{self.view.badges[chip.id]}]" if chip.id in self.view.badges else ""
        count = (f"✓ {chip.size:,}" if chip.learns else f"☐ {chip.size:,} frozen") if counted else "✓ shared"
        name = Span(f" {chip.name.rpartition('.')[2]}  " if chip.path else "  ", colours.INK)
        return [Line([Span(count + letter, colours.TICK, bold=True), name, *shape_spans(chip.sizes)])]

    def tip(self, item: Item) -> str:
        """One sentence on the box."""
        box = item.box
        if box.error:
            return box.error
        parts = [f"{box.id} {box.label}{' ' + box.name if box.name and box.kind == 'op' else ''}",
                 f"in {'/'.join(box.path)}" if box.path else "", box.equation, f"{box.shape} {box.dtype}"]
        if box.of is not None:
            parts.append(f"backward of {self.boxes[box.of].id} {self.boxes[box.of].label}")
        if box.kind == "parameter":
            parts.append("learns" if box.learns else "frozen")
        return "; ".join(p for p in parts if p)

    def link(self, link: Link) -> str:
        """The tooltip of an edge."""
        if len(link.tensors) > 1:
            return f"{len(link.tensors)} tensors saved for the backward pass"
        name = link.tensor.name.rpartition(".")[2] or link.role
        what = {"saved": "saved for the backward pass: ", "constant": "no gradient flows: "}.get(link.kind, "")
        return f"{what}{name + ' ' if name else ''}{link.tensor.shape}"


def refusal(error: str) -> str:
    """Why a call was refused, without its place, which the picture shows."""
    return error.partition(": ")[2] or error or "the call was refused"


def told(text: str, colour: str, most: int = 6) -> list[Line]:
    """A sentence in lines, cut between words."""
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".strip()
        if text_width(joined, SMALL) <= WIDE - 16:
            lines[-1] = joined
        else:
            lines.append(word)
    if len(lines) > most:
        lines = [*lines[:most - 1], lines[most - 1] + " …"]
    return [Line([Span(_cut(line), colour)]) for line in lines if line]


def wrapped(text: str, colour: str) -> list[Line]:
    """A text in at most three lines, cut at commas."""
    lines: list[str] = [""]
    for i, piece in enumerate(text.split(", ")):
        joined = f"{lines[-1]}, {piece}" if i else piece
        if i and text_width(joined, SMALL) > WIDE - 16:
            lines[-1] += ","
            lines.append(piece)
        else:
            lines[-1] = joined
    shown = lines[:3]
    return [Line([Span(_cut(line), colour)]) for line in shown]


def _cut(text: str) -> str:
    while text_width(text, SMALL) > WIDE:
        text = text[:-2].rstrip("…") + "…"
    return text


def changes_lines(item: Item) -> list[Line]:
    """Of two graphs compared: how many boxes of a module are in one alone, and by how much values depart."""
    lines, signs = [], [b.change for b in item.boxes]
    counts = [f"{sign} {signs.count(sign)}" for sign in ("−", "+", "~") if sign in signs]
    if item.module is not None and counts:
        lines.append(Line([Span("  ".join(counts), bold=True)]))
    if departs := [b.departs for b in item.boxes if b.departs is not None]:
        lines.append(Line([Span(f"departs by {max(departs):.2g}", colours.RED, bold=True)]))
    return lines


def blank_lines(graded: bool) -> list[Line]:
    """Room for a value and, in the forward pass, a gradient."""
    room = [Span("value rms 0.00012")]
    return [Line(room, mark="v"), *([Line([Span("gradient rms 0.00012")], mark="g")] if graded else [])]


def measured_lines(box: Box, boxes: list[Box]) -> list[Line]:
    """Values, gradient, time, arithmetic and bytes of one tensor, from a real run."""
    lines = []
    if box.seen is not None:
        lines.append(Line([Span("value  ", colours.FAINT), *_values(box.seen)]))
    if box.column == 0 and (box.kind == "parameter" or box.gradient is not None):
        lines.append(_gradient(box, boxes))
    if box.seen is not None and box.seen.seconds and box.node is not None:
        lines.append(Line([Span(", ".join([duration(box.seen.seconds), *_work(flop(box.node), touched(box.node)),
                                           box.seen.device]), colours.FAINT)]))
    if box.seen is not None and not box.seen.finite:
        lines.append(Line([Span(f"not finite: {box.seen.line}", colours.RED, bold=True)]))
    return lines


def _gradient(box: Box, boxes: list[Box]) -> Line:
    """A tensor's gradient: "—" where no backward pass has run, never 0; 1 where the pass begins."""
    seen = boxes[box.gradient].seen if box.gradient is not None else None
    if seen is not None:
        return Line([Span("gradient  ", colours.FAINT), *_values(seen)])
    seed = box.gradient is not None and boxes[box.gradient].kind == "input"
    ran = seed and any(b.column == 1 and b.seen is not None for b in boxes)
    return Line([Span("gradient  ", colours.FAINT), Span("1" if ran else "—", bold=True)])


def _values(seen: Seen) -> list[Span]:
    if seen.numbers and len(seen.numbers) <= 4:
        return [Span(", ".join(f"{v:.4g}" for v in seen.numbers), bold=True)]
    if not seen.finite and not seen.rms:
        return [Span("not a number", colours.RED, bold=True)]
    return [Span(f"rms {seen.rms:.3g}", bold=True), Span(f", {seen.low:.3g} … {seen.high:.3g}", colours.FAINT)]


def total_lines(made: list[Box], boxes: list[Box]) -> list[Line]:
    """The same of a whole module: what comes out of it and that tensor's gradient; time, arithmetic, bytes of all."""
    if not made or made[-1].seen is None:
        return []
    lines = [Line([Span("out  ", colours.FAINT), *_values(made[-1].seen)])]
    if made[-1].column == 0:
        lines.append(_gradient(made[-1], boxes))
    seconds = [b.seen.seconds for b in made if b.seen is not None and b.seen.seconds]
    nodes = [b.node for b in made if b.node is not None]
    if seconds:
        work = _work(sum(map(flop, nodes)), sum(map(touched, nodes)))
        lines.append(Line([Span(", ".join([duration(sum(seconds)), *work]), colours.FAINT)]))
    bad = next((b for b in made if b.seen is not None and not b.seen.finite), None)
    if bad is not None and bad.seen is not None:
        lines.append(Line([Span(f"not finite: {bad.seen.line}", colours.RED, bold=True)]))
    return lines


def duration(seconds: float) -> str:
    """`12 µs`, `3.4 ms`."""
    return f"{seconds * 1e6:.0f} µs" if seconds < 1e-3 else f"{seconds * 1e3:.3g} ms"


def _work(flops: int, size: int) -> list[str]:
    def short(n: float, unit: str) -> str:
        for sign in ("", "k", "M", "G", "T"):
            if n < 1000:
                return f"{n:.3g} {sign}{unit}"
            n /= 1000
        return f"{n:.3g} P{unit}"
    return ([short(flops, "FLOP")] if flops else []) + ([short(size, "B")] if size else [])
