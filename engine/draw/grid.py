"""Where the boxes stand: a grid of rows, forward boxes on the left, what pulls back through them on the right.

Ranks and left-to-right order inside a module come from `graphlay` (PyPI; MIT or Apache-2.0): a layered layout that is
deterministic, takes boxes of given sizes, needs no compiler and no other package, and is kept up (its wheels run on
every Python from 3.9). Each module is laid out alone, so that ten thousand boxes are cheap. Rows never overlap, so that
a line has only to keep to the gaps between rows and to lanes beside the boxes, and can never cross a box.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from heapq import heapify, heappop, heappush
from itertools import pairwise
from typing import Any

from engine.diagram.boxes import Path
from engine.diagram.view import Item, View
from engine.draw.words import Words

SIDE = 3                                 # closed boxes that may stand side by side
Child = int | Path                       # an item, or an open module


@dataclass
class Row:
    """Boxes at one height: for each column the items from left to right."""
    cells: dict[int, list[int]] = field(default_factory=dict)
    path: Path = ()


@dataclass
class Grid:
    """Rows from top to bottom, and for each open module its first and last row."""
    rows: list[Row] = field(default_factory=list)
    span: dict[Path, tuple[int, int]] = field(default_factory=dict)
    place: dict[int, tuple[int, int]] = field(default_factory=dict)      # item -> (row, column)
    beside: dict[int, int] = field(default_factory=dict)     # a leaf that stands beside its one reader -> the reader


def arrange(view: View, words: Sequence[Words]) -> Grid:
    """The grid of a view."""
    grid = Grid(beside=_beside(view))
    hanging: dict[int, list[Item]] = {}
    above: dict[Path, list[Item]] = {}   # what stands outside of an open module that it hangs on: over it
    stray: list[Item] = []
    for item in view.items:
        if item.id in grid.beside:
            continue
        if item.column and item.of is not None:
            hook = view.items[item.of]
            if hook.column == 0 and len(item.path) < len(hook.path) and hook.path[:len(item.path)] == item.path:
                above.setdefault(hook.path[:len(item.path) + 1], []).append(item)
            else:
                hanging.setdefault(item.of, []).append(item)
        elif item.column:
            stray.append(item)
    order = _orders(view, words, grid.beside)
    hooked = {item.column: min(i.box.id for k in hanging for i in hanging[k] if i.column == item.column)
              for k in hanging for item in hanging[k]}
    stray.sort(key=lambda item: -item.box.id)
    late = [item for item in stray if item.box.id > hooked.get(item.column, item.box.id)]
    for item in late:                    # made from a gradient: above it
        _emit(grid, view, [item.id], hanging)
    stack: list[tuple[str, Any]] = [("open", ())]
    while stack:
        what, value = stack.pop()
        if what == "close":
            first = grid.span[value][0]
            grid.span[value] = (first, len(grid.rows) - 1)
        elif what == "open":
            for outside in _by_column(above.get(value, [])):
                ranks = _ranked(outside, view)
                for rank in ranks[::-1] if outside[0].column % 2 else ranks:
                    grid.rows.append(Row({outside[0].column: rank}, outside[0].path))
            grid.span[value] = (len(grid.rows), len(grid.rows))
            stack.append(("close", value))
            for group in reversed(order.get(value, [])):
                stack.append(("row", group) if isinstance(group, list) else ("open", group))
        else:
            _emit(grid, view, value, hanging)
    for item in stray:
        if item not in late:
            _emit(grid, view, [item.id], hanging)
    grid.span[()] = (0, max(len(grid.rows) - 1, 0))
    readers = {reader: leaf for leaf, reader in grid.beside.items()}
    for r, row in enumerate(grid.rows):
        for column, items in row.cells.items():
            for i in [i for i in items if i in readers]:
                alone = len(items) == 1
                items.insert(0 if column % 2 == 0 else len(items), readers[i])
                if not alone:            # somebody stands between: the line goes around
                    del grid.beside[readers[i]]
            for i in items:
                grid.place[i] = (r, column)
    return grid


def _beside(view: View) -> dict[int, int]:
    """Leaves with one reader, which can stand beside it; at most one a reader."""
    reads: dict[int, set[int]] = {}
    for link in view.links:
        if view.items[link.source].column == view.items[link.target].column:
            reads.setdefault(link.source, set()).add(link.target)
    fed = {link.target for link in view.links if link.kind != "saved"}
    found: dict[int, int] = {}
    taken: set[int] = set()
    for item in view.items:
        users = reads.get(item.id, set())
        if item.id in fed or item.port or item.module is not None or item.box.op or len(users) != 1:
            continue
        reader = view.items[next(iter(users))]
        others = [link for link in view.links if link.target == reader.id and link.source != item.id]
        if reader.path == item.path and not reader.port and reader.id not in taken and others:
            found[item.id] = reader.id
            taken.add(reader.id)
    return found


def _by_column(items: list[Item]) -> list[list[Item]]:
    return [[item for item in items if item.column == c] for c in sorted({item.column for item in items})]


def _emit(grid: Grid, view: View, group: list[int], hanging: dict[int, list[Item]]) -> None:
    """The rows of some boxes side by side, and of all that hangs on them."""
    path, own = view.items[group[0]].path, view.items[group[0]].column
    layers: dict[int, list[list[int]]] = {}
    for i in group:
        for column in sorted({item.column for item in hanging.get(i, [])}):
            here = [item for item in hanging[i] if item.column == column]
            ranks = _ranked(here, view)
            slots = layers.setdefault(column, [])
            for k, rank in enumerate(ranks):
                if k == len(slots):
                    slots.append([])
                slots[k] = rank[::-1] + slots[k] if column % 2 else slots[k] + rank
    height = max([len(slots) for slots in layers.values()], default=1)
    rows = [Row({}, path) for _ in range(height)]
    rows[height // 2 if height > 1 else 0].cells[own] = group
    for column, slots in layers.items():
        shift = (height - len(slots)) // 2
        for k, slot in enumerate(slots):             # the first of a backward pass stands lowest
            rows[height - 1 - shift - k if column % 2 else shift + k].cells[column] = slot
    grid.rows += rows


def _ranked(items: list[Item], view: View) -> list[list[int]]:
    """Items of one cluster in layers, inputs first; at most SIDE in a layer."""
    inside = {item.id for item in items}
    feeds: dict[int, set[int]] = {}
    for link in view.links:
        if link.source in inside and link.target in inside:
            feeds.setdefault(link.target, set()).add(link.source)
    if len(items) == 1:
        return [[items[0].id]]
    rank: dict[int, int] = {}
    for item in sorted(items, key=lambda item: item.boxes[0].id):
        rank[item.id] = max([rank.get(s, -1) + 1 for s in feeds.get(item.id, ())], default=0)
    layers: list[list[int]] = []
    for k in range(max(rank.values()) + 1):
        layer = [i for i in rank if rank[i] == k]
        layers += [layer[n:n + SIDE] for n in range(0, len(layer), SIDE)]
    return layers


# ---------------------------------------------------------------------------------------------- each module alone
def _orders(view: View, words: Sequence[Words], beside: dict[int, int]) -> dict[Path, list[list[int] | Path]]:
    """For every open module what stands in it, from top to bottom: rows of boxes, and open modules."""
    forward = [item for item in view.items if item.column == 0 and item.id not in beside]
    children: dict[Path, list[Child]] = {(): []}
    for item in forward:
        for n in range(len(item.path), 0, -1):
            path = item.path[:n]
            if path in children:
                break
            children[path] = []
        for n in range(1, len(item.path) + 1):
            up = children.setdefault(item.path[:n - 1], [])
            if item.path[:n] not in up:
                up.append(item.path[:n])
        children.setdefault(item.path, []).append(item.id)
    edges = _lifted(view)
    return {path: _one(path, own, edges.get(path, set()), view, words) for path, own in children.items()}


def _lifted(view: View) -> dict[Path, set[tuple[Child, Child]]]:
    """Every forward edge between the two children of the innermost module that holds both of its ends."""
    edges: dict[Path, set[tuple[Child, Child]]] = {}
    for link in view.links:
        a, b = view.items[link.source], view.items[link.target]
        if a.column or b.column:
            continue
        n = 0
        while n < min(len(a.path), len(b.path)) and a.path[n] == b.path[n]:
            n += 1
        left: Child = a.path[:n + 1] if len(a.path) > n else a.id
        right: Child = b.path[:n + 1] if len(b.path) > n else b.id
        edges.setdefault(a.path[:n], set()).add((left, right))
    return edges


def _one(path: Path, own: list[Child], edges: set[tuple[Child, Child]], view: View,
         words: Sequence[Words]) -> list[list[int] | Path]:
    at = {child: i for i, child in enumerate(own)}
    pairs = tuple(sorted((at[a], at[b]) for a, b in edges if a in at and b in at))
    widths = tuple(int(words[c].size[0]) if isinstance(c, int) else 400 for c in own)
    layers = _layers(len(own), pairs, widths)
    leaves = set(range(len(own))) - {b for _, b in pairs}
    users = {i: [b for a, b in pairs if a == i] for i in leaves}
    rank = {i: k for k, layer in enumerate(layers) for i in layer}
    for i in leaves:                     # a leaf stands just above the first that reads it
        if users[i]:
            rank[i] = min(rank[b] for b in users[i]) - 1
    for i in range(len(own)):
        if isinstance(own[i], int) and view.items[own[i]].port == "from":  # type: ignore[index]
            rank[i] = -2
        if isinstance(own[i], int) and view.items[own[i]].port == "to":  # type: ignore[index]
            rank[i] = len(layers) + 1
    position = {i: k for layer in layers for k, i in enumerate(layer)}
    widest = max(layers, key=len)
    if sum(a > b for a, b in pairwise(widest)) > len(widest) / 2 - 0.5 > 0:      # as drawn, or from right to left
        position = {i: -k for i, k in position.items()}
    if any(not isinstance(c, int) for c in own):
        return _in_turn(own, pairs, rank, view)
    out: list[list[int] | Path] = []
    for k in sorted(set(rank.values())):
        layer = sorted((i for i in rank if rank[i] == k), key=lambda i: (i in leaves, position[i], i))
        closed = [c for i in layer if isinstance(c := own[i], int)]
        out += [closed[n:n + SIDE] for n in range(0, len(closed), SIDE)]
    return out


def _in_turn(own: list[Child], pairs: Sequence[tuple[int, int]], rank: dict[int, int],
             view: View) -> list[list[int] | Path]:
    """Children below each other in the order of the pass; neighbours of one rank beside each other."""
    first = {i: view.items[c].boxes[0].id if isinstance(c, int) else min(
        item.boxes[0].id for item in view.items if item.column == 0 and item.path[:len(c)] == c)
        for i, c in enumerate(own)}
    users: dict[int, list[int]] = {}
    waits = dict.fromkeys(range(len(own)), 0)
    for a, b in pairs:
        users.setdefault(a, []).append(b)
        waits[b] += 1
    ports = {i: -1 if view.items[c].port == "from" else 2 for i, c in enumerate(own)
             if isinstance(c, int) and view.items[c].port}
    ready = [(ports.get(i, 0), _late(i, first, users, waits), i) for i in waits if not waits[i]]
    heapify(ready)
    turn: list[int] = []
    while len(turn) < len(own):
        # where modules feed each other none is ready: the one that began first is taken
        i = heappop(ready)[-1] if ready else min((i for i in waits if waits[i] > 0), key=lambda i: first[i])
        if waits[i] < 0:
            continue
        waits[i] = -1
        turn.append(i)
        for b in users.get(i, ()):
            waits[b] -= waits[b] > 0
            if waits[b] == 0:
                heappush(ready, (ports.get(b, 0), first[b], b))
    out: list[list[int] | Path] = []
    last = None
    for i in turn:
        child = own[i]
        if not isinstance(child, int):
            out.append(child)
        elif last is not None and isinstance(out[-1], list) and rank[last] == rank[i] and len(out[-1]) < SIDE:
            out[-1].append(child)
        else:
            out.append([child])
        last = i if isinstance(child, int) else None
    return out


def _late(i: int, first: dict[int, int], users: dict[int, list[int]], waits: dict[int, int]) -> int:
    """A leaf's turn comes just before its first reader's."""
    return min((first[b] for b in users.get(i, ())), default=first[i])


@lru_cache(maxsize=1024)
def _layers(n: int, edges: tuple[tuple[int, int], ...], widths: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Children of a module in layers, each from left to right."""
    if n == 1:
        return ((0,),)
    import graphlay

    g = graphlay.Graph()
    for i, width in enumerate(widths):
        g.node(str(i), width=float(width), height=40.0)
    for a, b in edges:
        g.edge(str(a), str(b))
    positions = graphlay.layout(g, options={"direction": "topbottom"}).positions()
    heights = sorted({round(y) for _, y in positions.values()})
    return tuple(tuple(sorted((int(i) for i, (_, y) in positions.items() if round(y) == h),
                              key=lambda i: (positions[str(i)][0], i))) for h in heights)
