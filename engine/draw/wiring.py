"""Which lines there are, where on their boxes they begin and end, and in which lanes they run."""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from engine.diagram.boxes import Box, Path
from engine.diagram.view import Link, View
from engine.draw.grid import Grid
from engine.draw.words import Line, Span, Words, shape_spans

APART = 22.0                             # between boxes side by side


@dataclass
class Net:
    """One tensor from its box to all that read it, drawn as one line with branches."""
    source: int
    tensor: Box
    kind: str
    links: list[Link]
    ends: list[tuple[str, float]] = field(default_factory=list)      # per link: where it enters, and at which offset
    exit: str = "gap"                    # gap | side
    port: float = 0.0                    # offset of the exit from the middle
    lane: tuple[str, int] | None = None  # which lane, counted outwards
    frame: Path = ()
    tracks: dict[int, int] = field(default_factory=dict)             # gap -> track
    label: Line | None = None


class Wiring:
    """The lines of a view on its grid: ports on boxes, lanes beside them."""

    def __init__(self, view: View, grid: Grid, words: Sequence[Words]) -> None:
        self.view, self.grid, self.words = view, grid, words
        self.columns = sorted({c for row in grid.rows for c in row.cells})
        self._neighbours()
        self.nets = self._nets()
        self._cells()
        self._ports()
        self._lanes()
        self._zones()

    # ------------------------------------------------------------------------------------------ nets
    def _nets(self) -> list[Net]:
        nets: dict[tuple[int, int, str], Net] = {}
        for link in self.view.links:
            a, b = self.grid.place[link.source], self.grid.place[link.target]
            style = "across" if a[1] != b[1] else "flow"
            key = (link.source, link.tensor.id if len(link.tensors) < 2 else -1, style)
            if key not in nets:
                nets[key] = Net(link.source, link.tensor, style, [])
                if style == "flow":
                    name = link.tensor.name if link.tensor.kind in ("op", "accumulate") else ""
                    spans = shape_spans(link.tensor.sizes)
                    if not name and len(link.role) == 1 and link.role in "qkv":
                        name = link.role.upper()
                    nets[key].label = Line([*([Span(name + "  ", italic=True)] if name else []), *spans], 8.0)
            nets[key].links.append(link)
        return list(nets.values())

    def _up(self, column: int) -> bool:
        return column % 2 == 1

    def _adjacent(self, net: Net, link: Link) -> bool:
        """Whether nothing stands between the two in their column."""
        if self.grid.beside.get(net.source) == link.target:
            return False
        (a, ca), (b, cb) = self.grid.place[net.source], self.grid.place[link.target]
        return ca == cb and b == (self.above if self._up(ca) else self.below)[a, ca]

    def _neighbours(self) -> None:
        """For every occupied cell the next occupied row of its column, above and below."""
        self.above: dict[tuple[int, int], int] = {}
        self.below: dict[tuple[int, int], int] = {}
        last: dict[int, int] = {}
        for r, row in enumerate(self.grid.rows):
            for column in row.cells:
                self.above[r, column] = last.get(column, -1)
                self.below[r, column] = len(self.grid.rows)
                if column in last:
                    self.below[last[column], column] = r
                last[column] = r

    # ------------------------------------------------------------------------------------------ x inside a column
    def _cells(self) -> None:
        """The middle of every box, counted from its column's axis."""
        self.x: dict[int, float] = {}
        label: dict[int, float] = {}
        for net in self.nets:
            if net.label is not None:
                label[net.source] = max(label.get(net.source, 0.0), net.label.width + 10)
        for row in self.grid.rows:
            for every in row.cells.values():
                items = [i for i in every if i not in self.grid.beside]
                wide = [max(self.words[i].size[0], label.get(i, 0.0) + self.words[i].size[0] / 2 - 12)
                        if len(items) > 1 else self.words[i].size[0] for i in items]
                at = -(sum(wide) + APART * (len(items) - 1)) / 2
                for i, w in zip(items, wide, strict=True):
                    self.x[i] = at + self.words[i].size[0] / 2
                    at += w + APART
                for i in every:
                    if i in self.grid.beside:
                        self._stand_beside(i, every, label.get(i, 0.0))

    def _stand_beside(self, i: int, every: list[int], label: float) -> None:
        """A leaf's place: left of the row's boxes in the forward column, right of them in the backward column."""
        w, others = self.words[i].size[0], [k for k in every if k not in self.grid.beside]
        room = max(w / 2, label - 12 if i == every[0] else 0.0) + APART
        if i == every[0]:
            self.x[i] = min(self.x[k] - self.words[k].size[0] / 2 for k in others) - room
        else:
            self.x[i] = max(self.x[k] + self.words[k].size[0] / 2 for k in others) + w / 2 + APART

    # ------------------------------------------------------------------------------------------ ports
    def _ports(self) -> None:
        """Where on its box each line begins and ends; the main line in the middle, the others beside it."""
        out: dict[int, int] = {}
        side: dict[tuple[int, str], int] = {}
        entries: dict[int, int] = {}
        straight: set[int] = set()
        for net in sorted(self.nets, key=lambda n: (n.kind != "flow", -sum(self._adjacent(n, k) for k in n.links),
                                                    n.source, n.tensor.id)):
            column = self.grid.place[net.source][1]
            toward = -1.0 if column == 0 else 1.0
            if net.source in self.grid.beside and net.kind == "flow":
                net.exit = "right" if column % 2 == 0 else "left"
            elif net.kind == "flow":
                k = out[net.source] = out.get(net.source, -1) + 1
                net.port = self._offset(net.source, toward * 12.0 * k)
            elif self._is_outermost(net.source, True):
                net.exit = "right"
                k = side[net.source, "right"] = side.get((net.source, "right"), -1) + 1
                net.port = self._slot(net.source, k)
            else:
                k = side[net.source, "gap"] = side.get((net.source, "gap"), 0) + 1
                net.port = self._offset(net.source, -toward * 9.0 * k)
            for link in net.links:
                net.ends.append(self._entry(net, link, toward, entries, side, straight))

    def _entry(self, net: Net, link: Link, toward: float, entries: dict[int, int], side: dict[tuple[int, str], int],
               straight: set[int]) -> tuple[str, float]:
        t = link.target
        if self.grid.beside.get(net.source) == t and net.kind == "flow":
            return ("left" if net.exit == "right" else "right"), 0.0
        if net.kind == "flow":
            if self._adjacent(net, link) and t not in straight:
                straight.add(t)
                return "gap", 0.0
            k = entries[t] = entries.get(t, -1) + 1
            return "gap", self._offset(t, toward * (12.0 * k + 6.0))
        if self._is_outermost(t, False):
            k = side[t, "left"] = side.get((t, "left"), -1) + 1
            return "left", self._slot(t, k)
        k = side[t, "in"] = side.get((t, "in"), 0) + 1
        return "gap", self._offset(t, -toward * (9.0 * k + 4.5))

    def _offset(self, i: int, offset: float) -> float:
        most = self.words[i].size[0] / 2 - 6
        return max(-most, min(most, offset))

    def _slot(self, i: int, k: int) -> float:
        """The k-th place on a side: the middle, then around it."""
        step = 5.0 * ((k + 1) // 2) * (1 if k % 2 else -1)
        most = self.words[i].size[1] / 2 - 4
        return max(-most, min(most, step))

    def _is_outermost(self, i: int, right: bool) -> bool:
        row, column = self.grid.place[i]
        items = self.grid.rows[row].cells[column]
        return i == (items[-1] if right else items[0])

    # ------------------------------------------------------------------------------------------ lanes
    def _gap_out(self, net: Net) -> int:
        row, column = self.grid.place[net.source]
        return row - 1 if self._up(column) else row

    def _gap_in(self, link: Link) -> int:
        row, column = self.grid.place[link.target]
        a, source = self.grid.place[link.source]
        if source == column and row == (self.above if self._up(column) else self.below)[a, column]:
            return a - 1 if self._up(column) else a
        return row if self._up(column) else row - 1

    def _lanes(self) -> None:
        """A lane beside the boxes for every line that passes a row, inside the innermost module that it stays in."""
        wanted: dict[tuple[int, Path], list[tuple[int, int, Net]]] = {}
        for net in self.nets:
            far = [link for link in net.links if not self._adjacent(net, link)]
            if net.kind != "flow" or not far or net.source in self.grid.beside:
                continue
            gaps = [self._gap_out(net), *(self._gap_in(link) for link in far)]
            paths = [self.view.items[net.source].path, *(self.view.items[link.target].path for link in far)]
            net.frame = _shared_prefix(paths)
            wanted.setdefault((self.grid.place[net.source][1], net.frame), []).append((min(gaps), max(gaps), net))
        self.lane_count: dict[tuple[int, Path], int] = {}
        for key, nets in wanted.items():
            nets.sort(key=lambda entry: (entry[1] - entry[0], entry[0], entry[2].tensor.id))
            self.lane_count[key] = _colour(((lo, hi) for lo, hi, _ in nets), [net for _, _, net in nets], "lane")

    def _zones(self) -> None:
        """Lanes between the columns for what crosses from one to another."""
        wanted: dict[int, list[tuple[int, int, Net]]] = {}
        for net in self.nets:
            if net.kind != "across":
                continue
            rows = [2 * self.grid.place[net.source][0] + (0 if net.exit == "right" else 1)]
            for link, (way, _) in zip(net.links, net.ends, strict=True):
                rows.append(2 * self.grid.place[link.target][0] if way != "gap" else 2 * self._gap_in(link) + 1)
            if len(set(rows)) == 1:
                continue
            column = min(self.grid.place[link.target][1] for link in net.links)
            source = self.grid.place[net.source][1]
            zone = column - 1 if column > source else source - 1
            wanted.setdefault(zone, []).append((min(rows), max(rows), net))
        self.zone_count: dict[int, int] = {}
        for zone, nets in wanted.items():
            nets.sort(key=lambda entry: (entry[1] - entry[0], entry[0], entry[2].tensor.id))
            self.zone_count[zone] = _colour(((lo, hi) for lo, hi, _ in nets), [net for _, _, net in nets], "zone")


def _shared_prefix(paths: Sequence[Path]) -> Path:
    first, last = min(paths), max(paths)
    n = 0
    while n < min(len(first), len(last)) and first[n] == last[n]:
        n += 1
    return first[:n]


def _colour(spans: Iterable[tuple[int, int]], nets: list[Net], kind: str) -> int:
    """Give every net the first lane that is free over its whole span. Returns how many lanes there are."""
    taken: list[list[tuple[int, int]]] = []
    for (lo, hi), net in zip(spans, nets, strict=True):
        k = next((k for k, lane in enumerate(taken) if all(hi < a or b < lo for a, b in lane)), len(taken))
        if k == len(taken):
            taken.append([])
        taken[k].append((lo, hi))
        net.lane = (kind, k)
    return len(taken)
