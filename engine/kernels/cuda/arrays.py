"""Arrays that stand for arrays on a card: NumPy memory behind CuPy's manners.

A `SimulatedArray` answers what a CuPy array answers. It takes part in NumPy's dispatch (`__array_ufunc__`,
`__array_function__`) and refuses every silent way back to the host: `np.asarray(x)` raises TypeError, `x.get()` copies.
Results are arrays, also those of no axes. So what runs on these arrays never leaves the card where there is one.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

# What op meanings and the optimisers may ask of arrays, besides ufuncs: functions that CuPy has under the same name.
_FUNCTIONS = frozenset({
    "all", "allclose", "amax", "amin", "any", "append", "arange", "argmax", "argmin", "argpartition", "argsort",
    "argwhere", "array_equal", "array_split", "average", "bincount", "broadcast_to", "clip", "concatenate", "convolve",
    "copyto", "count_nonzero", "cross", "cumprod", "cumsum", "det", "diag", "diagonal", "diff", "dot", "einsum",
    "empty_like", "expand_dims", "flip", "full_like", "imag", "inner", "interp", "inv", "isclose", "kron", "max",
    "may_share_memory", "mean", "median", "min", "moveaxis", "nan_to_num", "nanmax", "nanmean", "nanmin", "nansum",
    "ndim", "nonzero", "norm", "ones_like", "outer", "pad", "partition", "percentile", "pinv", "prod", "quantile",
    "ravel", "real", "repeat", "reshape", "roll", "rollaxis", "rot90", "round", "searchsorted", "shape",
    "shares_memory", "sinc", "size", "solve", "sort", "split", "squeeze", "stack", "std", "sum",
    "swapaxes", "take", "take_along_axis", "tensordot", "tile", "trace", "transpose", "tril", "triu", "unique", "var",
    "vdot", "where", "zeros_like",
})  # fmt: skip
_PLAIN = (bool, int, float, complex, np.generic)


class SimulatedArray:
    """An array on the simulated card; `memory` is its NumPy array."""

    __slots__ = ("__weakref__", "memory")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, memory: np.ndarray) -> None:
        self.memory = memory

    @classmethod
    def poisoned(cls, shape: Any, dtype: Any) -> "SimulatedArray":
        """Memory that nobody has written yet: NaN, or large numbers."""
        from .memory import poisoned
        return cls(poisoned(shape, dtype))

    def get(self) -> np.ndarray:
        """A copy on the host."""
        return self.memory.copy()

    def set(self, array: np.ndarray) -> None:
        """Copy from the host. Raises ValueError where the shapes differ."""
        if array.shape != self.shape:
            raise ValueError(f"an array of shape {array.shape} is not written into one of {self.shape}")
        self.memory[...] = array

    # what it is
    shape = property(lambda self: self.memory.shape)
    dtype = property(lambda self: self.memory.dtype)
    ndim = property(lambda self: self.memory.ndim)
    size = property(lambda self: self.memory.size)
    nbytes = property(lambda self: self.memory.nbytes)
    itemsize = property(lambda self: self.memory.itemsize)
    strides = property(lambda self: self.memory.strides)
    flags = property(lambda self: self.memory.flags)
    T = property(lambda self: _wrapped(self.memory.T))

    @property
    def base(self) -> Any:
        """The array whose memory it is a view of."""
        return None if self.memory.base is None else SimulatedArray(self.memory.base)

    def __len__(self) -> int:
        return len(self.memory)

    # refusing to be read in silence; what is asked for by name is allowed
    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError("an array on the simulated card does not turn into a NumPy array by itself: use .get()")

    def item(self, *index: Any) -> Any:
        return self.memory.item(*index)

    def tolist(self) -> Any:
        return self.memory.tolist()

    def __bool__(self) -> bool:
        return bool(self.memory)

    def __int__(self) -> int:
        return int(self.memory.item())

    def __float__(self) -> float:
        return float(self.memory.item())

    def __index__(self) -> int:
        return self.memory.__index__()

    def __repr__(self) -> str:
        return f"{self.memory!r} on the simulated card"

    # NumPy's dispatch
    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        out = options.get("out", ())
        if not all(isinstance(x, (SimulatedArray, *_PLAIN)) for x in (*inputs, *out)):
            return NotImplemented
        if out:
            options["out"] = tuple(_bare(x) for x in out)
        result = getattr(ufunc, method)(*(_bare(x) for x in inputs), **options)
        return out[0] if out else _wrapped(result)

    def __array_function__(self, function: Callable[..., Any], types: Any, given: Any, options: Any) -> Any:
        if function.__name__ not in _FUNCTIONS or not all(issubclass(t, SimulatedArray) for t in types):
            return NotImplemented
        result = function(*(_bare(x) for x in given), **{name: _bare(x) for name, x in options.items()})
        return _wrapped(result)

    # indexing
    def __getitem__(self, index: Any) -> "SimulatedArray":
        return SimulatedArray(self.memory[_bare(index)] if _is_advanced(index) else self.memory[(*_tuple(index), ...)])

    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(value, np.ndarray) and value.ndim:
            raise TypeError("a NumPy array is written to the card by .set(), or moved there first")
        self.memory[_bare(index)] = _bare(value)

    # methods, as NumPy names them
    def astype(self, dtype: Any, order: str = "K", copy: bool = True) -> "SimulatedArray":
        return _wrapped(self.memory.astype(dtype, order=order, copy=copy))  # type: ignore[call-overload]

    def copy(self, order: Any = "C") -> "SimulatedArray":
        return SimulatedArray(self.memory.copy(order))

    def fill(self, value: Any) -> None:
        self.memory.fill(_bare(value))

    def view(self, dtype: Any) -> "SimulatedArray":
        return SimulatedArray(self.memory.view(dtype))

    def reshape(self, *shape: Any, order: Any = "C") -> "SimulatedArray":
        return SimulatedArray(self.memory.reshape(*shape, order=order))

    def ravel(self) -> "SimulatedArray":
        return SimulatedArray(self.memory.ravel())

    def transpose(self, *axes: Any) -> "SimulatedArray":
        return SimulatedArray(self.memory.transpose(*axes))

    def sum(self, *a: Any, **k: Any) -> "SimulatedArray":
        return _wrapped(self.memory.sum(*a, **k))

    def max(self, *a: Any, **k: Any) -> "SimulatedArray":
        return _wrapped(self.memory.max(*a, **k))

    def min(self, *a: Any, **k: Any) -> "SimulatedArray":
        return _wrapped(self.memory.min(*a, **k))

    def mean(self, *a: Any, **k: Any) -> "SimulatedArray":
        return _wrapped(self.memory.mean(*a, **k))

    def all(self, *a: Any, **k: Any) -> "SimulatedArray":
        return _wrapped(self.memory.all(*a, **k))

    def any(self, *a: Any, **k: Any) -> "SimulatedArray":
        return _wrapped(self.memory.any(*a, **k))


def _operator(ufunc: np.ufunc, reflected: bool = False) -> Any:
    def apply(self: SimulatedArray, other: Any) -> Any:
        if not isinstance(other, (SimulatedArray, *_PLAIN)):
            return NotImplemented
        return ufunc(other, self) if reflected else ufunc(self, other)

    return apply


def _in_place(ufunc: np.ufunc) -> Any:
    def apply(self: SimulatedArray, other: Any) -> SimulatedArray:
        ufunc(self, other, out=(self,))
        return self

    return apply


_OPERATORS = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "truediv": np.true_divide, "floordiv": np.floor_divide,
    "mod": np.remainder, "pow": np.power, "matmul": np.matmul, "and": np.bitwise_and, "or": np.bitwise_or,
    "xor": np.bitwise_xor, "lshift": np.left_shift, "rshift": np.right_shift,
}  # fmt: skip
for _name, _ufunc in _OPERATORS.items():
    setattr(SimulatedArray, f"__{_name}__", _operator(_ufunc))
    setattr(SimulatedArray, f"__r{_name}__", _operator(_ufunc, reflected=True))
    setattr(SimulatedArray, f"__i{_name}__", _in_place(_ufunc))
for _name, _ufunc in {"eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater,
                      "ge": np.greater_equal}.items():  # fmt: skip
    setattr(SimulatedArray, f"__{_name}__", _operator(_ufunc))
for _name, _ufunc in {"neg": np.negative, "abs": np.absolute, "invert": np.invert}.items():
    setattr(SimulatedArray, f"__{_name}__", lambda self, _ufunc=_ufunc: _ufunc(self))


def _bare(x: Any) -> Any:
    """The NumPy arrays behind arrays of the simulated card, in tuples and lists too."""
    if isinstance(x, SimulatedArray):
        return x.memory
    if isinstance(x, (tuple, list)):
        return type(x)([_bare(part) for part in x])
    return x


def _wrapped(result: Any) -> Any:
    if isinstance(result, (np.ndarray, np.generic)):
        return SimulatedArray(np.asarray(result))
    if isinstance(result, (tuple, list)):
        return type(result)([_wrapped(part) for part in result])
    return result


def _tuple(index: Any) -> Sequence[Any]:
    return index if isinstance(index, tuple) else (index,)


def _is_advanced(index: Any) -> bool:
    """Whether an index has arrays or lists in it, or an ellipsis of its own."""
    return any(isinstance(i, (SimulatedArray, np.ndarray, list)) or i is Ellipsis for i in _tuple(index))
