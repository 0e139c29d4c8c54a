"""From the record to boxes: every tensor that a computation made, in the order in which it was made."""
from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from engine.autograd import cotangents
from engine.core import Node, Tensor, apply
from engine.diagram.axes import Names, behind
from engine.diagram.measure import Rules, Seen
from engine.diagram.sizes import Sizes, shape_text
from engine.errors import EngineError, GraphError
from engine.record import OPS, Key, Op
from engine.state import STATE, State, unfused

Path = tuple[str, ...]
KEPT = {name for op in OPS.values() for name in op.residuals} | {"out"}      # what a kernel keeps for a rule


@dataclass
class Edge:
    """One tensor read by one box."""
    source: int
    target: int
    role: str                            # what the target's op calls it: q, mask, weight
    kind: str                            # forward | backward | saved | constant (no gradient flows)
    change: str = ""                     # of two graphs compared: "−" only in the first, "+" only in the second


@dataclass
class Box:
    """One tensor and the op that made it."""
    id: int
    kind: str                            # input | parameter | op | accumulate | failed
    op: str
    name: str
    path: Path
    column: int                          # 0 forward, 1 backward, 2 the backward of the backward …
    of: int | None                       # backward: the forward box whose gradient this helps to make
    sizes: Sizes
    dtype: str
    equation: str = ""
    params: dict[str, str] = field(default_factory=dict)
    inputs: list[Edge] = field(default_factory=list)
    readers: list[Edge] = field(default_factory=list)
    literals: dict[int, str] = field(default_factory=dict)   # Python numbers and random keys among the inputs
    learns: bool | None = None           # of a parameter: True, or False where it is frozen
    gradient: int | None = None          # the box whose tensor is the gradient of this one's
    gradient_of: int | None = None       # the parameter, or failing that the tensor, whose whole gradient this is
    view: bool = False                   # shares its input's memory
    kept: list[int] = field(default_factory=list)            # inputs (and itself) saved for the backward pass
    residuals: tuple[str, ...] = ()      # what the forward kernel hands to this rule besides its output
    residual: bool = False               # an addition that closes a residual connection
    node: Node | None = None
    seen: Seen | None = None             # what a real run has measured
    change: str = ""                     # of two graphs compared: "−" or "+" where only one has it, "~" changed
    error: str = ""                      # of a refused call: why
    departs: float | None = None         # of two runs compared: by how much of its size its values differ

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return prod(int(n) for n in self.sizes)

    @property
    def bytes(self) -> int:
        """Memory of its own."""
        return 0 if self.view else self.size * np.dtype(self.dtype).itemsize

    @property
    def shape(self) -> str:
        """`B×T×D = 64×12×128`."""
        return shape_text(self.sizes)

    @property
    def label(self) -> str:
        """What stands in the box."""
        return "+=" if self.kind == "accumulate" else self.op if self.kind in ("op", "failed") else self.name or "input"


def collect(roots: Sequence[Any], backward: bool, expanded: bool) -> list[Box]:
    """The boxes of a computation and, if asked for, of its backward pass. Runs on shapes alone: no array is made.

    expanded: fused ops as what they mean. A backward pass that was measured is derived the way it ran, by kernels or by
    definitions. roots: tensors, or an EngineError of a call that was refused. Raises GraphError where there is nothing
    to draw.
    """
    starts = [_root(r) for r in roots]
    failed = {id(r.failed): str(r) for r in roots if isinstance(r, EngineError)}
    nodes = behind(starts)
    if expanded:
        nodes, starts = _expanded(nodes, starts)
    made: dict[int, list[Node]] = {}     # a cotangent's node -> the nodes that it is the cotangent of
    if backward:
        ends: list[Node] = []
        by_id = {id(n): n for n in nodes}
        for start in starts:
            if not start.requires_grad:
                continue
            with unfused() if any(n.seen is not None and n.seen.defined for n in nodes) else nullcontext():
                found = cotangents(Tensor.wrap(None, start))
            for key, g in found.items():
                made.setdefault(id(g.node), []).append(by_id[key])
                ends.append(g.node)
        if not ends:
            raise GraphError("graph(backward=True): nothing here requires a gradient. Make a tensor with "
                             "requires_grad=True, or draw the forward pass alone.")
        nodes = behind([*starts, *ends])
    return _boxes(nodes, made, failed)


def _root(root: Any) -> Node:
    if isinstance(root, Tensor):
        return root.node
    failed = getattr(root, "failed", None)
    if failed is None:
        raise GraphError(f"graph() draws tensors and refused calls; got {type(root).__name__}")
    return failed


def _expanded(nodes: Sequence[Node], starts: Sequence[Node]) -> tuple[list[Node], list[Node]]:
    """The same record with every fused op replaced by its meaning."""
    new: dict[int, Node] = {}
    for node in nodes:
        if node.op is None:
            new[id(node)] = node
            continue
        inputs = [Tensor.wrap(None, new[id(n)]) if n is not None else None for n in node.inputs]
        params = {k: v for k, v in node.params.items() if k not in node.op.residuals}
        of = new.get(id(node.of)) if node.of is not None else None
        token = STATE.set(State(True, False, False, node.scope, node.phase, of))
        try:
            out = apply(node.op, inputs, params).node
        finally:
            STATE.reset(token)
        out.name = out.name or node.name
        new[id(node)] = out
    ends = [new[id(n)] for n in starts]
    return behind(ends), ends


# ---------------------------------------------------------------------------------------------- which pass is it of?
def _columns(nodes: Sequence[Node]) -> dict[int, int]:
    """0 for the forward pass, 1 for its backward, 2 for the backward of that."""
    column: dict[int, int] = {}
    readers: dict[int, list[Node]] = {}
    for node in nodes:
        for n in node.inputs:
            if n is not None:
                readers.setdefault(id(n), []).append(node)
        if node.op is None:
            continue
        column[id(node)] = max([column.get(id(n), 0) for n in node.inputs if n is not None], default=0)
        if node.phase != "forward" and node.of is not None:
            column[id(node)] = max(column[id(node)], column.get(id(node.of), 0) + 1)
    for node in reversed(nodes):
        read_by = readers.get(id(node), [])
        if node.op is None:
            here = 0 if node.phase == "forward" and not node.literal and node.name != "1" else None
            column[id(node)] = here if here is not None else min((column[id(r)] for r in read_by), default=0)
        elif node.phase != "forward":
            same = [column[id(r)] for r in read_by if r.of is node.of and r.phase != "forward"]
            column[id(node)] = max(column[id(node)], min(same)) if same else column[id(node)]
    return column


# ---------------------------------------------------------------------------------------------- boxes and edges
def _boxes(nodes: Sequence[Node], made: dict[int, list[Node]], failed: dict[int, str]) -> list[Box]:
    names = Names()
    names.run([n for n in nodes if id(n) not in failed], made)
    names.of.update((id(n), ()) for n in nodes if id(n) in failed)
    column = _columns(nodes)
    boxes: list[Box] = []
    at: dict[int, Box] = {}
    rules = Rules()

    def place(node: Node) -> Box:
        kind = "failed" if id(node) in failed else _kind(node)
        box = Box(len(boxes), kind, node.op.name if node.op else "", node.name or "", tuple(node.scope),
                  column[id(node)], None, names.of[id(node)], str(node.dtype), node=node, seen=rules.of(node),
                  error=failed.get(id(node), ""))
        if node.op is not None:
            box.equation, box.view = node.op.equation[0], node.op.view
            box.params = _shown(node.op, node.params)
        elif kind == "parameter":
            box.learns = node.requires_grad
        boxes.append(box)
        at[id(node)] = box
        return box

    for node in nodes:
        if node.op is None:
            continue
        sources: list[tuple[int, Box]] = []
        literals: dict[int, str] = {}
        for i, n in enumerate(node.inputs):
            if n is None:
                continue
            if n.literal or (n.op is None and isinstance(node.op.kind(i), Key)):
                literals[i] = _number(n.name) if n.literal and n.name else "key"
                continue
            if id(n) not in at:
                leaf = place(n)
                leaf.column = min(leaf.column, column[id(node)]) if n.phase == "forward" else column[id(node)]
                if n.storage is not None and id(n.storage) in at and n.op is None:
                    _join(at[id(n.storage)], leaf, "", "constant")
            sources.append((i, at[id(n)]))
        box = place(node)
        box.literals = literals
        if node.of is not None and id(node.of) in at:
            box.of = at[id(node.of)].id
            box.residuals = tuple(r for r in node.of.op.residuals if r in node.params) if node.of.op else ()
        for i, source in sources:
            role = node.op.inputs[min(i, len(node.op.inputs) - 1)]
            _join(source, box, role, _passing(source, box))
    for node in nodes:
        if id(node) not in at and node.op is None and len(nodes) == 1:
            place(node)
    _finish(boxes, at, made)
    return boxes


def _number(text: str) -> str:
    try:
        return f"{float(text):.4g}" if "." in text or "e" in text else text
    except ValueError:
        return text


def _kind(node: Node) -> str:
    if node.op is not None:
        return "accumulate" if node.phase == "accumulate" else "op"
    return "parameter" if node.requires_grad or node.frozen else "op" if node.storage is not None else "input"


def _passing(source: Box, target: Box) -> str:
    if target.column == 0:
        return "forward"
    return "saved" if source.column < target.column else "backward" if target.column % 2 else "forward"


def _join(source: Box, target: Box, role: str, kind: str) -> None:
    edge = Edge(source.id, target.id, role, kind)
    target.inputs.append(edge)
    source.readers.append(edge)


def _shown(op: Op, params: dict[str, Any]) -> dict[str, str]:
    """Parameters that differ from their defaults, as text."""
    shown = {}
    for key, value in params.items():
        if value is None or isinstance(value, np.ndarray) or key in KEPT:
            continue
        default = op.defaults.get(key)
        if not (type(value) is type(default) and value == default):
            shown[key] = f"{value:.4g}" if isinstance(value, float) else _brief(value)
    return shown


def _brief(value: Any) -> str:
    """A parameter in short: an index as it is written between brackets."""
    parts = value if isinstance(value, tuple) else (value,)
    if not any(isinstance(v, (slice, np.ndarray, type(...))) for v in parts):
        return str(value)
    return "[" + ", ".join(_index(v) for v in parts) + "]"


def _index(v: Any) -> str:
    if isinstance(v, slice):
        return ":".join("" if n is None else str(n) for n in ((v.start, v.stop) if v.step is None else
                                                              (v.start, v.stop, v.step)))
    return "…" if v is ... else "(…)" if isinstance(v, np.ndarray) else str(v)


def _finish(boxes: list[Box], at: dict[int, Box], made: dict[int, list[Node]]) -> None:
    """What can be said only when all boxes are there."""
    for box in boxes:
        node = box.node
        if node is None:
            continue
        if node.op is None and box.readers:      # a parameter stands where it is first used, an input outside its users
            paths = [boxes[e.target].path for e in box.readers if boxes[e.target].column == box.column]
            outer = _users(paths) if box.kind == "parameter" else [*paths, tuple(node.scope)]
            box.path = _common(outer) if paths else box.path
        if node.op is None and node.storage is not None and box.kind == "op":
            box.op = "constant"
        for forward in made.get(id(node), ()):
            if id(forward) in at:
                at[id(forward)].gradient = box.id
                if box.gradient_of is None or forward.op is None:
                    box.gradient_of = at[id(forward)].id
        if node.op is not None and node.requires_grad and box.column == 0:
            wanted = node.op.saves if node.op.saves is not None else (*range(len(node.inputs)), -1)
            kept = [node if i == -1 else node.inputs[i] for i in wanted if i < len(node.inputs)]
            box.kept = [at[id(n)].id for n in kept if n is not None and id(n) in at]
    _place_sums(boxes)
    _find_residuals(boxes)


def _users(paths: Sequence[Path]) -> Sequence[Path]:
    """Where a weight belongs: to its first user, or, where copies of one module share it, above them."""
    for path in paths[1:]:
        n = len(_common([paths[0], path]))
        a, b = (p[n].rpartition(".") if len(p) > n else ("", "", "") for p in (paths[0], path))
        if a[0] and a[0] == b[0] and a[2].isdigit() and b[2].isdigit():
            return paths
    return paths[:1]


def _place_sums(boxes: list[Box]) -> None:
    """A `+=` stands in the innermost module that holds all gradients of the tensor that meet."""
    chains: dict[tuple[int | None, int], list[Box]] = {}
    for box in boxes:
        if box.kind == "accumulate":
            chains.setdefault((box.of, box.column), []).append(box)
    for chain in chains.values():
        ids = {box.id for box in chain}
        paths = [boxes[e.source].path for box in chain for e in box.inputs if e.source not in ids]
        for box in chain:
            box.path = _common(paths) if paths else box.path


def _common(paths: Sequence[Path]) -> Path:
    first, last = min(paths), max(paths)
    n = 0
    while n < min(len(first), len(last)) and first[n] == last[n]:
        n += 1
    return first[:n]


def _find_residuals(boxes: list[Box], reach: int = 400) -> None:
    """Mark additions one of whose inputs was also computed from the other: x + f(x)."""
    for box in boxes:
        if box.column or box.op not in ("add", "add_norm") or len(box.inputs) < 2:
            continue
        a, b = box.inputs[0].source, box.inputs[1].source
        early, late = min(a, b), max(a, b)
        if boxes[early].kind == "parameter" or len(boxes[early].readers) < 2 or not boxes[early].node:
            continue
        stack, seen = [late], {late}
        while stack and len(seen) < reach:
            for edge in boxes[stack.pop()].inputs:
                if edge.source == early:
                    box.residual = True
                    stack.clear()
                    break
                if edge.source > early and edge.source not in seen:
                    seen.add(edge.source)
                    stack.append(edge.source)
