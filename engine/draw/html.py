"""The viewer: one HTML file with the whole graph, its layouts made here, its script without any library or network."""
from __future__ import annotations

import json
from html import escape
from importlib import resources
from typing import TYPE_CHECKING, Any

from engine.diagram.boxes import Box, Path
from engine.diagram.cost import flop, touched
from engine.diagram.memory import memory
from engine.diagram.view import Item, Viewer, opened, ticks
from engine.draw import colours
from engine.draw.svg import Picture
from engine.draw.words import duration

if TYPE_CHECKING:
    from engine.diagram.graph import Graph

ROOT_DEPTH = 2                           # of the first picture
STATES = 16                              # ways to have its modules open or closed, each laid out
SCRIPTS = ("panels.js", "viewer.js")


def page(graph: Graph, title: str = "") -> str:
    """The graph as one self-contained page: a picture a module, and what there is to say about every box."""
    folder = resources.files(__package__)
    template = folder.joinpath("viewer.html").read_text(encoding="utf-8")
    script = "".join(folder.joinpath(name).read_text(encoding="utf-8") for name in SCRIPTS)
    data = json.dumps(_data(graph, title), ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")
    return (template.replace("__TITLE__", escape(title or "computation graph"))
            .replace("/* dark */", colours.dark_rules("body.dark main"))
            .replace("/* script */", script).replace('"__DATA__"', data))


def _data(graph: Graph, title: str) -> dict[str, Any]:
    texts: dict[str, int] = {}

    def kept(picture: Picture, legend: bool = False) -> list[Any]:
        number = texts.setdefault(picture.svg("i", legend=legend, title="graph"), len(texts))
        items = picture.view.items
        return [number, [_item(item) for item in items], [round(picture.drawing.floors[item.id], 1) for item in items]]
    views = {"/".join(path): kept(_picture(graph, {path[:n] for n in range(len(path) + 1)}, path))
             for path in graph.tree.modules if path}
    states = {",".join(sorted("/".join(p) for p in state if p)): kept(_picture(graph, state, ()), True)
              for state in _states(graph)}
    paths = ["/".join(p) for p in graph.tree.modules]
    at = {p: i for i, p in enumerate(paths)}
    lives = memory(graph.boxes)
    return {"title": title, "svgs": list(texts), "views": views, "states": states, "first": next(iter(states)),
            "paths": paths, "boxes": [_box(b, graph.boxes, at) for b in graph.boxes],
            "modules": {"/".join(p): _module(graph, p) for p in graph.tree.modules},
            "columns": sorted(graph.columns), "notice": graph.notice, "measured": graph.measured,
            "memory": {"live": lives.live, "peak": list(lives.peak)},
            "lives": [[life.box, life.born, life.dies, life.bytes] for life in lives.lives]}


def _states(graph: Graph) -> list[set[Path]]:
    """Which modules of the first picture are open: the picture as it opens, then every other way, if they are few."""
    first = opened(graph.tree, ROOT_DEPTH, (), "module")
    shown = sorted(_viewer(graph).view(first).frames, key=lambda p: (len(p), p))
    states: list[set[Path]] = [{()}]
    for path in shown:
        states += [{*state, path} for state in states if path[:-1] in state]
        if len(states) > STATES:
            states = [{p for p in ((), *shown) if len(p) <= depth} for depth in range(ROOT_DEPTH + 1)]
            break
    whole = {(), *shown}
    return [whole, *(state for state in states if state != whole)]


def _viewer(graph: Graph) -> Viewer:
    return Viewer(graph.boxes, graph.tree, graph.columns)


def _picture(graph: Graph, open_: set[Path], root: Path) -> Picture:
    """The picture of one module with its children closed; or of the whole graph with some modules open."""
    view = _viewer(graph).view(open_, {root} if root else set(), root)
    if 0 not in graph.columns:
        from engine.diagram.graph import alone
        alone(view, min(graph.columns))
    view.title = ""
    return Picture(view, graph.boxes, graph.measured, viewer=True)


def _item(item: Item) -> Any:
    """What an item of a picture is: the number of a box, or a module and its pass; with the item that it hangs on."""
    if item.module is None:
        return [item.box.id, item.of, [b.id for b in item.boxes] if len(item.boxes) > 1 else 0]
    return ["/".join(item.module), item.of, [item.boxes[0].id, item.boxes[-1].id], item.column]


def _box(b: Box, boxes: list[Box], at: dict[str, int]) -> list[Any]:
    params = ", ".join([f"{k}={v}" for k, v in b.params.items()] + list(b.literals.values()))
    reads = [[e.source, e.role, e.kind[0]] for e in b.inputs]
    node = b.node if b.kind != "failed" else None
    row: list[Any] = [b.kind, b.op, b.name, at["/".join(b.path)], b.column, b.of, b.shape, b.dtype, b.equation, params,
                      reads, b.gradient, b.learns, flop(node) if node else 0, touched(node) if node else 0]
    back = b.node.op.equation[1] if b.node is not None and b.node.op is not None and not b.column else ""
    return [*row, back, _seen(b, boxes), *([b.error] if b.error else [])]


def _seen(b: Box, boxes: list[Box]) -> Any:
    if b.seen is None:
        return 0
    s = b.seen
    numbers = ", ".join(f"{v:.4g}" for v in s.numbers) if s.numbers else ""
    gradient = boxes[b.gradient].seen if b.gradient is not None else None
    return [numbers or f"rms {s.rms:.3g}", f"{s.low:.3g} … {s.high:.3g}", s.rms,
            gradient.rms if gradient is not None else None,
            duration(s.seconds) if s.seconds is not None else "", s.device, int(s.finite), s.line, s.weights or 0]


def _module(graph: Graph, path: tuple[str, ...]) -> list[Any]:
    module = graph.tree.modules[path]
    inside = [graph.boxes[i] for i in module.boxes]
    repeat = graph.tree.repeats.get(path)
    return [len(inside), ticks(inside, graph.boxes, {}).text, repeat.note if repeat else ""]
