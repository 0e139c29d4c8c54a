"""Which axis is which: names that people gave to inputs and parameters, carried on by each op's own rule.

Nothing is guessed from equal numbers. Where an op's shape is a function, that very function is run on integers that
know their names; where it has a signature, the letters carry the names; where it is fused, its meaning decides.
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from engine.core import Node, Tensor
from engine.diagram.sizes import Size, Sizes, reshaped
from engine.record import Op
from engine.shapes import parse
from engine.state import STATE, State

Given = Sequence[Sizes | None]
CACHE: dict[Any, tuple[Sizes, ...]] = {}         # of fused ops: what their meaning says of the output and the inputs


class Names:
    """The axes of every node of a graph."""

    def __init__(self) -> None:
        self.of: dict[int, Sizes] = {}

    def run(self, nodes: Sequence[Node], cotangents: dict[int, list[Node]]) -> None:
        """Name the axes of all nodes, inputs before outputs; a cotangent's axes are those of what it is one of."""
        self._forward(nodes, cotangents)
        if self._teach_all(nodes):
            self._forward(nodes, cotangents)

    def _forward(self, nodes: Sequence[Node], cotangents: dict[int, list[Node]]) -> None:
        for node in nodes:
            if node.op is None:
                sizes = self.get(node)
            else:
                given = [self.get(n) if n is not None else None for n in node.inputs]
                sizes = fitted(named_result(node.op, given, node.params, node.shape), node.shape)
                if node.axes is not None:
                    sizes = merged(sizes, declared(node))
                if id(node) in self.of:
                    sizes = merged(sizes, self.of[id(node)])
            like = [n for n in cotangents.get(id(node), ()) if id(n) in self.of and n.shape == node.shape]
            self.of[id(node)] = merged(sizes, self.of[id(like[0])]) if like else sizes

    def get(self, node: Node) -> Sizes:
        return self.of[id(node)] if id(node) in self.of else self.leaf(node)

    def leaf(self, node: Node) -> Sizes:
        """The axes as declared; a view of another tensor's memory has that tensor's."""
        if node.axes is None and node.storage is not None and id(node.storage) in self.of:
            sizes = fitted(self.of[id(node.storage)], node.shape)
        else:
            sizes = declared(node)
        self.of[id(node)] = sizes
        return sizes

    def _teach_all(self, nodes: Sequence[Node]) -> bool:
        """Axes that nobody named take the names of the axes that an op lays them on. Whether any did."""
        taught = False
        for node in reversed(nodes):
            op: Any = node.op
            if op is not None:
                for n, sizes in self._told(op, node):
                    if n.axes is None and not all(a.named for a in self.get(n)):
                        before, self.of[id(n)] = self.get(n), merged(self.get(n), sizes)
                        taught |= any(a.named != b.named for a, b in zip(before, self.of[id(n)], strict=True))
        return taught

    def _told(self, op: Op, node: Node) -> Iterator[tuple[Node, Sizes]]:
        """What an op says of its inputs' axes: by its signature, or by its meaning where a leaf has no names."""
        if op.signature and op.shape is None:
            yield from self._laid_on(op.signature, node)
        elif op.fused and any(n is not None and n.op is None and not all(a.named for a in self.get(n))
                              for n in node.inputs):
            given = [self.get(n) if n is not None else None for n in node.inputs]
            for n, sizes in zip(node.inputs, by_meaning(op, given, node.params)[1:], strict=True):
                if n is not None:
                    yield n, sizes

    def _laid_on(self, signature: str, node: Node) -> Iterator[tuple[Node, Sizes]]:
        """For each input of a node: the named axes that its own axes lie on."""
        cores, out = parse(signature)
        letters = _letters(cores, [self.get(n) if n is not None else None for n in node.inputs])
        result = self.of[id(node)]
        loop = len(result) - len([c for c in out if c.rstrip("?") in letters])
        for core, n in zip(cores, node.inputs, strict=False):
            if n is None or not n.shape or "..." in core:
                continue
            sizes = self.get(n)
            core = _present(core, len(sizes))
            lead = len(sizes) - len(core)
            outer = result[max(loop - lead, 0):loop] if lead else ()
            wanted = (*outer, *(letters.get(c, s) for c, s in zip(core, sizes[lead:], strict=True)))
            if len(wanted) == len(sizes):
                yield n, wanted


def declared(node: Node) -> Sizes:
    """The axes as a person named them."""
    names = node.axes or (None,) * len(node.shape)
    return tuple(Size.declared(name, n) for name, n in zip(names, node.shape, strict=True))


def merged(sizes: Sizes, other: Sizes) -> Sizes:
    """The first, with the other's names where it has none of its own and the sizes are equal."""
    return tuple(b if not a.named and b.named and a == b else a for a, b in zip(sizes, other, strict=True))


def fitted(sizes: Sequence[int], shape: tuple[int, ...]) -> Sizes:
    """The sizes as far as they agree with the shape."""
    if len(sizes) != len(shape):
        return tuple(Size.plain(n) for n in shape)
    return tuple(s if isinstance(s, Size) and s == n else Size.plain(n) for s, n in zip(sizes, shape, strict=True))


def named_result(op: Op, given: Given, params: dict[str, Any], shape: tuple[int, ...]) -> Sizes:
    """The output's axes, from the op's own rule."""
    rule = RULES.get(op.name)
    if rule is not None:
        return rule(given, params, shape)
    if op.shape is None:
        sizes = by_signature(op.signature or "()->()", given)
    else:
        sizes = fitted(op.shape(*given, **params), shape)
    if op.fused and (len(sizes) != len(shape) or not all(s.named for s in fitted(sizes, shape))):
        return merged(fitted(sizes, shape), fitted(by_meaning(op, given, params)[0], shape))
    return sizes


def by_meaning(op: Op, given: Given, params: dict[str, Any]) -> tuple[Sizes, ...]:
    """What the composition of ops that a fused op stands for says of its output, then of each input."""
    plain = {k: v for k, v in params.items() if k not in op.residuals and not isinstance(v, np.ndarray)}
    key = (op.name, tuple(None if s is None else tuple(size.terms for size in s) for s in given), repr(plain))
    if key not in CACHE:
        leaves = [None if s is None else Tensor.placeholder(tuple(int(n) for n in s), op.fixed(i) or np.float32)
                  for i, s in enumerate(given)]
        out = expanded(op, leaves, plain)
        names = Names()
        for leaf, sizes in zip(leaves, given, strict=True):
            if leaf is not None and sizes is not None:
                names.of[id(leaf.node)] = sizes
        names.run(behind([out.node], [t.node for t in leaves if t is not None]), {})
        inputs = [() if leaf is None else names.get(leaf.node) for leaf in leaves]
        CACHE[key] = (names.of.get(id(out.node), ()), *inputs)
    return CACHE[key]


def expanded(op: Op, inputs: Sequence[Tensor | None], params: dict[str, Any]) -> Tensor:
    """The record of a fused op's meaning, on shapes alone."""
    token = STATE.set(State(True, False, False))
    try:
        return op.meaning(*inputs, **params)
    finally:
        STATE.reset(token)


def behind(roots: Sequence[Node], leaves: Sequence[Node] = ()) -> list[Node]:
    """Every op node behind the roots and not behind the leaves, in the order in which they were made."""
    seen = {id(n) for n in leaves}
    found: list[Node] = []
    stack = list(roots)
    while stack:
        node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        found.append(node)
        stack += [n for n in node.inputs if n is not None]
        if node.op is None and node.storage is not None:
            stack.append(node.storage)
    return sorted(found, key=lambda n: n.serial)


# ---------------------------------------------------------------------------------------------- rules
def by_signature(signature: str, given: Given) -> Sizes:
    """The letters of a signature carry names; leading axes broadcast."""
    cores, out = parse(signature)
    letters = _letters(cores, given)
    loops: list[Sizes] = []
    anything: Sizes = ()
    for core, sizes in zip(cores, given, strict=False):
        if sizes is None:
            continue
        if "..." in core:
            anything = sizes
        else:
            loops.append(sizes[:len(sizes) - len(_present(core, len(sizes)))])
    tail: list[Size] = []
    for letter in out:
        tail.extend(anything if letter == "..." else [letters[letter.rstrip("?")]] * (letter.rstrip("?") in letters))
    return (*broadcast(loops), *tail)


def _letters(cores: Sequence[tuple[str, ...]], given: Given) -> dict[str, Size]:
    letters: dict[str, Size] = {}
    for core, sizes in zip(cores, given, strict=False):
        if sizes is None or "..." in core:
            continue
        core = _present(core, len(sizes))
        for letter, size in zip(core, sizes[len(sizes) - len(core):], strict=True):
            if letter not in letters or (size.named and not letters[letter].named):
                letters[letter] = size
    return letters


def _present(core: tuple[str, ...], ndim: int) -> tuple[str, ...]:
    if ndim < len(core):
        core = tuple(c for c in core if not c.endswith("?"))
    return tuple(c.rstrip("?") for c in core)


def broadcast(loops: Sequence[Sizes]) -> Sizes:
    """NumPy's broadcasting; where both sides have an axis, the named one is taken."""
    out: list[Size] = []
    for i in range(-max((len(s) for s in loops), default=0), 0):
        there = [s[i] for s in loops if len(s) >= -i]
        large = [s for s in there if s != 1] or there
        out.append(next((s for s in large if s.named), large[0]))
    return tuple(out)


def _reshape(given: Given, params: dict[str, Any], shape: tuple[int, ...]) -> Sizes:
    return reshaped(given[0] or (), shape)


def _broadcast_to(given: Given, params: dict[str, Any], shape: tuple[int, ...]) -> Sizes:
    return broadcast([given[0] or (), tuple(Size.plain(n) for n in shape)])


def _concat(given: Given, params: dict[str, Any], shape: tuple[int, ...]) -> Sizes:
    axis, parts = params["axis"], [s for s in given if s]
    joined = Size(term for s in parts for term in s[axis].terms)
    return (*parts[0][:axis], joined, *parts[0][axis + 1:])


def _part(size: Size, cut: slice) -> Size | None:
    """The part of an axis that a slice takes, where it lies between the seams of what was joined."""
    lo, hi, step = cut.indices(int(size))
    if step == -1 and hi < lo and lo + 1 == size and hi == -1:
        return size
    if step == 1 and len(size.terms) == 1 and len(size.terms[0]) > 1:        # whole rows of a joined axis
        rows, row = size.terms[0][0][1], Size([size.terms[0][1:]])
        if lo % row == 0 and (hi - lo) % row == 0 and 0 < hi - lo < rows * row:
            return Size(row.terms * ((hi - lo) // row))
    at, taken = 0, []
    for term in size.terms:
        n = int(Size((term,)))
        if lo <= at and at + n <= hi:
            taken.append(term)
        at += n
    part = Size(taken)
    if step == 1 and part == max(hi - lo, 0) and taken:
        return part
    missing = size - (hi - lo)
    return size.less(missing) if step == 1 and size.named and 0 < missing < hi - lo else None


def _getitem(given: Given, params: dict[str, Any], shape: tuple[int, ...]) -> Sizes:
    sizes, index = given[0] or (), params["index"]
    parts = index if isinstance(index, tuple) else (index,)
    if not all(isinstance(i, (slice, int, np.integer, type(None), type(...))) for i in parts):
        kept = [Size.plain(n) for n in shape]            # integer arrays in front: the axes behind them are kept
        if isinstance(parts[0], np.ndarray) and len(parts) == 1 and parts[0].dtype != bool:
            kept[parts[0].ndim:] = sizes[1:]
        return tuple(kept)
    there = sum(i is not None and i is not ... for i in parts)
    rest = len(sizes) - there
    full: list[Any] = []
    for i in parts if ... in [p for p in parts if p is ...] else (*parts, ...):
        full += [slice(None)] * rest if i is ... else [i]
    out: list[Size] = []
    axis = 0
    for i in full:
        if i is None:
            out.append(Size.plain(1))
            continue
        if isinstance(i, slice):
            n = len(range(*i.indices(int(sizes[axis]))))
            out.append(_part(sizes[axis], i) or Size.plain(n))
        axis += 1
    return tuple(out)


def _put(given: Given, params: dict[str, Any], shape: tuple[int, ...]) -> Sizes:
    sizes, index = given[0] or (), params["index"]
    parts = index if isinstance(index, tuple) else (index,)
    if len(sizes) == len(shape) and all(isinstance(i, slice) for i in parts):
        return fitted(sizes, shape)
    return tuple(Size.plain(n) for n in shape)


def _pad(given: Given, params: dict[str, Any], shape: tuple[int, ...]) -> Sizes:
    sizes = given[0] or ()
    if len(sizes) != len(shape):
        return tuple(map(Size.plain, shape))
    return tuple(s if s == n else s.more(n - s) if s.named and 0 < n - s < s else Size.plain(n)
                 for s, n in zip(sizes, shape, strict=True))


def _kept(given: Given, params: dict[str, Any], shape: tuple[int, ...]) -> Sizes:
    return fitted(given[0] or (), shape) if len(given[0] or ()) == len(shape) else tuple(map(Size.plain, shape))


def _last_new(given: Given, params: dict[str, Any], shape: tuple[int, ...]) -> Sizes:
    return (*(given[0] or ()), Size.plain(shape[-1]))


def _take(given: Given, params: dict[str, Any], shape: tuple[int, ...]) -> Sizes:
    x, ids, axis = given[0] or (), given[1] or (), params["axis"]
    return (*x[:axis], *ids, *x[axis + 1:])


def _scatter(given: Given, params: dict[str, Any], shape: tuple[int, ...]) -> Sizes:
    x, ids, axis = given[0] or (), given[1] or (), params["axis"]
    return (*x[:axis], Size.plain(shape[axis]), *x[axis + len(ids):])


RULES: dict[str, Any] = {"reshape": _reshape, "broadcast_to": _broadcast_to, "concat": _concat, "getitem": _getitem,
                         "put": _put, "pad": _pad, "one_hot": _last_new, "take": _take, "scatter_add": _scatter}
