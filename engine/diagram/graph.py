"""A computation as a graph that can be looked at, saved, compared and read aloud."""
from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path as File
from typing import Any, Literal

from engine.diagram import text
from engine.diagram.boxes import Box, collect
from engine.diagram.compare import Difference, compare, merged
from engine.diagram.memory import Memory, memory
from engine.diagram.modules import Tree
from engine.diagram.view import View, Viewer, badges, named, opened, ticks
from engine.errors import GraphError

Backward = bool | Literal["only"]
Level = Literal["module", "op"]
READABLE = 150                           # boxes that one picture may have before it is folded of itself
SUFFIXES = (".svg", ".html", ".dot", ".json", ".png", ".pdf", ".txt")


class Graph:
    """What `graph()` gives: boxes (one a tensor), and views of them at any level of detail.

    depth: how many levels of modules are open (None: all, or as many as one picture can take).
    open: paths of modules to open besides, `"encoder/layers.0"`.
    level: "op", or "module" to keep closed what holds no further module.
    inside: the path of one module, drawn alone with what comes in and goes out.
    """

    def __init__(self, boxes: list[Box], columns: set[int]) -> None:
        self.boxes, self.columns = boxes, columns
        self.tree = Tree(boxes)
        self.measured = any(b.seen is not None for b in boxes)

    @property
    def notice(self) -> str:
        """What there is to say about the graph in one line, or nothing."""
        return self.tree.notice

    @property
    def parameters(self) -> int:
        """How many numbers the parameters hold, each counted once."""
        found = ticks(self.boxes, self.boxes, {})
        return found.learning + found.frozen

    def shared_weights(self) -> dict[str, str]:
        """The letter of every weight that several modules share, and its name."""
        return {letter: self.boxes[i].name for i, letter in badges(self.boxes).items()}

    def view(self, depth: int | None = None, open: Iterable[str] = (), level: Level | None = None,
             inside: str | None = None) -> View:
        """Which boxes and arrows are to be seen. Raises GraphError for a module that is not there."""
        paths = [open] if isinstance(open, str) else list(open)
        viewer = Viewer(self.boxes, self.tree, self.columns)
        paths += ["/".join(b.path) for b in self.boxes if b.kind == "failed" and b.path]
        explicit = {named(self.tree, p) for p in paths}
        root = named(self.tree, inside) if inside else ()
        asked = level or ("op" if depth is None else "module")
        deep = None if depth is None else depth + len(root)

        def at(depth: int | None, level: str) -> View:
            shown = opened(self.tree, depth, paths, level) | {root[:n] for n in range(len(root) + 1)}
            return viewer.view(shown, explicit | ({root} if root else set()), root)
        view = at(deep, asked)
        if depth is None and level is None and len(view.items) > READABLE:
            deepest = max(len(p) for p in self.tree.modules)
            for fold in range(deepest, len(root) - 1, -1):
                view = at(fold, "module")
                if len(view.items) <= READABLE:
                    break
            view.notice = f"{self.notice} Folded to depth {fold}, for one picture; a depth shows more.".strip()
        if 0 not in self.columns:
            alone(view, min(self.columns))
        return view

    # ------------------------------------------------------------------------------------------ as text
    def table(self, inside: str | None = None) -> str:
        """The same graph, or one module of it, as an ordered list, for a terminal or a screen reader."""
        shown = self.tree.modules[named(self.tree, inside)].boxes if inside else range(len(self.boxes))
        return text.table(self.boxes, self.columns, self.notice, shown)

    def json(self, depth: int | None = None, open: Iterable[str] = (), level: Level | None = None,
             inside: str | None = None) -> str:
        """The graph as data, the same in every process; with depth, open, level or inside that view's items too."""
        chosen = depth is not None or bool(open) or level is not None or inside is not None
        view = self.view(depth, open, level, inside) if chosen else None
        return text.as_json(self.boxes, self.tree, self.columns, view, {})

    def dot(self, depth: int | None = None, open: Iterable[str] = (), level: Level | None = None,
            inside: str | None = None) -> str:
        """The view as DOT, the same in every process. Needs no Graphviz."""
        return text.as_dot(self.view(depth, open, level, inside), self.boxes)

    # ------------------------------------------------------------------------------------------ as a picture
    def svg(self, depth: int | None = None, open: Iterable[str] = (), level: Level | None = None,
            inside: str | None = None, title: str = "") -> str:
        """The view as plain SVG: links from backward boxes to their forward boxes and tooltips, without script."""
        from engine.draw.svg import Picture
        return Picture(self.view(depth, open, level, inside), self.boxes, self.measured).svg(title=title)

    def html(self, title: str = "") -> str:
        """The whole graph as one offline page: pan, zoom, search, open modules, step through the pass."""
        from engine.draw.html import page
        return page(self, title)

    def save(self, path: str | File, depth: int | None = None, open: Iterable[str] = (), level: Level | None = None,
             inside: str | None = None, title: str = "") -> File:
        """Write a file, its kind by its suffix: .svg .html .dot .json .txt, or .png and .pdf (which need Graphviz).

        Raises GraphError for another suffix, and for .png and .pdf where Graphviz's `dot` is not installed.
        """
        path = File(path)
        suffix = path.suffix.lower()
        if suffix not in SUFFIXES:
            raise GraphError(f"graph.save: {path.name} must end in {', '.join(SUFFIXES)}")
        if suffix in (".png", ".pdf"):
            from engine.draw.raster import raster
            view = self.view(depth, open, level, inside)
            path.write_bytes(raster(view, self.boxes, suffix[1:], self.measured, title))
            return path
        made = {".svg": lambda: self.svg(depth, open, level, inside, title), ".html": lambda: self.html(title),
                ".dot": lambda: self.dot(depth, open, level, inside),
                ".json": lambda: self.json(depth, open, level, inside), ".txt": lambda: self.table() + "\n"}[suffix]()
        path.write_text(made, encoding="utf-8")
        return path

    def diff(self, other: Graph, tolerance: float = 1e-3) -> Difference:
        """What changes from this graph to another: boxes, shapes, wiring, and where both were run under `observe()`,
        the first box whose values depart by more than `tolerance` of their root mean square."""
        sides = [[b for b in g.boxes if b.column in g.columns] for g in (self, other)]
        found = compare(sides[0], sides[1], tolerance)
        found.graph = Graph(merged(sides[0], sides[1], found), self.columns | other.columns)
        return found

    def memory(self) -> Memory:
        """Which tensor lives from when to when, and live bytes after each step."""
        return memory(self.boxes)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        from engine.draw.raster import INSTALL, has_graphviz
        words = self.table() if len(self.boxes) <= 400 else f"{len(self.boxes):,} boxes. {self.notice}"
        if not has_graphviz():
            words += f"\n{INSTALL}"
        return {"text/plain": words, "image/svg+xml": self.svg()}

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        return f"<graph of {len(self.boxes):,} boxes, {self.parameters:,} parameters>"


def alone(view: View, first: int) -> None:
    """A backward pass without its forward pass: drawn downwards like a forward pass of its own."""
    view.shift = first
    for item in view.items:
        item.column, item.of = max(item.column - first, 0), None


def graph(*roots: Any, backward: Backward = False, unfused: bool = False) -> Graph:
    """The graph of a computation: of tensors, or of an EngineError whose call was refused.

    backward: True draws the backward pass beside it (derived from the rules on shapes alone, nothing is computed, and
    it does not matter whether backward() has run), "only" draws it alone. unfused: fused ops as what they mean.
    Raises GraphError where there is nothing to draw.
    """
    if not roots:
        raise GraphError("graph() needs at least one tensor")
    if backward not in (True, False, "only"):
        raise GraphError(f"graph(backward={backward!r}): it must be True, False or 'only'")
    boxes = collect(roots, bool(backward), unfused)
    columns = {b.column for b in boxes}
    return Graph(boxes, columns - {0} if backward == "only" else columns)
