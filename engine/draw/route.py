"""How the lines run: in the gaps between rows and in lanes beside the boxes, never through a box."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.diagram.boxes import Path
from engine.diagram.view import Frame, Link, View
from engine.draw.grid import Grid
from engine.draw.wiring import Net, Wiring
from engine.draw.words import Line, Words, text_width

TRACK, LANE, PAD, HEADER, STRIP = 5.0, 6.0, 9.0, 17.0, 12.0
Point = tuple[float, float]


@dataclass
class Route:
    """A drawn line: its corners, one polyline a branch."""
    net: Net
    link: Link
    points: list[Point]


@dataclass
class Label:
    """A shape beside a line."""
    line: Line
    x: float
    y: float
    left: bool                           # ends here, instead of beginning
    column: int


@dataclass
class Drawing:
    """Everything with its place, in points."""
    width: float
    height: float
    boxes: dict[int, tuple[float, float, float, float]]              # item -> x, y (of the corner), width, height
    frames: list[tuple[Path, int, float, float, float, float]]       # path, column, x, y, width, height
    routes: list[Route]
    labels: list[Label]
    columns: dict[int, tuple[float, float]]                          # column -> left and right edge
    floors: dict[int, float]                                         # item -> where its row ends


class Router(Wiring):
    """Turns a grid into a drawing."""

    def __init__(self, view: View, grid: Grid, words: Sequence[Words]) -> None:
        super().__init__(view, grid, words)
        self._widths()
        self._tracks()
        self._heights()

    # ------------------------------------------------------------------------------------------ x of everything
    def _widths(self) -> None:
        """How far every module reaches on both sides of each column's axis, then the axes themselves."""
        self.reach: dict[tuple[int, Path], tuple[float, float]] = {}
        inner: dict[tuple[int, Path], tuple[float, float]] = {}
        for row in self.grid.rows:
            for column, items in row.cells.items():
                path = self.view.items[items[0]].path
                left = -min(self.x[i] - self.words[i].size[0] / 2 for i in items)
                right = max(self.x[i] + self.words[i].size[0] / 2 for i in items)
                _widen(inner, (column, path), left, right)
        for net in self.nets:
            if net.label is not None:
                column = self.grid.place[net.source][1]
                at, wide = self.x[net.source] + net.port, 8 + net.label.width
                left, right = (wide - at, 0.0) if net.port < 0 else (0.0, at + wide)
                _widen(inner, (column, self.view.items[net.source].path), left, right)
        paths = sorted({p for _, p in inner} | set(self.grid.span), key=len, reverse=True)
        self.inner = inner
        for path in paths:
            for column in self.columns:
                if (column, path) not in inner:
                    continue
                left, right = inner[column, path]
                lanes = self.lane_count.get((column, path), 0) * LANE + (4 if (column, path) in self.lane_count else 0)
                frame = self.view.frames.get(path)
                title = self._title(path, frame, column) if path else 0.0
                left, right = (left + lanes, right) if column == 0 else (left, right + lanes)
                left, right = left + PAD, right + PAD
                left = max(left, title) if column == 0 else left
                right = max(right, title) if column else right
                self.reach[column, path] = (left, right)
                if path:
                    _widen(inner, (column, path[:-1]), left, right)
        at = PAD
        self.axis: dict[int, float] = {}
        self.edges: dict[int, tuple[float, float]] = {}
        self.zone_x: dict[int, float] = {}
        for column in self.columns:
            left, right = (max(side, 72.0) for side in self.reach.get((column, ()), (0.0, 0.0)))
            self.axis[column] = at + left
            self.edges[column] = (at, at + left + right)
            at += left + right
            self.zone_x[column] = at + 6
            at += max(self.zone_count.get(column, 0) * 4.0 + 12, 26.0)
        self.width = at

    def _title(self, path: Path, frame: Frame | None, column: int) -> float:
        """Room for a module's title, which keeps clear of the line in the middle."""
        text = path[-1] + (f"  {frame.copies}" if frame and frame.copies else "")
        if column == 0 and frame and any(b.kind == "parameter" for b in frame.boxes):
            text += f"  ✓ {sum(b.size for b in frame.boxes if b.kind == 'parameter'):,}"
        return text_width(text, 9.5, True) + 40

    def middle(self, i: int) -> float:
        """The x of a box's middle."""
        return self.axis[self.grid.place[i][1]] + self.x[i]

    def lane_x(self, net: Net) -> float:
        """The x of a net's lane."""
        column = self.grid.place[net.source][1]
        assert net.lane is not None
        kind, k = net.lane
        if kind == "zone":
            target = min(self.grid.place[link.target][1] for link in net.links)
            zone = target - 1 if target > column else column - 1
            return self.zone_x[zone] + 4.0 * k
        left, right = self.inner[column, net.frame]
        return self.axis[column] + (-(left + 6 + LANE * k) if column == 0 else right + 6 + LANE * k)

    # ------------------------------------------------------------------------------------------ y of everything
    def _tracks(self) -> None:
        """In every gap a track for each line that runs along it."""
        wanted: dict[int, list[tuple[float, float, Net]]] = {}
        for net in self.nets:
            runs: dict[int, list[float]] = {}
            out, start = self._gap_out(net), self.middle(net.source) + net.port
            if net.exit == "gap":
                runs.setdefault(out, []).append(start)
            for link, (way, offset) in zip(net.links, net.ends, strict=True):
                if way == "gap":
                    runs.setdefault(self._gap_in(link), []).append(self.middle(link.target) + offset)
            if net.lane is not None:
                lane = self.lane_x(net)
                for xs in runs.values():
                    xs.append(lane)
            for gap, xs in runs.items():
                if max(xs) - min(xs) > 0.5:
                    wanted.setdefault(gap, []).append((min(xs), max(xs), net))
        self.track_count: dict[int, int] = {}
        for gap, runs_here in wanted.items():
            runs_here.sort(key=lambda run: (run[2].kind == "across", run[1] - run[0], run[2].tensor.id))
            ends: list[list[tuple[float, float]]] = []
            for lo, hi, net in runs_here:
                k = next((k for k, taken in enumerate(ends) if all(hi + 4 < a or b + 4 < lo for a, b in taken)),
                         len(ends))
                if k == len(ends):
                    ends.append([])
                ends[k].append((lo, hi))
                net.tracks[gap] = k
            self.track_count[gap] = len(ends)

    def _heights(self) -> None:
        """The top of every row, and in every gap where its labels, tracks and module titles lie."""
        rows = self.grid.rows
        strip_above: dict[int, int] = {}     # gap -> labels below the boxes above it
        strip_below: dict[int, int] = {}     # gap -> labels above the boxes below it
        slots: dict[tuple[int, int], int] = {}
        self.line_of: dict[int, int] = {}
        for n, net in enumerate(self.nets):
            if net.label is None:
                continue
            column = self.grid.place[net.source][1]
            k = slots[net.source, 0] = slots.get((net.source, 0), -1) + 1
            self.line_of[n] = k
            strip = strip_below if self._up(column) else strip_above
            gap = self._gap_out(net)
            strip[gap] = max(strip.get(gap, 0), k + 1)
        opens: dict[int, int] = {}
        closes: dict[int, int] = {}
        for path, (first, last) in self.grid.span.items():
            if path:
                opens[first - 1] = opens.get(first - 1, 0) + 1
                closes[last] = closes.get(last, 0) + 1
        self.row_y: list[float] = []
        self.row_h: list[float] = []
        self.gap: dict[int, dict[str, float]] = {}
        y = 24.0
        for r in range(-1, len(rows)):
            top = y
            a, b = strip_above.get(r, 0) * STRIP, strip_below.get(r, 0) * STRIP
            closing, opening = closes.get(r, 0) * PAD, opens.get(r, 0) * HEADER
            tracks = self.track_count.get(r, 0) * TRACK
            space = max(a + b + tracks + closing + opening + 6, 14.0 if 0 <= r < len(rows) - 1 else 4.0)
            self.gap[r] = {"top": top, "above": top + 1, "closing": top + a + 1, "tracks": top + a + closing + 4,
                           "opening": top + a + closing + tracks + 3, "below": top + space - b - 2}
            y = top + space
            if r + 1 < len(rows):
                height = max(self.words[i].size[1] for items in rows[r + 1].cells.values() for i in items)
                self.row_y.append(y)
                self.row_h.append(height)
                y += height
        self.height = y + 4

    def track_y(self, net: Net, gap: int) -> float:
        """The y of a net's run along a gap."""
        return self.gap[gap]["tracks"] + TRACK * net.tracks[gap]

    # ------------------------------------------------------------------------------------------ the drawing
    def draw(self) -> Drawing:
        """All places, in points."""
        boxes = {}
        for i, (row, _) in self.grid.place.items():
            w, h = self.words[i].size
            boxes[i] = (self.middle(i) - w / 2, self.row_y[row] + (self.row_h[row] - h) / 2, float(w), float(h))
        routes = [Route(net, link, self._points(net, link, end, boxes))
                  for net in self.nets for link, end in zip(net.links, net.ends, strict=True)]
        floors = {i: self.row_y[row] + self.row_h[row] for i, (row, _) in self.grid.place.items()}
        return Drawing(self.width, self.height, boxes, self._frame_boxes(), routes, self._labels(boxes), self.edges,
                       floors)

    def _points(self, net: Net, link: Link, end: tuple[str, float],
                boxes: dict[int, tuple[float, float, float, float]]) -> list[Point]:
        x, y, w, h = boxes[net.source]
        points: list[Point]
        if net.exit != "gap":
            points = [(x + w if net.exit == "right" else x, y + h / 2 + net.port)]
        else:
            out = self._gap_out(net)
            edge = y if self._up(self.grid.place[net.source][1]) else y + h
            points = [(x + w / 2 + net.port, edge)]
            if out in net.tracks:
                points.append((points[0][0], self.track_y(net, out)))
        tx, ty, tw, th = boxes[link.target]
        way, offset = end
        if way != "gap":
            level = points[-1][1]
            straight = net.lane is None and net.exit != "gap" and ty + 3 <= level <= ty + th - 3
            finish: list[Point] = [(tx + (tw if way == "right" else 0.0), level if straight else ty + th / 2 + offset)]
        else:
            gap = self._gap_in(link)
            edge = ty + th if self._up(self.grid.place[link.target][1]) else ty
            finish = [(tx + tw / 2 + offset, edge)]
            if gap in net.tracks:
                finish.insert(0, (finish[0][0], self.track_y(net, gap)))
        direct = net.kind == "flow" and self._adjacent(net, link)
        if net.lane is not None and not direct:
            lane = self.lane_x(net)
            points += [(lane, points[-1][1]), (lane, finish[0][1])]
        elif net.kind == "across" and abs(points[-1][1] - finish[0][1]) > 0.1:
            middle = self.zone_x[min(self.grid.place[net.source][1], self.grid.place[link.target][1])]
            points += [(middle, points[-1][1]), (middle, finish[0][1])]
        return _tidy([*points, *finish])

    def _frame_boxes(self) -> list[tuple[Path, int, float, float, float, float]]:
        frames = []
        depth_open: dict[int, list[Path]] = {}
        depth_close: dict[int, list[Path]] = {}
        for path, (first, last) in sorted(self.grid.span.items(), key=lambda entry: len(entry[0])):
            if path:
                depth_open.setdefault(first - 1, []).append(path)
                depth_close.setdefault(last, []).append(path)
        for path, (first, last) in sorted(self.grid.span.items(), key=lambda entry: len(entry[0])):
            if not path:
                continue
            outer = depth_open[first - 1].index(path)
            inner = depth_close[last][::-1].index(path)
            top = self.gap[first - 1]["opening"] + outer * HEADER
            bottom = self.gap[last]["closing"] + (inner + 1) * PAD - 3
            for column in self.columns:
                if (column, path) in self.reach:
                    left, right = self.reach[column, path]
                    frames.append((path, column, self.axis[column] - left, top, left + right, bottom - top))
        return frames

    def _labels(self, boxes: dict[int, tuple[float, float, float, float]]) -> list[Label]:
        labels = []
        for n, net in enumerate(self.nets):
            if net.label is None:
                continue
            column = self.grid.place[net.source][1]
            x, y, w, h = boxes[net.source]
            k, at = self.line_of[n], x + w / 2 + net.port
            base = y - 4 - STRIP * k if self._up(column) else y + h + 9 + STRIP * k
            left = net.port < 0
            if net.exit != "gap":        # a leaf beside its reader: the shape stands below it, in the middle
                base, at = y + h + 9, at - net.label.width / 2 - 4
            labels.append(Label(net.label, at - 4 if left else at + 4, base, left, column))
        return labels


def _tidy(points: list[Point]) -> list[Point]:
    """Without corners that are none."""
    out: list[Point] = []
    for p in points:
        if out and abs(out[-1][0] - p[0]) < 0.05 and abs(out[-1][1] - p[1]) < 0.05:
            continue
        if len(out) > 1 and ((abs(out[-2][0] - out[-1][0]) < 0.05 and abs(out[-1][0] - p[0]) < 0.05)
                             or (abs(out[-2][1] - out[-1][1]) < 0.05 and abs(out[-1][1] - p[1]) < 0.05)):
            out[-1] = p
        else:
            out.append(p)
    return out


def _widen(table: dict[tuple[int, Path], tuple[float, float]], key: tuple[int, Path], left: float,
           right: float) -> None:
    a, b = table.get(key, (0.0, 0.0))
    table[key] = (max(a, left), max(b, right))
