"""The notation of einsum: an equation as letters for the axes of each tensor."""
from __future__ import annotations

import string
from functools import lru_cache
from typing import NamedTuple

from engine.errors import ShapeError
from engine.shapes import Shape


class Equation(NamedTuple):
    """A letter for each axis of each tensor, the letters of the result, and how large each is.

    What `...` stands for has letters of its own: digits, counted from the last such axis.
    """
    inputs: tuple[str, ...]
    out: str
    sizes: dict[str, int]


@lru_cache(maxsize=1024)
def parsed(subscripts: str, shapes: tuple[Shape, ...]) -> Equation:
    """The equation for tensors of these shapes. Raises ShapeError, which says what does not fit."""
    if not isinstance(subscripts, str):
        raise ShapeError(f"subscripts are a string such as 'ij,jk->ik', not {subscripts!r}")
    left, arrow, right = "".join(subscripts.split()).partition("->")
    terms = left.split(",")
    for term in (*terms, right):
        if term.count("...") > 1 or set(term.replace("...", "", 1)) - set(string.ascii_letters):
            raise ShapeError(f"{subscripts!r}: {term!r} may have letters and one '...'")
    if len(terms) != len(shapes):
        raise ShapeError(f"{subscripts!r} has {len(terms)} terms for {len(shapes)} tensors")
    inputs = tuple(_spelled(subscripts, term, shape) for term, shape in zip(terms, shapes, strict=True))
    sizes = _sizes(subscripts, inputs, shapes)
    dots = "".join(sorted((c for c in sizes if not c.isalpha()), reverse=True))
    if not arrow:
        once = sorted(c for c in sizes if c.isalpha() and left.count(c) == 1)
        return Equation(inputs, dots + "".join(once), sizes)
    if dots and "..." not in right:
        raise ShapeError(f"{subscripts!r}: the tensors have axes for '...', the result must say where they go")
    out = right.replace("...", dots)
    for c in out:
        if c not in sizes or out.count(c) > 1:
            raise ShapeError(f"{subscripts!r}: {c!r} in the result must occur in a tensor, and once in the result")
    return Equation(inputs, out, sizes)


def _spelled(subscripts: str, term: str, shape: Shape) -> str:
    """A term with a letter for every axis."""
    free = len(shape) - len(term.replace("...", "", 1))
    if free < 0 or (free and "..." not in term):
        raise ShapeError(f"{subscripts!r}: {term!r} does not fit the {len(shape)} axes of a tensor of shape {shape}")
    return term.replace("...", "".join(_digit(i) for i in reversed(range(free))))


def _digit(i: int) -> str:
    """The name of the i-th axis from the end of what `...` stands for."""
    return chr(0x2460 + i)


def _sizes(subscripts: str, inputs: tuple[str, ...], shapes: tuple[Shape, ...]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for letters, shape in zip(inputs, shapes, strict=True):
        own: dict[str, int] = {}
        for c, n in zip(letters, shape, strict=True):
            if own.setdefault(c, n) != n:
                raise ShapeError(f"{subscripts!r}: axis {c} is {own[c]} and {n} in one tensor of shape {shape}")
            known = sizes.setdefault(c, n)
            if 1 not in (known, n) and known != n:
                raise ShapeError(f"{subscripts!r}: axis {c} is {known} in one tensor and {n} in another")
            sizes[c] = n if known == 1 else known
    return sizes
