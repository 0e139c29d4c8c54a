"""Two graphs compared: boxes that only one of them has, and the first box whose numbers depart."""
from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from pathlib import Path as File
from typing import Any

from engine.diagram.boxes import Box, Edge
from engine.diagram.text import title

Key = tuple[int, str, str, str]
Step = tuple[str, int, int, int, int]   # what to do, then where in the first and in the second


@dataclass
class Departure:
    """A pair of boxes whose values differ: by how much, relative to their size."""
    left: Box
    right: Box
    by: float


@dataclass
class Difference:
    """What `a.diff(b)` finds. As text: str(); as data: its fields; as a picture: `graph`, or `save`."""
    removed: list[Box] = field(default_factory=list)         # only in a
    added: list[Box] = field(default_factory=list)           # only in b
    reshaped: list[tuple[Box, Box]] = field(default_factory=list)
    rewired: list[tuple[Box, Box]] = field(default_factory=list)         # the same op, reading something else
    departures: list[Departure] = field(default_factory=list)
    compared: int = 0                    # pairs of boxes that both were measured
    graph: Any = None                    # both in one Graph: every box and edge knows whether it is in a, in b, in both

    @property
    def first(self) -> Departure | None:
        """The first box, in the order of the pass, whose values depart."""
        return self.departures[0] if self.departures else None

    @property
    def same(self) -> bool:
        """Whether structure and values agree."""
        return not (self.removed or self.added or self.reshaped or self.rewired or self.departures)

    def save(self, path: str | File, **view: Any) -> File:
        """Write the difference: as text where the suffix is .txt, else as Graph.save does, with its choices of view."""
        if File(path).suffix.lower() == ".txt":
            File(path).write_text(f"{self}\n", encoding="utf-8")
            return File(path)
        return self.graph.save(path, **view)

    def __str__(self) -> str:
        lines = [f"− {_where(b)}" for b in self.removed] + [f"+ {_where(b)}" for b in self.added]
        lines += [f"~ {_where(b)}: {a.shape} became {b.shape}" for a, b in self.reshaped]
        lines += [f"~ {_where(b)}: reads something else" for _, b in self.rewired]
        if self.first is not None:
            d = self.first
            worst = max(self.departures, key=lambda departure: departure.by)
            lines.append(f"values depart first at {_where(d.left)}: by {d.by:.3g} of its size "
                         f"({len(self.departures)} of {self.compared} boxes depart; most of all {_where(worst.left)}, "
                         f"by {worst.by:.3g})")
        elif self.compared:
            lines.append(f"values agree in all {self.compared} boxes that both runs measured")
        return "\n".join(lines) or "the same graph"


def _where(box: Box) -> str:
    return f"{box.id} {title(box)} {'/'.join(box.path)}".rstrip()


def compare(left: Sequence[Box], right: Sequence[Box], tolerance: float) -> Difference:
    """Boxes are matched by pass, module, op and name, in order."""
    found = Difference()
    twin: dict[int, int] = {}
    for tag, i1, i2, j1, j2 in steps(left, right):
        if tag == "equal":
            for x, y in zip(left[i1:i2], right[j1:j2], strict=True):
                twin[x.id] = y.id
                if tuple(map(int, x.sizes)) != tuple(map(int, y.sizes)):
                    found.reshaped.append((x, y))
                elif [twin.get(e.source) for e in x.inputs] != [e.source for e in y.inputs]:
                    found.rewired.append((x, y))
                _values(found, x, y, tolerance)
        else:
            found.removed += left[i1:i2]
            found.added += right[j1:j2]
    return found


def steps(left: Sequence[Box], right: Sequence[Box]) -> list[Step]:
    """How one list of boxes becomes the other, in order: stretches that are equal, or in one of them alone."""
    a, b = _keys(left), _keys(right)
    return list(SequenceMatcher(None, a, b, autojunk=False).get_opcodes()) if len(a) < 5000 else _plain(a, b)


def merged(left: Sequence[Box], right: Sequence[Box], found: Difference) -> list[Box]:
    """Both graphs in one: what is in both once, the rest marked − where it is only in the first, + only in the second.

    The order is that of both, so that every box still comes after all that it reads.
    """
    boxes: list[Box] = []
    new: tuple[dict[int, int], dict[int, int]] = ({}, {})        # of either graph: an old number -> the new one
    pairs: list[tuple[Box | None, Box | None]] = []
    for tag, i1, i2, j1, j2 in steps(left, right):
        if tag == "equal":
            pairs += zip(left[i1:i2], right[j1:j2], strict=True)
        else:
            pairs += [(x, None) for x in left[i1:i2]] + [(None, y) for y in right[j1:j2]]
    for n, (x, y) in enumerate(pairs):
        for old, table in zip((x, y), new, strict=True):
            if old is not None:
                table[old.id] = n
    changed = {y.id for _, y in (*found.reshaped, *found.rewired)}
    departed = {d.right.id: d.by for d in found.departures}
    for n, (x, y) in enumerate(pairs):
        box, table = (y, new[1]) if y is not None else (x, new[0])
        assert box is not None
        change = "−" if y is None else "+" if x is None else "~" if box.id in changed else ""
        boxes.append(replace(box, id=n, inputs=[], readers=[], change=change, seen=None, node=None,
                             departs=departed.get(box.id) if y is not None else None,
                             of=table.get(box.of) if box.of is not None else None, kept=[],
                             gradient=table.get(box.gradient) if box.gradient is not None else None,
                             gradient_of=table.get(box.gradient_of) if box.gradient_of is not None else None))
    for n, (x, y) in enumerate(pairs):
        ends = [{(table[e.source], e.role): e for e in old.inputs if e.source in table} if old is not None else {}
                for old, table in zip((x, y), new, strict=True)]
        for key in {**ends[1], **ends[0]}:
            change = "−" if key not in ends[1] else "+" if key not in ends[0] else ""
            kind = (ends[1].get(key) or ends[0][key]).kind
            edge = Edge(key[0], n, key[1], kind, boxes[n].change if boxes[n].change in ("−", "+") else change)
            boxes[n].inputs.append(edge)
            boxes[key[0]].readers.append(edge)
    return boxes


def _keys(boxes: Sequence[Box]) -> list[Key]:
    return [(b.column, "/".join(b.path), b.op or b.kind, b.name) for b in boxes]


def _plain(a: list[Key], b: list[Key]) -> list[Step]:
    """Pairs in order for large graphs: a box without a counterpart of its own is left out."""
    count, out, j = Counter(b), [], 0
    for i, key in enumerate(a):
        if count[key] and key in b[j:j + 200]:
            k = b.index(key, j)
            out += [("insert", i, i, j, k)] * (k > j) + [("equal", i, i + 1, k, k + 1)]
            j = k + 1
        else:
            out.append(("delete", i, i + 1, j, j))
    return [*out, *[("insert", len(a), len(a), j, len(b))] * (j < len(b))]


def _values(found: Difference, x: Box, y: Box, tolerance: float) -> None:
    if x.seen is None or y.seen is None or len(x.seen.sample) != len(y.seen.sample):
        return
    found.compared += 1
    scale = max(x.seen.rms, y.seen.rms)
    pairs = zip((*x.seen.sample, x.seen.rms), (*y.seen.sample, y.seen.rms), strict=True)
    by = max((abs(p - q) if p == p and q == q else float((p == p) != (q == q)) * scale for p, q in pairs), default=0.0)
    by = by / scale if scale else by
    if by > tolerance or x.seen.finite != y.seen.finite:
        found.departures.append(Departure(x, y, by))
