"""Two graphs compared: boxes that only one of them has, and the first box whose numbers depart."""
from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher

from engine.diagram.boxes import Box
from engine.diagram.text import title

Key = tuple[int, str, str, str]


@dataclass
class Departure:
    """A pair of boxes whose values differ: by how much, relative to their size."""
    left: Box
    right: Box
    by: float


@dataclass
class Difference:
    """What `a.diff(b)` finds."""
    removed: list[Box] = field(default_factory=list)         # only in a
    added: list[Box] = field(default_factory=list)           # only in b
    reshaped: list[tuple[Box, Box]] = field(default_factory=list)
    rewired: list[tuple[Box, Box]] = field(default_factory=list)         # the same op, reading something else
    departures: list[Departure] = field(default_factory=list)
    compared: int = 0                    # pairs of boxes that both were measured

    @property
    def first(self) -> Departure | None:
        """The first box, in the order of the pass, whose values depart."""
        return self.departures[0] if self.departures else None

    @property
    def same(self) -> bool:
        """Whether structure and values agree."""
        return not (self.removed or self.added or self.reshaped or self.rewired or self.departures)

    def __str__(self) -> str:
        lines = [f"− {_where(b)}" for b in self.removed] + [f"+ {_where(b)}" for b in self.added]
        lines += [f"~ {_where(b)}: {a.shape} became {b.shape}" for a, b in self.reshaped]
        lines += [f"~ {_where(b)}: reads something else" for _, b in self.rewired]
        if self.first is not None:
            d = self.first
            lines.append(f"values depart first at {_where(d.left)}: by {d.by:.3g} of its size "
                         f"({len(self.departures)} of {self.compared} boxes depart)")
        elif self.compared:
            lines.append(f"values agree in all {self.compared} boxes that both runs measured")
        return "\n".join(lines) or "the same graph"


def _where(box: Box) -> str:
    return f"{box.id} {title(box)} {'/'.join(box.path)}".rstrip()


def compare(left: Sequence[Box], right: Sequence[Box], tolerance: float) -> Difference:
    """Boxes are matched by pass, module, op and name, in order."""
    a, b = _keys(left), _keys(right)
    found = Difference()
    twin: dict[int, int] = {}
    steps = SequenceMatcher(None, a, b, autojunk=False).get_opcodes() if len(a) < 5000 else _plain(a, b)
    for tag, i1, i2, j1, j2 in steps:
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


def _keys(boxes: Sequence[Box]) -> list[Key]:
    return [(b.column, "/".join(b.path), b.op or b.kind, b.name) for b in boxes]


def _plain(a: list[Key], b: list[Key]) -> list[tuple[str, int, int, int, int]]:
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
