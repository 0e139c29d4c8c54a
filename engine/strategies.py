"""Valid calls of any op, drawn from its record for property tests: arrays in every memory layout, and parameters."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from engine.core import Tensor
from engine.errors import EngineError
from engine.record import Bool, Index, Op, Real
from engine.slopes import leaf
from engine.state import no_grad

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

    from engine.shapes import Shape

GAP = 1 / 16                         # drawn values keep this far from an op's kinks
HARD = ((np.nan, np.inf, -np.inf, 0.0, -0.0), (100.0, -100.0, 1000.0, -1000.0, 0.0, 1e-30))


class Call(NamedTuple):
    """One call of an op: arrays (None for an optional input left out) and parameters."""
    arrays: tuple[Any, ...]
    params: dict[str, Any]

    def run(self, op: Op, dtype: Any = None) -> Tensor:
        """The op's result, without a record. dtype: convert the floating inputs first."""
        with no_grad(), np.errstate(all="ignore"):
            arrays = [a.astype(dtype) if dtype is not None and is_float(a) else a for a in self.arrays]
            return self.on(op, [None if a is None else leaf(a, False) for a in arrays])

    def on(self, op: Op, tensors: Sequence[Tensor | None]) -> Tensor:
        """The op on these tensors with this call's parameters."""
        return op(list(tensors), **self.params) if op.variadic else op(*tensors, **self.params)


def is_float(array: np.ndarray | None) -> bool:
    """Whether this is an array of floating numbers."""
    return array is not None and array.dtype.kind == "f"


def _strided(x: np.ndarray) -> np.ndarray:
    if not x.ndim:
        return x
    wide = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)
    wide[..., ::2] = x
    return wide[..., ::2]


def _reversed(x: np.ndarray) -> np.ndarray:
    flip = (slice(None, None, -1),) * x.ndim
    return x[flip].copy()[flip] if x.ndim else x


def _read_only(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x.flags.writeable = False
    return x


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "C": lambda x: np.array(x, order="C"),
    "Fortran": lambda x: np.array(x, order="F"),
    "strided": _strided,
    "reversed": _reversed,
    "read-only": _read_only,
    "stride 0": lambda x: np.broadcast_to(x[..., :1], x.shape) if x.ndim else x,        # the first element, repeated
}


def calls(op: Op, dtype: Any = np.float64, *, ties: bool = False, hard: bool = False) -> SearchStrategy[Call]:
    """A Hypothesis strategy of valid calls of an op, from its record: signature or samples, domain, choices.

    Ranks up to 4, axes of size 0 and 1, every memory layout. Values lie on a lattice (exact in float32), off the kinks.
    ties: equal values are wanted (by default all are different, also those of different inputs). hard: NaN,
    infinities, zeros and large values are strewn in.
    """
    from hypothesis import assume
    from hypothesis import strategies as st

    @st.composite
    def call(draw: Callable[[Any], Any]) -> Call:
        given: tuple[Shape | None, ...] = draw(_shapes(op))
        params = {name: draw(st.sampled_from(list(values))) for name, values in
                  (op.choices(*given) if op.choices else {}).items()}
        rng = np.random.default_rng(draw(st.integers(0, 2**16)))
        hardness = draw(st.sampled_from(range(len(HARD)))) if hard else 0       # inf · underflow is no fair question
        arrays: list[Any] = []
        for i, shape in enumerate(given):
            kind = op.kind(i)
            if shape is None:
                arrays.append(None)
                continue
            size = 1
            if isinstance(kind, Index):
                size = params[kind.of] if isinstance(kind.of, str) else (given[kind.of] or ())[kind.axis]
                assume(size > 0 or 0 in shape)
            array = _values(kind, shape, i, max(size, 1), ties, rng)
            if isinstance(kind, Real):
                array = np.asarray(array, dtype)
                if hard:
                    array = np.where(rng.random(shape) < 0.3, rng.choice(HARD[hardness], shape), array).astype(dtype)
            layouts = [n for n in LAYOUTS if n != "stride 0" or ties or not isinstance(kind, Real)]
            arrays.append(LAYOUTS[draw(st.sampled_from(layouts))](array))
        return Call(tuple(arrays), params)

    return call()


def _values(kind: Any, shape: Shape, i: int, size: int, ties: bool, rng: np.random.Generator) -> np.ndarray:
    """Values of one kind for input i; `size` bounds an index."""
    if isinstance(kind, Real):
        return np.asarray(_lattice(kind, shape, i, ties, rng))
    if isinstance(kind, Index):
        return np.asarray(rng.integers(0, size, shape))
    if isinstance(kind, Bool):
        return np.asarray(rng.random(shape) < 0.7)
    return np.asarray(rng.integers(-2**62, 2**62, shape))


def _lattice(kind: Real, shape: Shape, i: int, ties: bool, rng: np.random.Generator) -> np.ndarray:
    """Multiples of 1/64 or finer in the domain, off its kinks; input i's are shifted so that none equal another's."""
    count = int(np.prod(shape, dtype=np.int64))
    step = 1 / 64
    while True:
        values = np.arange(kind.low, kind.high, step)
        for kink in kind.kinks:
            values = values[np.abs(values - kink) >= GAP]
        if ties or len(values) >= count:
            break
        step /= 2
    offset = 0 if ties else i * step / 8
    return rng.choice(values[:: max(1, len(values) // 4)] if ties else values, shape, replace=ties) + offset


def _shapes(op: Op) -> Any:
    """A strategy of one shape an input."""
    import hypothesis.extra.numpy as hnp
    from hypothesis import strategies as st

    sizes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=1, max_side=3) | hnp.array_shapes(
        min_dims=1, max_dims=4, min_side=0, max_side=3)
    if op.samples:
        return st.sampled_from(op.samples)
    if op.signature is None:
        if len(op.inputs) > 1 or op.variadic:
            raise EngineError(f"{op.name}: tests cannot draw its shapes; give the op a `signature` or `samples`")
        return sizes.map(lambda s: (s,))
    if "..." in op.signature:
        cores = [core.split(",") for core in op.signature.split("->")[0].strip("()").split("),(")]
        letters = sorted({c for core in cores for c in core} - {"..."})
        return st.tuples(sizes, *[st.integers(0, 3) for _ in letters]).map(
            lambda drawn: tuple(drawn[0] if "..." in core else tuple(drawn[1 + letters.index(c)] for c in core)
                                for core in cores))
    free = 4 if "," not in op.signature.replace("),(", "") else 2
    signature = op.signature
    return st.sampled_from([0, 1, 1]).flatmap(lambda least: hnp.mutually_broadcastable_shapes(
        signature=signature, max_dims=free, min_side=least, max_side=3)).map(lambda s: s.input_shapes)
