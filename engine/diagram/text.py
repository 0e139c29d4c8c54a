"""A graph as text: a table for a terminal or a screen reader, DOT, and JSON; the same in every process."""
from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from engine.diagram.boxes import Box, Edge
from engine.diagram.modules import Tree
from engine.diagram.view import Frame, Item, Link, View, ticks

COLUMNS = ("forward", "backward", "second backward")


def table(boxes: list[Box], columns: set[int], notice: str, shown: Sequence[int]) -> str:
    """One line a box in the order of the pass: number, part, op, shape, what it reads, where it stands."""
    rows = []
    for box in (boxes[i] for i in shown):
        if box.column in columns:
            reads = ", ".join(_reads(boxes, e.source, e.kind, e.role) for e in box.inputs)
            literals = ", ".join(box.literals.values())
            rows.append((str(box.id), COLUMNS[min(box.column, 2)], title(box), box.shape, box.dtype,
                         ", ".join(t for t in (reads, literals) if t),
                         f"of {box.of}" if box.of is not None else tick_of(box), "/".join(box.path)))
    heads = ("#", "pass", "op", "shape", "dtype", "reads", "note", "in")
    widths = [max(len(r[i]) for r in [*rows, heads]) for i in range(len(heads) - 1)]
    widths = [min(w, 60) for w in widths]
    lines = ["  ".join(t.ljust(w) for t, w in zip(r, [*widths, 0], strict=True)).rstrip() for r in [heads, *rows]]
    total = ticks((boxes[i] for i in shown), boxes, {}).text
    lines.append(f"{len(rows):,} boxes" + f"; {total} parameters" * bool(total) + f". {notice}" * bool(notice))
    return "\n".join(lines)


def title(box: Box) -> str:
    """The box in two words."""
    return f"{box.label} {box.name}".strip() if box.op and box.name else box.label


def tick_of(box: Box) -> str:
    """✓ and the count of a parameter."""
    if box.kind != "parameter":
        return "residual" if box.residual else ""
    return f"✓ {box.size:,}" if box.learns else f"☐ {box.size:,} frozen"


def _reads(boxes: list[Box], i: int, kind: str, role: str) -> str:
    role = f"{role}=" if len(role) > 1 else ""
    return f"{role}{i}" + (" (saved)" if kind == "saved" else "")


# ---------------------------------------------------------------------------------------------- JSON
def as_json(boxes: list[Box], tree: Tree, columns: set[int], view: View | None, facts: dict[str, Any]) -> str:
    """The graph as data; with a view, that view's items and links too. One object a line, so that changes show."""
    shown = [b for b in boxes if b.column in columns]
    parts = {"boxes": [_box(b) for b in shown],
             "edges": [_edge(e) for b in shown
                       for e in b.inputs if boxes[e.source].column in columns],
             "modules": [_module(boxes, tree, p) for p in tree.modules if p]}
    if view is not None:
        parts["items"] = [_item(i, boxes, view) for i in view.items]
        parts["links"] = [_link(k) for k in view.links]
    total = ticks(boxes, boxes, {})
    head: dict[str, Any] = {"format": "microtfm graph 1", "parameters": total.learning + total.frozen, **facts,
                            "notice": tree.notice}
    lines = ["{"] + [f" {json.dumps(k)}: {_dump(v)}," for k, v in head.items()]
    for n, (key, rows) in enumerate(parts.items()):
        lines.append(f" {json.dumps(key)}: [")
        lines += [f"  {_dump(row)}{',' if i + 1 < len(rows) else ''}" for i, row in enumerate(rows)]
        lines.append(" ]" + ("," if n + 1 < len(parts) else ""))
    return "\n".join([*lines, "}"]) + "\n"


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _box(b: Box) -> dict[str, Any]:
    row: dict[str, Any] = {"id": b.id, "kind": b.kind, "op": b.op, "name": b.name, "path": "/".join(b.path),
                           "pass": b.column, "of": b.of, "shape": [int(n) for n in b.sizes],
                           "axes": [s.text() for s in b.sizes], "dtype": b.dtype, "equation": b.equation}
    optional = {"params": b.params, "literals": {str(k): v for k, v in b.literals.items()}, "learns": b.learns,
                "gradient": b.gradient, "gradient_of": b.gradient_of, "saved": b.kept,
                "residuals": list(b.residuals), "residual": b.residual or None, "change": b.change or None,
                "departs": b.departs}
    return row | {k: v for k, v in optional.items() if v not in (None, {}, [])}


def _edge(e: Edge) -> dict[str, Any]:
    row: dict[str, Any] = {"from": e.source, "to": e.target, "role": e.role, "kind": e.kind}
    return row | ({"change": e.change} if e.change else {})


def _module(boxes: list[Box], tree: Tree, path: tuple[str, ...]) -> dict[str, Any]:
    module = tree.modules[path]
    found = ticks([boxes[i] for i in module.boxes], boxes, {})
    row: dict[str, Any] = {"path": "/".join(path), "boxes": len(module.boxes), "parameters": found.learning}
    if found.frozen:
        row["frozen"] = found.frozen
    repeat = tree.repeats.get(path)
    if repeat is not None:
        row["repeats"] = repeat.note
    return row


def _item(item: Item, boxes: list[Box], view: View) -> dict[str, Any]:
    found = ticks(item.boxes, boxes, view.badges if item.column == 0 else {})
    row: dict[str, Any] = {"id": item.id, "pass": item.column, "label": label(item), "path": "/".join(item.path),
                           "of": item.of, "boxes": [b.id for b in item.boxes]}
    if item.column == 0 and found.text:
        row["ticks"] = found.text
        row["parameters"] = found.learning
    if item.copies:
        row["copies"] = item.copies
    if item.times > 1:
        row["times"] = item.times
    return row


def _link(link: Link) -> dict[str, Any]:
    row: dict[str, Any] = {"from": link.source, "to": link.target, "kind": link.kind,
                           "tensor": link.tensor.id, "shape": link.tensor.shape, "role": link.role}
    return row | ({"residual": True} if link.residual else {}) | (
        {"tensors": len(link.tensors)} if len(link.tensors) > 1 else {})


def label(item: Item) -> str:
    """The item in a few words."""
    return item.module[-1] + (f" {item.copies}" if item.copies else "") if item.module else title(item.box)


# ---------------------------------------------------------------------------------------------- DOT
STYLE = {"forward": 'color="#3b6ea5"', "backward": 'color="#b4423a"', "saved": 'style=dotted, color="#8b929c"',
         "constant": 'style=dashed, color="#6b7280"'}
FILL = ("#eaf2fb", "#fdecea", "#f3ecfb")
CHANGED = {"−": "#fde2e2", "+": "#dcf5e0", "~": "#fff3d6"}               # of two graphs compared


def as_dot(view: View, boxes: list[Box]) -> str:
    """The view for Graphviz, in words alone: no positions, no layout needed."""
    lines = ["digraph microtfm {", "  rankdir=TB; nodesep=0.25; ranksep=0.3; nslimit=2; nslimit1=2; mclimit=0.5;",
             '  node [shape=box, style="rounded,filled", fontname="Helvetica", fontsize=10];',
             '  edge [fontname="Helvetica", fontsize=8];']
    inside: dict[tuple[int, tuple[str, ...]], list[Item]] = {}
    for item in view.items:
        inside.setdefault((item.column, item.path), []).append(item)
    for column in sorted({c for c, _ in inside}):
        paths = sorted({p[:n] for c, p in inside if c == column for n in range(len(p) + 1)})
        opened: list[tuple[str, ...]] = []
        for path in paths:
            while opened and path[:len(opened[-1])] != opened[-1]:
                opened.pop()
                lines.append("  " * (len(opened) + 1) + "}")
            if path:
                frame = view.frames.get(path)
                lines.append("  " * (len(opened) + 1) + f"subgraph {_quoted(f'cluster {column} ' + '/'.join(path))} {{ "
                             f"label={_quoted(_frame_title(path, frame, boxes, view, column))};")
                opened.append(path)
            for item in inside.get((column, path), []):
                lines.append("  " * (len(opened) + 1) + _dot_node(item, boxes, view))
        lines += ["  " * (n + 1) + "}" for n in reversed(range(len(opened)))]
    lines += ["  " + _dot_edge(link) for link in view.links]
    return "\n".join([*lines, "}"]) + "\n"


def _frame_title(path: tuple[str, ...], frame: Frame | None, boxes: list[Box], view: View, column: int) -> str:
    parts = [path[-1] + " ′" * bool(column), frame.copies if frame else ""]
    if frame and column == 0:
        parts.append(ticks(frame.boxes, boxes, view.badges).text)
    return " ".join(p for p in parts if p)


def _dot_node(item: Item, boxes: list[Box], view: View) -> str:
    text = label(item) + (" ′" if item.column and item.module else "")
    if item.column == 0:
        tick = ticks(item.boxes, boxes, view.badges).text
        text += f"\n{tick}" if tick else ""
    if item.module is None and item.box.equation:
        text += f"\n{item.box.equation}"
    colour = "#fbd5d5" if item.box.kind == "failed" else CHANGED.get(item.change) or FILL[min(item.column, 2)]
    text = f"{item.change} {text}" if item.change else text
    link = f', URL="#n{item.of}"' if item.of is not None else ""
    return (f'n{item.id} [id="n{item.id}", label={_quoted(text)}, fillcolor="{colour}", '
            f'tooltip={_quoted("/".join(item.module or item.path) or text)}{link}];')


def _dot_edge(link: Link) -> str:
    name = link.role if len(link.role) > 1 or link.role in "qkv" else ""
    shape = link.tensor.shape if link.kind != "saved" else ""
    shape = f"{link.change} {shape}".rstrip() if link.change else shape
    text = f"label={_quoted(shape)}, " if shape else ""
    style = STYLE[link.kind] + (", constraint=false" if link.kind == "saved" else "") + (
        ", penwidth=2" if link.residual else "")
    tip = _quoted(f"{name} {link.tensor.shape}".strip())
    return f"n{link.source} -> n{link.target} [{text}tooltip={tip}, {style}];"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
