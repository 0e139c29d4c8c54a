"""Hypothesis strategies: shapes, tensors in every memory layout, calls of any op drawn from its record, modules.

    from engine.check.strategies import broadcastable, calls, modules, shapes, tensors
    @given(tensors(shapes(min_rank=1), away_from=[0.0]))
    def test_mine(x): ...

Whatever fails shrinks to few and simple numbers. Hypothesis is imported when a strategy is made, not before.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from engine.check.gradients import leaf
from engine.check.layouts import LAYOUTS
from engine.check.report import script, written
from engine.core import Tensor
from engine.errors import EngineError
from engine.record import Bool, Index, Op, Real
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

    def __repr__(self) -> str:
        """Code that makes this call again, memory layouts included."""
        arrays = "".join(f"{'None' if a is None else written(a)}, " for a in self.arrays)
        return f"Call(({arrays.rstrip() if len(self.arrays) == 1 else arrays.rstrip(', ')}), {self.params!r})"

    def code(self, op: Op, check: str) -> str:
        """Code to paste that runs a check of an op on this call again."""
        return script(["import numpy as np", "from engine import OPS",
                       f"from engine.check import Call, {check}", "from engine.check.layouts import LAYOUTS",
                       f"{check}(OPS[{op.name!r}], {self!r})"])


def is_float(array: np.ndarray | None) -> bool:
    """Whether this is an array of floating numbers."""
    return array is not None and array.dtype.kind == "f"


# --- shapes ---------------------------------------------------------------------------------------
def shapes(min_rank: int = 0, max_rank: int = 4, min_side: int = 0, max_side: int = 3) -> SearchStrategy[Shape]:
    """Shapes: ranks 0 to 4, axes of size 0 and 1 among them."""
    import hypothesis.extra.numpy as hnp
    return hnp.array_shapes(min_dims=min_rank, max_dims=max_rank, min_side=min_side, max_side=max_side)


def broadcastable(count: int | None = None, signature: str | None = None, max_rank: int = 3, min_side: int = 0,
                  max_side: int = 3) -> SearchStrategy[tuple[Shape, ...]]:
    """Shapes that broadcast with each other: `count`, or one an input of a signature, `"(n,k),(k,m)->(n,m)"`."""
    import hypothesis.extra.numpy as hnp
    if signature is not None:
        drawn = hnp.mutually_broadcastable_shapes(signature=signature, max_dims=max_rank, min_side=min_side,
                                                  max_side=max_side)
    else:
        drawn = hnp.mutually_broadcastable_shapes(num_shapes=2 if count is None else count, max_dims=max_rank,
                                                  min_side=min_side, max_side=max_side)
    return drawn.map(lambda found: found.input_shapes)


# --- numbers --------------------------------------------------------------------------------------
def arrays(shape: Any = None, dtype: Any = np.float64, strides: Any = "any", domain: Any = (-2.0, 2.0),
           away_from: Sequence[float] = (), *, unique: bool = False) -> SearchStrategy[np.ndarray]:
    """NumPy arrays of multiples of 1/64 (exact in float32), simple ones first when a failure shrinks.

    shape: a shape, a strategy of shapes, or None for any. dtype: a dtype, or a strategy of dtypes. strides: a memory
    layout, a list of them, or "any": C, Fortran, strided, reversed, read-only, permuted, "stride 0" (every row one
    number; not where `unique`). domain: (low, high) or the `Real` of an op's record, whose kinks count too. away_from:
    no number comes nearer than 1/16 to these. unique: no two are equal.
    """
    import hypothesis.extra.numpy as hnp
    from hypothesis import strategies as st

    real = domain if isinstance(domain, Real) else Real(*domain)
    numbers = _simple_first(_grid(real._replace(kinks=(*real.kinks, *away_from)), 1 / 64))
    if not numbers:
        raise EngineError(f"there is no multiple of 1/64 in {real} that is 1/16 away from {list(away_from)}")
    names = [strides] if isinstance(strides, str) else list(strides)
    if names == ["any"]:
        names = [n for n in LAYOUTS if not unique or n != "stride 0"]
    if unknown := set(names) - set(LAYOUTS):
        raise EngineError(f"there is no memory layout {', '.join(map(repr, unknown))}; there are {', '.join(LAYOUTS)}")

    @st.composite
    def array(draw: Callable[[Any], Any]) -> np.ndarray:
        form = draw(shapes() if shape is None else shape) if not isinstance(shape, tuple) else shape
        kind = np.dtype(draw(dtype) if hasattr(dtype, "example") else dtype)
        values = draw(hnp.arrays(kind, form, elements=st.sampled_from(numbers), unique=unique, fill=st.nothing()))
        return LAYOUTS[draw(st.sampled_from(names))](values)

    return array()


def tensors(shape: Any = None, dtype: Any = np.float64, strides: Any = "any", domain: Any = (-2.0, 2.0),
            away_from: Sequence[float] = (), *, unique: bool = False, requires_grad: bool = True,
            ) -> SearchStrategy[Tensor]:
    """Tensors, leaves in the very memory layout that was drawn. The parameters are those of `arrays`."""
    return arrays(shape, dtype, strides, domain, away_from, unique=unique).map(lambda a: leaf(a, requires_grad))


def modules(build: Callable[..., Any], **sizes: Any) -> SearchStrategy[Any]:
    """Modules made by `build(**sizes)`, each size drawn from its strategy, with parameters of drawn numbers.

    `modules(Linear, inputs=st.integers(1, 4), outputs=st.integers(1, 4))`. A module is anything with
    `named_parameters()`; biases and gains that start as zeros and ones would hide what a gradient does with them.
    """
    from hypothesis import strategies as st

    @st.composite
    def module(draw: Callable[[Any], Any]) -> Any:
        made = build(**{name: draw(size) if hasattr(size, "example") else size for name, size in sizes.items()})
        rng = np.random.default_rng(draw(st.integers(0, 2**16)))
        for _, t in made.named_parameters():
            t[...] = rng.integers(-64, 65, t.shape) / 64
        return made

    return module()


def _grid(real: Real, step: float) -> np.ndarray:
    values = np.arange(real.low, real.high, step)
    for kink in real.kinks:
        values = values[np.abs(values - kink) >= GAP]
    return values


def _simple_first(values: np.ndarray) -> list[float]:
    """Whole numbers first, then halves, quarters …; small before large, positive before negative."""
    def weight(v: float) -> tuple[int, float, bool]:
        parts = next((k for k in range(7) if (v * 2**k) % 1 == 0), 7)
        return parts, abs(v), v < 0
    return sorted((float(v) for v in values), key=weight)


# --- calls of an op -------------------------------------------------------------------------------
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
    count = math.prod(shape)
    step = 1 / 64
    while True:
        values = _grid(kind, step)
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
