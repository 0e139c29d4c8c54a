"""The samples on which an op is compared, from its record: shapes, parameters, layouts, edge values."""
from __future__ import annotations

import zlib
from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from engine import Index, Key, Op, Real

Shapes = tuple[Any, ...]

SIZES: Shapes = ((), (3,), (1,), (0,), (2, 3), (3, 1, 2), (2, 0, 3), (2, 1, 3, 2), (40,))
BY_SIGNATURE: dict[str, Shapes] = {
    "(),()->()": (((), ()), ((3,), (3,)), ((2, 3), (3,)), ((2, 1), (1, 3)), ((0, 2), (1,)), ((), (2, 2)),
                  ((2, 3, 4), (2, 3, 4)), ((33,), (33,))),
    "(),(),()->()": (((), (), ()), ((3,), (3,), (3,)), ((2, 1), (3,), ()), ((2, 3), (2, 3), (2, 3)), ((0,), (), (1,))),
    "(i?,k),(k,j?)->(i?,j?)": (((3,), (3,)), ((2, 3), (3, 4)), ((3,), (2, 3, 2)), ((2, 2, 3), (3,)), ((0, 3), (3, 2)),
                               ((2, 0), (0, 3)), ((2, 1, 2, 3), (4, 3, 2)), ((17, 19), (19, 33))),
    "(v,d),(...)->(...,d)": (((4, 3), (2,)), ((5, 2), (2, 3)), ((3, 1), ()), ((2, 3), (0,)), ((2, 0), (3,))),
    "(i,j)->(i,j)": (((3, 3),), ((2, 4),), ((2, 3, 2),), ((0, 3),), ((1, 1),)),
}
EDGES: dict[str, tuple[float, ...]] = {
    "ties": (1.0, 2.0, -1.0), "zeros": (0.0, -0.0, 1.0, -1.5), "infinities": (np.inf, -np.inf, 0.0, 1.0, -2.0),
    "NaN": (np.nan, 1.0, -2.0, 0.5), "subnormal": (1e-310, -1e-310, 1e-41, -1e-41, 1.0),
    "huge": (1e30, -1e30, 3e38, 1.0), "sure": (100.0, -100.0, 90.0, -750.0, 0.0),
}
SMOOTH = {"ties", "zeros", "sure"}           # where gradients are compared too
SCALES = {"": 1.0, "ties": 2.0, "zeros": 1.5, "infinities": 2.0, "NaN": 2.0, "sure": 750.0, "subnormal": 0.0,
          "huge": 0.0}


class Sample(NamedTuple):
    """One call: arrays (None for an optional input left out), parameters, and what is special about it."""
    arrays: tuple[Any, ...]
    params: dict[str, Any]
    layout: str
    edge: str

    def __str__(self) -> str:
        given = ["None" if a is None else f"{a.dtype}{list(a.shape)}" for a in self.arrays]
        return ", ".join([*given, *(f"{k}={v!r}" for k, v in self.params.items()), self.layout, self.edge])


def _strided(x: np.ndarray) -> np.ndarray:
    wide = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype) if x.ndim else x
    if x.ndim:
        wide[..., ::2] = x
    return wide[..., ::2] if x.ndim else x


def _reversed(x: np.ndarray) -> np.ndarray:
    flip = (slice(None, None, -1),) * x.ndim
    return x[flip].copy()[flip] if x.ndim else x


def _read_only(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x.flags.writeable = False
    return x


LAYOUTS: dict[str, Any] = {
    "C": lambda x: np.array(x, order="C"), "Fortran": lambda x: np.array(x, order="F"), "strided": _strided,
    "reversed": _reversed, "read-only": _read_only,
    "broadcast": lambda x: np.broadcast_to(x[..., :1].copy(), x.shape) if x.ndim else x,
}


def shapes_of(op: Op) -> Shapes:
    """The shapes of the inputs, one tuple a sample."""
    if op.samples:
        return op.samples
    if op.signature in BY_SIGNATURE:
        return BY_SIGNATURE[op.signature]
    return tuple((s,) for s in SIZES)


def samples(op: Op, dtype: Any, combinations: int) -> Iterator[Sample]:
    """All samples of an op in a dtype: each shape with up to so many combinations of parameters, the layouts in turn;
    then each kind of edge value on the largest shape."""
    rng = np.random.default_rng(zlib.crc32(f"{op.name} {np.dtype(dtype)}".encode()))
    turn = 0
    names = list(LAYOUTS)
    for given in shapes_of(op):
        for params in _params(op, given, combinations):
            layout = names[turn % len(names)]
            turn += 1
            made = _sample(op, given, params, dtype, layout, "", rng)
            if made is not None:
                yield made
    if np.dtype(dtype).kind != "f" or not any(isinstance(op.kind(i), Real) for i in range(len(op.inputs))):
        return
    largest = max(shapes_of(op), key=lambda s: (max(int(np.prod(x)) for x in s if x is not None), str(s)))
    for edge, params in product(EDGES, _params(op, largest, 2)):
        made = _sample(op, largest, params, dtype, names[turn % 5], edge, rng)
        turn += 1
        if made is not None:
            yield made


def _params(op: Op, given: Shapes, combinations: int) -> list[dict[str, Any]]:
    """Evenly spread combinations of the parameters that tests may draw."""
    choices = op.choices(*given) if op.choices else {}
    every = [dict(zip(choices, values, strict=True)) for values in product(*choices.values())]
    step = max(1, -(-len(every) // combinations))
    step += step > 1 and any(len(v) % step == 0 for v in choices.values())        # meet every value of each
    return every[::step]


def _sample(op: Op, given: Shapes, params: dict[str, Any], dtype: Any, layout: str, edge: str,
            rng: np.random.Generator) -> Sample | None:
    arrays: list[Any] = []
    for i, shape in enumerate(given):
        kind = op.kind(i)
        if shape is None:
            arrays.append(None)
        elif isinstance(kind, Real):
            arrays.append(LAYOUTS[layout](_reals(kind, shape, dtype, edge, rng)))
        elif isinstance(kind, Index):
            size = params[kind.of] if isinstance(kind.of, str) else (given[kind.of] or ())[kind.axis]
            if not size and 0 not in shape:
                return None
            arrays.append(np.asarray(rng.integers(0, max(size, 1), shape)))
        elif isinstance(kind, Key):
            arrays.append(np.asarray(rng.integers(-2**62, 2**62, shape)))
        else:
            arrays.append(np.asarray(rng.random(shape) < 0.7))
    return Sample(tuple(arrays), params, layout, edge)


def _reals(kind: Real, shape: Any, dtype: Any, edge: str, rng: np.random.Generator) -> np.ndarray:
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return np.asarray(rng.random(shape) < 0.5)
    if dtype.kind in "iu":
        low = int(np.ceil(kind.low))
        return np.asarray(rng.integers(low, max(int(kind.high), low + 1) + 1, shape, dtype))
    x = np.asarray(rng.uniform(kind.low, kind.high, shape))
    for kink in kind.kinks:
        x = np.where(np.abs(x - kink) < 1e-3, kink + 1e-3, x)
    if edge:
        x = np.where(rng.random(shape) < 0.7, rng.choice(EDGES[edge], shape), x)
    with np.errstate(over="ignore"):
        return x.astype(dtype)
