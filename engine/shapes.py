"""Shape rules: what an op's signature says about shapes, and the sentence to say when they do not fit.

A signature is NumPy's gufunc string, `"(i,k),(k,j)->(i,j)"`: core axes by letter, any further axes in front broadcast.
A core of `...` takes any shape and broadcasts with nothing: `"(v,d),(...)->(...,d)"`. A letter with `?` may be missing.
"""
from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache

from engine.errors import ShapeError

Shape = tuple[int, ...]


@cache
def parse(signature: str) -> tuple[tuple[tuple[str, ...], ...], tuple[str, ...]]:
    """`"(i,k),(k,j)->(i,j)"` as `((("i","k"), ("k","j")), ("i","j"))`."""
    left, right = signature.replace(" ", "").split("->")
    cores = [tuple(core.split(",")) if core else () for core in left[1:-1].split("),(")]
    out = right[1:-1]
    return tuple(cores), tuple(out.split(",")) if out else ()


def same(g: Shape, y: Shape) -> Shape:
    """The one shape that both have. Raises ShapeError where they differ."""
    if g != y:
        raise ShapeError(f"both must have one shape, not {g} and {y}")
    return g


def broadcast(shapes: Sequence[Shape]) -> Shape | None:
    """The shape that all the shapes broadcast to, or None where they do not (NumPy's rule)."""
    first = shapes[0]
    for shape in shapes:
        if shape != first:
            break
    else:
        return first
    out: list[int] = []
    for i in range(-max(len(s) for s in shapes), 0):
        sizes = {s[i] for s in shapes if len(s) >= -i} - {1}
        if len(sizes) > 1:
            return None
        out.append(sizes.pop() if sizes else 1)
    return tuple(out)


@lru_cache(maxsize=4096)
def result_shape(signature: str, *shapes: Shape | None) -> Shape:
    """The output shape of an op with this signature. Raises ValueError, whose text says which axis does not fit."""
    cores, out = parse(signature)
    sizes: dict[str, int] = {}
    loops: list[Shape] = []
    anything: Shape = ()
    for n, (core, shape) in enumerate(zip(cores, shapes, strict=False)):
        if shape is None:
            continue
        if "..." in core:
            anything = shape
            continue
        core = _present(core, shape)
        if "..." in out and len(shape) > len(core):
            raise ValueError(f"input {n} has {len(shape)} axes but takes {len(core)}: ({','.join(core)})")
        if len(shape) < len(core):
            raise ValueError(f"input {n} has {len(shape)} axes but needs at least {len(core)}: ({','.join(core)})")
        at = len(shape) - len(core)
        for letter, size in zip(core, shape[at:], strict=True):
            if sizes.setdefault(letter, size) != size:
                raise ValueError(f"axis {letter} is {sizes[letter]} in one input and {size} in another")
        loops.append(shape[:at])
    loop = broadcast(loops) if loops else ()
    if loop is None:
        raise ValueError(f"leading axes {' and '.join(map(str, loops))} do not broadcast" if any(cores)
                         else "they do not broadcast: sizes must be equal, or 1")
    tail: list[int] = []
    for letter in out:
        if letter == "...":
            tail.extend(anything)
        elif letter.rstrip("?") in sizes:
            tail.append(sizes[letter.rstrip("?")])
    return loop + tuple(tail)


def _present(core: tuple[str, ...], shape: Shape) -> tuple[str, ...]:
    """The core letters without those marked `?` that this shape has no axis for."""
    if len(shape) < len(core):
        core = tuple(letter for letter in core if not letter.endswith("?"))
    return tuple(letter.rstrip("?") for letter in core)


def one_axis(axis: int, ndim: int) -> int:
    """The axis counted from the front. Raises ShapeError outside -ndim … ndim-1."""
    if not isinstance(axis, int) or isinstance(axis, bool):
        try:
            axis = axis.__index__()
        except AttributeError:
            raise ShapeError(f"axis must be an integer, got {axis!r}") from None
    if not -ndim <= axis < ndim:
        raise ShapeError(f"axis {axis} is out of range for {ndim} axes (allowed: {-ndim} to {ndim - 1})" if ndim
                         else f"axis {axis}: a 0-d tensor has no axes")
    return axis % ndim


def some_axes(axis: int | Sequence[int] | None, ndim: int) -> tuple[int, ...]:
    """Axes as a sorted tuple counted from the front; None means all. Raises ShapeError for repeats and out of range."""
    if axis is None:
        return tuple(range(ndim))
    axes = [one_axis(a, ndim) for a in (axis if isinstance(axis, (tuple, list)) else (axis,))]
    if len(set(axes)) != len(axes):
        raise ShapeError(f"axis {axis} names one axis twice")
    return tuple(sorted(axes))


def reduced(shape: Shape, axes: Sequence[int], keepdims: bool) -> Shape:
    """The shape after a reduction over `axes`."""
    if keepdims:
        return tuple(1 if i in axes else n for i, n in enumerate(shape))
    return tuple(n for i, n in enumerate(shape) if i not in axes)


def filled(shape: Sequence[int] | int, size: int) -> Shape:
    """A reshape target with its -1 replaced. Raises ShapeError where `size` elements cannot take that shape."""
    target = [int(n) for n in (shape if isinstance(shape, (tuple, list)) else (shape,))]
    known = 1
    for n in target:
        known *= n if n != -1 else 1
    if target.count(-1) > 1 or any(n < -1 for n in target):
        raise ShapeError(f"reshape to {tuple(target)}: at most one size may be -1, none smaller")
    if -1 in target:
        if known == 0 or size % known:
            raise ShapeError(f"reshape: {size} elements cannot take shape {tuple(target)}")
        target[target.index(-1)] = size // known
    elif known != size:
        raise ShapeError(f"reshape: {size} elements cannot take shape {tuple(target)}, which has {known}")
    return tuple(target)
