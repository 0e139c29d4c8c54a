"""Sums of products over named or numbered axes: outer, dot, tensordot, einsum. All of them are matrix products."""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from engine import shapes
from engine.core import Tensor
from engine.describe import face
from engine.errors import ShapeError
from engine.ops.diagonal import diagonal
from engine.ops.equations import Equation, parsed
from engine.ops.matmul import matmul
from engine.ops.reduce import sum_
from engine.ops.shape import expand_dims, reshape, transpose
from engine.record import Real, fused
from engine.shapes import Shape


def _size(shape: Sequence[int]) -> int:
    return math.prod(shape)


# --- two tensors, axes by number ------------------------------------------------------------------
@fused(signature=None, shape=lambda a, b: (_size(a), _size(b)), domain=(Real(),), result="number",
       samples=(((3,), (2,)), ((2, 2), (3,)), ((), (2,)), ((0,), (2,))),
       equation=("cᵢⱼ = aᵢ bⱼ", "ā = C̄ b, b̄ = C̄ᵀ a"), raises=(),
       shapes="a (…), b (…) → (m, n), m and n the numbers of numbers of a and b")
def outer(a: Tensor, b: Tensor) -> Tensor:
    """Every number of a times every number of b, a matrix, as numpy.outer."""
    return reshape(a, shape=(a.size, 1)) * reshape(b, shape=(1, b.size))


def _paired(params: dict[str, Any], a: Shape, b: Shape) -> dict[str, Any]:
    axes = params["axes"]
    if isinstance(axes, (int, np.integer)):
        if not 0 <= axes <= min(len(a), len(b)):
            raise ShapeError(f"axes is {axes}; a has {len(a)} axes and b has {len(b)}")
        return {"axes": (tuple(range(len(a) - axes, len(a))), tuple(range(axes)))}
    if not isinstance(axes, (tuple, list)) or len(axes) != 2:
        raise ShapeError(f"axes is {axes!r}; it is a number, or a pair: a's axes and b's")
    pair = [tuple(shapes.one_axis(i, len(s)) for i in (given if isinstance(given, (tuple, list)) else (given,)))
            for given, s in zip(axes, (a, b), strict=True)]
    if len(pair[0]) != len(pair[1]) or any(len(set(p)) != len(p) for p in pair):
        raise ShapeError(f"axes {axes} must name as many different axes of a as of b")
    return {"axes": tuple(pair)}


def _free(s: Shape, axes: Sequence[int]) -> list[int]:
    return [i for i in range(len(s)) if i not in axes]


def _tensordot_shape(a: Shape, b: Shape, *, axes: tuple[tuple[int, ...], tuple[int, ...]]) -> Shape:
    for i, j in zip(*axes, strict=True):
        if a[i] != b[j]:
            raise ShapeError(f"axis {i} of a has size {a[i]}, axis {j} of b {b[j]}; they are summed together")
    return (*(a[i] for i in _free(a, axes[0])), *(b[j] for j in _free(b, axes[1])))


@fused(signature=None, canonical=_paired, shape=_tensordot_shape, domain=(Real(),), result="number",
       choices=lambda a, b: {"axes": [0, 1, ((-1,), (0,))]},
       samples=(((3,), (3,)), ((2, 3), (3, 4)), ((2, 2, 3), (3, 2, 1)), ((2, 0), (0, 3))),
       equation=("C = Σ A B over pairs of axes", "Ā = Σ C̄ B, B̄ = Σ A C̄ over the others"),
       shapes="a (…), b (…) → the axes of a that are not summed over, then those of b",
       about={"axes": "a number n: the last n axes of a with the first n of b; or a pair: axes of a, axes of b"},
       raises=("ShapeError: axes that there are not, that are named twice or that differ in size",))
def tensordot(a: Tensor, b: Tensor, *, axes: Any = 2) -> Tensor:
    """The sum of the products over pairs of axes, as numpy.tensordot."""
    left, right = axes
    rows, cols = _free(a.shape, left), _free(b.shape, right)
    k = _size([a.shape[i] for i in left])
    x = reshape(a.transpose(*rows, *left), shape=(_size([a.shape[i] for i in rows]), k))
    y = reshape(b.transpose(*right, *cols), shape=(k, _size([b.shape[j] for j in cols])))
    return reshape(matmul(x, y), shape=_tensordot_shape(a.shape, b.shape, axes=axes))


def _dot_axes(a: Shape, b: Shape) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return ((), ()) if not a or not b else ((len(a) - 1,), (max(len(b) - 2, 0),))


@fused(signature=None, shape=lambda a, b: _tensordot_shape(a, b, axes=_dot_axes(a, b)), domain=(Real(),),
       result="number", samples=(((3,), (3,)), ((2, 3), (3, 4)), ((2, 2, 3), (3,)), ((2,), (3, 2, 1)), ((), (2,))),
       equation=("C = Σ A B over A's last axis", "Ā = Σ C̄ B, B̄ = Σ A C̄ over the others"),
       shapes="a (…, k), b (…, k, n) → (…, …, n); b (k,) → (…); a or b () → (…)",
       raises=("ShapeError: sizes k that differ",))
def dot(a: Tensor, b: Tensor) -> Tensor:
    """The sum of products over a's last axis and b's last but one (or only one), as numpy.dot; a number scales."""
    return tensordot(a, b, axes=_dot_axes(a.shape, b.shape)) if a.ndim and b.ndim else a * b


# --- any number of tensors, axes by letter --------------------------------------------------------
# Equations for tests, by the shapes that they fit.
EXAMPLES: dict[tuple[Shape, ...], list[str]] = {
    ((2, 3), (3, 4)): ["ij,jk->ik", "ij,jk", "ij,jk->", "ij,kl->lijk", "ab,bc->cab"],
    ((3, 3),): ["ii", "ii->i", "ij->ji", "ij->", "...j->j...", "ba"],
    ((2, 3, 3), (3, 2)): ["bii,ib->bi", "bij,jb->ib", "bij,jk->bik", "...ij,j...->..."],
    ((2, 1, 3), (4, 3)): ["...i,...i->...", "...i,...i", "bci,ji->bcj", "bci,ci->bi"],
    ((2, 2), (2,), (2, 3)): ["ij,j,jk->ik", "ij,i,jk->k", "ii,i,ik->ik"],
    ((0, 2), (2,)): ["ij,j->i", "ij,j", "ij,k->jk"],
}


def _einsum_params(params: dict[str, Any], *given: Shape) -> dict[str, Any]:
    parsed(params["subscripts"], given)
    return {"subscripts": "".join(params["subscripts"].split())}


def _einsum_shape(*given: Shape, subscripts: str) -> Shape:
    equation = parsed(subscripts, given)
    return tuple(equation.sizes[letter] for letter in equation.out)


@fused(signature=None, variadic=True, canonical=_einsum_params, shape=_einsum_shape, domain=(Real(),), result="number",
       samples=tuple(EXAMPLES), choices=lambda *s: {"subscripts": EXAMPLES[s]},
       equation=("y = Σ x¹ x² … over the letters that the result lacks", "x̄ⁱ = Σ ȳ Π of the others"),
       shapes="xs (…), (…), … → the axes that `subscripts` names behind ->",
       about={"subscripts": "the equation, a string such as 'ij,jk->ik'"},
       raises=("ShapeError: an equation that cannot be read, or that does not fit the shapes",))
def einsum_(*xs: Tensor, subscripts: str) -> Tensor:
    """Sums of products in Einstein's notation: `"ij,jk->ik"` is the matrix product. What the result lacks is summed.

    A letter may occur twice in one tensor (its diagonal is taken), `...` stands for axes that broadcast, and an axis
    of size 1 broadcasts too. Without `->` the result has the letters that occur once, in alphabetical order. Tensors
    are multiplied from left to right.
    """
    equation = parsed(subscripts, tuple(x.shape for x in xs))
    has = [{c for c, n in zip(letters, x.shape, strict=True) if n == equation.sizes[c]}
           for letters, x in zip(equation.inputs, xs, strict=True)]
    wanted = [set(equation.out).union(*has[i + 1:]) for i in range(len(xs))]           # after the i-th
    letters, y = _prepared(xs[0], equation, 0, wanted[0])
    for i in range(1, len(xs)):
        letters, y = _product(letters, y, *_prepared(xs[i], equation, i, wanted[i] | set(letters)), wanted[i])
    y = transpose(y, axes=tuple(letters.index(c) for c in equation.out))
    return y if y.dtype == xs[0].dtype else y.astype(xs[0].dtype)


def _prepared(x: Tensor, equation: Equation, i: int, wanted: set[str]) -> tuple[list[str], Tensor]:
    """A tensor with each letter once, without axes that broadcast, and summed over what nobody else wants."""
    letters = list(equation.inputs[i])
    for c in dict.fromkeys(letters):
        while letters.count(c) > 1:
            a, b = [at for at, letter in enumerate(letters) if letter == c][:2]
            x = diagonal(x, axis1=a, axis2=b)
            letters = [letter for at, letter in enumerate(letters) if at not in (a, b)] + [c]
    single = tuple(at for at, c in enumerate(letters) if x.shape[at] == 1 != equation.sizes[c])
    gone = tuple(at for at, c in enumerate(letters) if c not in wanted and at not in single)
    x = sum_(x, axis=gone, keepdims=True) if gone else x
    return [c for at, c in enumerate(letters) if at not in (*single, *gone)], x.squeeze((*single, *gone))


def _product(left: list[str], x: Tensor, right: list[str], y: Tensor, wanted: set[str]) -> tuple[list[str], Tensor]:
    """The product of two tensors, summed over the letters that both have and nobody wants: one batched matmul."""
    shared = [c for c in left if c in right]
    batch, summed = [c for c in shared if c in wanted], [c for c in shared if c not in wanted]
    rows, cols = [c for c in left if c not in shared], [c for c in right if c not in shared]
    sizes = {**dict(zip(left, x.shape, strict=True)), **dict(zip(right, y.shape, strict=True))}

    def laid(t: Tensor, has: list[str], *groups: list[str]) -> Tensor:
        t = transpose(t, axes=tuple(has.index(c) for group in groups for c in group))
        return reshape(t, shape=(*(sizes[c] for c in groups[0]), *(_size([sizes[c] for c in g]) for g in groups[1:])))

    if summed:
        z = matmul(laid(x, left, batch, rows, summed), laid(y, right, batch, summed, cols))
    else:
        z = expand_dims(laid(x, left, batch, rows), axis=-1) * expand_dims(laid(y, right, batch, cols), axis=-2)
    letters = [*batch, *rows, *cols]
    return letters, reshape(z, shape=tuple(sizes[c] for c in letters))


@face(einsum_)
def einsum(subscripts: str, *tensors: Any) -> Tensor:
    """The op `einsum`, called as NumPy's: the equation first."""
    if not isinstance(subscripts, str):
        raise ShapeError(f"einsum takes its equation first, a string such as 'ij,jk->ik'; got {subscripts!r}")
    return einsum_(tensors, subscripts=subscripts)
