"""Backpropagation: walk the record back, pulling each cotangent through the op that made the tensor."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from engine.core import Node, Tensor
from engine.device import checksum
from engine.errors import DeviceError, DtypeError, GraphError, ShapeError
from engine.record import OPS, OUT, Op
from engine.shapes import Shape
from engine.state import STATE, no_grad


def order(roots: Iterable[Node], leaves: Iterable[Node] = ()) -> list[Node]:
    """Every node that the roots were made from, inputs before outputs, not looking behind the leaves.

    The order matters: a node used twice must have both cotangents before its own is pulled back. Iterative: depth is
    free.
    """
    done: list[Node] = []
    seen = {id(n) for n in leaves}
    stack: list[tuple[Node, bool]] = [(r, False) for r in roots]
    while stack:
        node, finished = stack.pop()
        if finished:
            done.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            stack.extend((n, False) for n in node.inputs if n is not None)
    return done


def grad(root: Tensor, inputs: Tensor | Sequence[Tensor], grad: Any = None, *, create_graph: bool = False,
         retain_graph: bool | None = None) -> Any:
    """d root / d each of inputs, as one tensor or a list of tensors in the inputs' shapes and dtypes.

    root: the result, of any shape; where it is not a single number, `grad` is its cotangent, of root's shape.
    inputs: tensors that require a gradient; one that root does not depend on has a gradient of zeros.
    create_graph: record the pass, so that it can be differentiated and drawn. retain_graph: keep what the pass has
    read, for another pass (default: as create_graph). Raises GraphError, DtypeError and ShapeError.
    """
    wanted = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    for t in wanted:
        if not t.requires_grad:
            raise GraphError(f"grad: {t.node.label()} does not require a gradient. Make it with requires_grad=True.")
    seed = _cotangent(root, grad, "grad")
    nodes = [t.node for t in wanted]
    found = _walk(order([root.node]), root.node, seed, nodes, create_graph)
    answers = [found.get(id(n)) for n in nodes]
    if not (create_graph if retain_graph is None else retain_graph):
        _free(order([root.node]))
    answers = [g if g is not None else _zeros(t) for g, t in zip(answers, wanted, strict=True)]
    return answers[0] if isinstance(inputs, Tensor) else answers


def backward(root: Tensor, grad: Any, retain_graph: bool, create_graph: bool) -> None:
    """`Tensor.backward`: add the gradients to the `.grad` of the leaves and of the tensors that retain theirs."""
    seed, recorder = _cotangent(root, grad, "backward"), STATE.get().recorder
    made = order([root.node])
    leaves = [n for n in made if n.requires_grad and n.tensor is not None]
    found = _walk(made, root.node, seed, leaves, create_graph)
    if not (retain_graph or create_graph):
        _free(made)
    taken = {id(seed.node.owner()): [seed._array]}
    with no_grad_unless(create_graph):
        for node in leaves:
            t = node.tensor() if node.tensor else None
            g = found.get(id(node))
            if t is not None and g is not None:
                g = _its_own(g, taken) if t.grad is None else g
                if recorder is not None:
                    recorder.leaf(t)
                t.grad = g if t.grad is None else t.grad + g


def _its_own(g: Tensor, taken: dict[int, list[Any]]) -> Tensor:
    """A gradient whose memory is that of no other one, and can be written to: `.grad` is its tensor's alone."""
    locked = isinstance(g._array, np.ndarray) and not g._array.flags.writeable
    if locked or any(_overlap(g._array, other) for other in taken.get(id(g.node.owner()), ())):
        g = OPS["mul"](g, 1.0)
    taken.setdefault(id(g.node.owner()), []).append(g._array)
    return g


def _overlap(x: Any, y: Any) -> bool:
    """Whether two arrays of one owner share a number: the parts of a packed gradient do not. On a card, where to find
    out takes a kernel and waits for it: whether they lie between each other's bounds."""
    shares = np.shares_memory if isinstance(x, np.ndarray) and isinstance(y, np.ndarray) else np.may_share_memory
    return bool(shares(x, y))


def no_grad_unless(recording: bool) -> Any:
    """`no_grad`, or a context that changes nothing."""
    from contextlib import nullcontext
    return nullcontext() if recording else no_grad()


def _cotangent(root: Tensor, grad: Any, what: str) -> Tensor:
    """The cotangent of the root, checked; 1 where the root is a single number."""
    if root.dtype.kind not in "fc":
        raise DtypeError(f"{what}: {root.node.label()} is {root.dtype}; only a floating tensor has a gradient")
    if not root.requires_grad:
        raise GraphError(f"{what}: {root.node.label()} does not depend on any tensor with requires_grad=True "
                         "(or it was made under no_grad)")
    if STATE.get().begins is not None:
        STATE.get().begins(root)
    if grad is None:
        if root.size != 1:
            raise GraphError(f"{what}: {root.node.label()} has shape {root.shape}, not one number. Reduce it, say with "
                             f"sum(), or pass the cotangent: {what}(…, grad=…) of the same shape.")
        one = _filled(root, 1.0)
        one.name = "1"
        return one
    seed = grad if isinstance(grad, Tensor) else Tensor(grad, root.dtype, device=root.device)
    if seed.device != root.device:
        raise DeviceError(f"{what}: the cotangent is on {seed.device}, {root.node.label()} on {root.device}. Move it "
                          f"there first, with to({root.device!r})")
    if seed.shape != root.shape:
        raise ShapeError(f"{what}: the cotangent has shape {seed.shape}, {root.node.label()} has {root.shape}")
    return seed if seed.dtype == root.dtype else OPS["astype"](seed, dtype=root.dtype)


def _filled(like: Tensor, value: float) -> Tensor:
    if not STATE.get().computing:
        return Tensor.placeholder(like.shape, like.dtype)
    return Tensor(np.full(like.shape, value, like.dtype), device=like.device)


def _zeros(like: Tensor) -> Tensor:
    return _filled(like, 0.0)


def _walk(made: list[Node], root: Node, seed: Tensor, wanted: Sequence[Node], create_graph: bool) -> dict[int, Tensor]:
    """The cotangents of the wanted nodes, by id. `made` has every node behind the root, inputs first."""
    asked = {id(n) for n in wanted}
    leads = set(asked)                   # only nodes that lead to a wanted one carry a cotangent
    for node in made:
        if node.requires_grad and any(n is not None and id(n) in leads for n in node.inputs):
            leads.add(id(node))
    cotangents: dict[int, Tensor] = {id(root): seed} if id(root) in leads else {}
    outside = STATE.get()
    for node in reversed(made):
        key = id(node)
        if key not in cotangents or node.op is None or not any(n is not None and id(n) in leads for n in node.inputs):
            continue
        g = cotangents[key] if key in asked else cotangents.pop(key)
        of = outside.of if outside.phase == "backward" else node      # a walk inside a rule is part of that rule
        state = outside._replace(recording=create_graph, scope=node.scope, phase="backward", of=of)
        token = STATE.set(state)
        try:
            for n, gn in zip(node.inputs, pullback(node, g, leads), strict=False):
                if n is None or gn is None or id(n) not in leads:
                    continue
                if gn.device != g.device and node.op.name != "to":
                    raise DeviceError(f"{node.label()}: its rule gives a gradient on {gn.device} where the cotangent "
                                      f"is on {g.device}. Make it of the tensors that the rule is given.")
                gn = sum_to(gn, n.shape)         # ops broadcast; this is the one place that undoes it
                if gn.dtype != n.dtype:
                    gn = OPS["astype"](gn, dtype=n.dtype)
                if id(n) in cotangents:          # n was used more than once: here its cotangents meet
                    meet = n if outside.phase != "backward" else of
                    STATE.set(state._replace(phase="accumulate", of=meet))
                    gn = OPS["add"](cotangents[id(n)], gn)
                    STATE.set(state)
                cotangents[id(n)] = gn
        finally:
            STATE.reset(token)
    return {key: g for key, g in cotangents.items() if key in asked}


def cotangents(root: Tensor) -> dict[int, Tensor]:
    """The cotangent of every node behind a root, by the node's id: recorded on shapes alone, for drawings."""
    made = order([root.node])
    token = STATE.set(STATE.get()._replace(recording=True, computing=False, watch=None))
    try:
        seed = Tensor.placeholder(root.shape, root.dtype, "1")
        return _walk(made, root.node, seed, [n for n in made if n.requires_grad], True)
    finally:
        STATE.reset(token)


def pullback(node: Node, g: Tensor, leads: set[int]) -> Sequence[Tensor | None]:
    """The cotangent of each input that leads somewhere. A fused op without rules is differentiated through its
    meaning."""
    if node.freed and STATE.get().computing:
        raise GraphError(f"backward() already ran through {node.label()} and what it had saved was freed. Pass "
                         "retain_graph=True to the first call to go through the same graph twice.")
    op: Any = node.op
    inputs = [_restored(node, i, n) if n is not None else None for i, n in enumerate(node.inputs)]
    wanted = [n is not None and n.requires_grad and id(n) in leads for n in node.inputs]
    if op.vjps is None:
        return _through_meaning(op, node, g, inputs, wanted)
    out = _restored(node, OUT, node)
    params = {**node.params, **dict(zip(op.residuals, node.residuals, strict=False))}
    if callable(op.vjps):
        return op.vjps(g, out, *inputs, **params)
    return [rule(g, out, *inputs, **params) if rule and w else None
            for rule, w in zip(op.vjps, wanted, strict=False)]


def _restored(node: Node, i: int, of: Node) -> Tensor:
    """Input `i` of a node, or its output, as the rules see it: with its array if that was saved, else its shape
    alone."""
    saved = node.saved.get(i)
    if saved is None:
        return Tensor.wrap(None, of)
    owner = of.owner()
    digest = saved.digest if saved.digest is not None else owner.digest
    if owner.version != saved.version or (digest is not None and checksum(saved.array) != digest):
        name = node.op.name if node.op else "an op"
        raise GraphError(f"{of.label()} of shape {of.shape} was changed in place after {name} had used it, and its "
                         "gradient needs the old values. Change it after backward(), or make a new one (x = x + 1).")
    return Tensor.wrap(saved.array, of)


def _through_meaning(op: Op, node: Node, g: Tensor, inputs: Sequence[Tensor | None],
                     wanted: Sequence[bool]) -> list[Any]:
    state = STATE.get()
    token = STATE.set(state._replace(recording=True))
    try:
        again = op.meaning(*inputs, **node.params)
    finally:
        STATE.reset(token)
    nodes = [t.node for t in inputs if t is not None]
    found = _walk(order([again.node], nodes), again.node, g, [n for n in nodes if n.requires_grad], state.recording)
    return [found.get(id(t.node)) if t is not None and w else None for t, w in zip(inputs, wanted, strict=True)]


def _free(made: Iterable[Node]) -> None:
    """Drop the saved arrays, never the record: a graph can be drawn before and after its backward pass."""
    for node in made:
        if node.op is not None and node.requires_grad:
            node.saved, node.residuals, node.freed = {}, (), True


def sum_to(g: Tensor, shape: Shape) -> Tensor:
    """Sum the axes along which `shape` was broadcast to `g.shape`: the adjoint of broadcasting."""
    if g.shape == shape:
        return g
    lead = g.ndim - len(shape)
    if lead < 0:
        return OPS["reshape"](g, shape=shape)
    axes = tuple(range(lead)) + tuple(i + lead for i, n in enumerate(shape) if n == 1 != g.shape[i + lead])
    g = OPS["sum"](g, axis=axes, keepdims=False) if axes else g
    return g if g.shape == shape else OPS["reshape"](g, shape=shape)


# ---------------------------------------------------------------------------------------------- built on grad

def jacobian(f: Callable[[Tensor], Tensor], x: Tensor, *, create_graph: bool = False) -> Tensor:
    """The Jacobian of f at x, of shape f(x).shape + x.shape: one backward pass a number of f(x)."""
    x = _leaf(x, create_graph)
    y = f(x)
    rows = []
    for i in range(y.size):
        one = np.zeros(y.size, y.dtype)
        one[i] = 1
        seed = Tensor(one.reshape(y.shape), device=y.device)
        rows.append(grad(y, x, seed, create_graph=create_graph, retain_graph=True))
    if not rows:
        return Tensor(np.zeros(y.shape + x.shape, x.dtype), device=x.device)
    return OPS["reshape"](OPS["concat"]([OPS["reshape"](r, shape=(1, x.size)) for r in rows], axis=0),
                          shape=y.shape + x.shape)


def hvp(f: Callable[[Tensor], Tensor], x: Tensor, v: Tensor) -> Tensor:
    """The Hessian of the scalar function f at x times v, without forming the Hessian: d/dx of <df/dx, v>."""
    x = _leaf(x, False)
    if v.shape != x.shape:
        raise ShapeError(f"hvp: v has shape {v.shape}, x has {x.shape}")
    first = grad(f(x), x, create_graph=True)
    if not first.requires_grad:
        return _zeros(x)
    return grad(OPS["sum"](OPS["mul"](first, v)), x)


def _leaf(x: Tensor, keep: bool) -> Tensor:
    """x itself where it requires a gradient and its history is wanted, else a fresh leaf of the same values."""
    return x if keep and x.requires_grad else Tensor(x, requires_grad=True, name=x.name)
