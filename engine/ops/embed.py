"""The Transformer's input: embedded ids plus positions, with dropout (§3.4, §3.5 and §5.4), and its pullback."""
from __future__ import annotations

from typing import Any

from engine.core import Tensor
from engine.errors import ShapeError
from engine.ops.dropout import NO_KEY, P, dropout_op, probability_with_key
from engine.ops.index import check_ids, embedding, scatter_add
from engine.record import Index, Key, Real, fused
from engine.shapes import Shape


def _embed_shape(weight: Shape, ids: Shape, positions: Shape, key: Shape | None = None, **_: Any) -> Shape:
    if len(weight) != 2 or not ids:
        raise ShapeError(f"embed takes a table (V, D) and ids (…, T); they have the shapes {weight} and {ids}")
    if positions != (ids[-1], weight[1]):
        raise ShapeError(f"the positions have shape {positions}; ids {ids} and the table {weight} take "
                         f"{(ids[-1], weight[1])}")
    if key:
        raise ShapeError(f"a key is a single integer, not one of shape {key}")
    return (*ids, weight[1])


def _embed_rule(g: Tensor, y: Tensor, weight: Tensor, ids: Tensor, positions: Tensor, key: Tensor | None, *,
                scale: float, p: float) -> Tensor:
    return embed_vjp(g, ids, key, size=weight.shape[0], scale=scale, p=p)


EMBED: dict[str, Any] = {"signature": None, "result": "float",
                         "choices": lambda *s: {"scale": [1.0, 2.5], "p": [0.0, 0.4]}}


@fused(**EMBED, shape=_embed_shape, domain=(Real(), Index(0), Real(), Key()), saves=(1, 3),
       canonical=lambda params, weight, ids, positions, key: probability_with_key(params, key),
       vjps=[_embed_rule, None, lambda g, y, weight, ids, positions, key, *, scale, p:
             dropout_op(g, key, p=p) if p else g, None],
       check=lambda weight, ids, positions, key, **_: check_ids(ids, weight.shape[0], "embed"),
       samples=(((5, 3), (2, 4), (4, 3), ()), ((4, 2), (3,), (3, 2), ()), ((1, 1), (2, 1, 1), (1, 1), ()),
                ((3, 19), (2, 2), (2, 19), ()), ((3, 2), (0, 2), (2, 2), ()), ((3, 2), (2, 0), (0, 2), ())),
       equation=("Y = dropout(√D · W[ids] + P)", "W̄[ids] += √D · dropout(Ȳ), P̄ = Σ dropout(Ȳ)"),
       shapes="weight (V, D), ids (…, T), positions (T, D), key () → (…, T, D)",
       about={"weight": "the table, one row an id", "ids": "rows in 0 … V − 1", "positions": "added at each place",
              "scale": "by what the rows are multiplied; the paper's is √D", "p": P},
       raises=("ShapeError: shapes that do not fit", NO_KEY))
def embed(weight: Tensor, ids: Tensor, positions: Tensor, key: Tensor | None = None, *, scale: float = 1.0,
          p: float = 0.0) -> Tensor:
    """dropout(scale · weight[ids] + positions), the Transformer's input (§3.4, §3.5 and §5.4 of the paper).

    The key may be None where p is 0.
    """
    y = embedding(weight, ids) * scale + positions                                                 # (…, T, D)
    return dropout_op(y, key, p=p) if p else y


def _embed_vjp_shape(g: Shape, ids: Shape, key: Shape | None = None, *, size: int, **_: Any) -> Shape:
    if not ids or g[:-1] != ids:
        raise ShapeError(f"a cotangent of shape {g} does not fit ids of shape {ids}")
    if key:
        raise ShapeError(f"a key is a single integer, not one of shape {key}")
    return (size, g[-1])


@fused(signature=None, result="float", shape=_embed_vjp_shape, saves=(1, 2), domain=(Real(), Index("size"), Key()),
       choices=lambda *s: {**EMBED["choices"](), "size": [4, 5]},
       canonical=lambda params, g, ids, key: probability_with_key(params, key),
       vjps=[lambda h, y, g, ids, key, *, size, scale, p: _embed_vjp_rule(h, ids, key, scale, p), None, None],
       check=lambda g, ids, key, *, size, **_: check_ids(ids, size, "embed_vjp"),
       samples=(((2, 3, 2), (2, 3), ()), ((3, 5), (3,), ()), ((1, 2, 19), (1, 2), ()), ((0, 2, 2), (0, 2), ())),
       equation=("W̄[ids] += √D · dropout(Ȳ)", "X̄ = dropout(√D · Ȳ[ids])"),
       shapes="g (…, T, D), ids (…, T), key () → (size, D)",
       about={"g": "the cotangent", "ids": "rows in 0 … size − 1", "size": "how many rows the table has",
              "scale": "as in embed", "p": P},
       raises=("ShapeError: shapes that do not fit", NO_KEY))
def embed_vjp(g: Tensor, ids: Tensor, key: Tensor | None = None, *, size: int, scale: float = 1.0,
              p: float = 0.0) -> Tensor:
    """The gradient of embed's table: dropout(g) · scale, added at the ids in ascending order."""
    return scatter_add((dropout_op(g, key, p=p) if p else g) * scale, ids, axis=0, size=size)


def _embed_vjp_rule(h: Tensor, ids: Tensor, key: Tensor | None, scale: float, p: float) -> Tensor:
    rows = embedding(h, ids) * scale
    return dropout_op(rows, key, p=p) if p else rows
