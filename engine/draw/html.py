"""The viewer: one HTML file with the whole graph, its layouts made here, its script without any library or network."""
from __future__ import annotations

import json
from html import escape
from importlib import resources
from typing import TYPE_CHECKING, Any

from engine.diagram.boxes import Box
from engine.diagram.cost import flop, touched
from engine.diagram.memory import memory
from engine.diagram.view import Item, Viewer, opened, ticks
from engine.draw.svg import Picture
from engine.draw.words import duration

if TYPE_CHECKING:
    from engine.diagram.graph import Graph

ROOT_DEPTH = 2                           # of the first page
MANY = 700                               # boxes on one page


def page(graph: Graph, title: str = "") -> str:
    """The graph as one self-contained page: a view a module, and what there is to say about every box."""
    template = resources.files(__package__).joinpath("viewer.html").read_text(encoding="utf-8")
    data = json.dumps(_data(graph, title), ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")
    return template.replace("__TITLE__", escape(title or "computation graph")).replace('"__DATA__"', data)


def _data(graph: Graph, title: str) -> dict[str, Any]:
    texts: dict[str, int] = {}
    views: dict[str, Any] = {}
    for path in graph.tree.modules:
        picture = _picture(graph, path)
        svg = picture.svg("i", legend=not path, title="graph")
        number = texts.setdefault(svg, len(texts))
        views["/".join(path)] = [number, [_item(item) for item in picture.view.items]]
    paths = ["/".join(p) for p in graph.tree.modules]
    at = {p: i for i, p in enumerate(paths)}
    lives = memory(graph.boxes)
    return {"title": title, "svgs": list(texts), "views": views, "paths": paths,
            "boxes": [_box(b, graph.boxes, at) for b in graph.boxes],
            "modules": {"/".join(p): _module(graph, p) for p in graph.tree.modules},
            "columns": sorted(graph.columns), "notice": graph.notice,
            "memory": {"live": lives.live, "peak": list(lives.peak)},
            "lives": [[life.box, life.born, life.dies, life.bytes] for life in lives.lives]}


def _picture(graph: Graph, path: tuple[str, ...]) -> Picture:
    """The picture of one module with its children closed; of the whole graph, folded for a first look."""
    viewer = Viewer(graph.boxes, graph.tree, graph.columns)
    if path:
        view = viewer.view({path[:n] for n in range(len(path) + 1)}, {path}, path)
    else:
        view = viewer.view(opened(graph.tree, ROOT_DEPTH, (), "module"))
    if 0 not in graph.columns:
        from engine.diagram.graph import alone
        alone(view, min(graph.columns))
    view.title = ""
    return Picture(view, graph.boxes, False, viewer=True)


def _item(item: Item) -> Any:
    """What an item of a picture is: the number of a box, or a module and its pass; with the item that it hangs on."""
    if item.module is None:
        return [item.box.id, item.of, [b.id for b in item.boxes] if len(item.boxes) > 1 else 0]
    return ["/".join(item.module), item.of, [item.boxes[0].id, item.boxes[-1].id], item.column]


def _box(b: Box, boxes: list[Box], at: dict[str, int]) -> list[Any]:
    params = ", ".join([f"{k}={v}" for k, v in b.params.items()] + list(b.literals.values()))
    reads = [[e.source, e.role, e.kind[0]] for e in b.inputs]
    row: list[Any] = [b.kind, b.op, b.name, at["/".join(b.path)], b.column, b.of, b.shape, b.dtype, b.equation, params,
                      reads, b.gradient, b.learns, flop(b.node) if b.node else 0, touched(b.node) if b.node else 0]
    back = b.node.op.equation[1] if b.node is not None and b.node.op is not None and not b.column else ""
    return [*row, back, _seen(b, boxes)]


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
