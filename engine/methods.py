"""What can be said as `x.method(…)`: every method is an op of the table, written out so that tools can see it.

A method without a docstring gets the text of its op, once the table is complete.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from engine import device as devices
from engine.errors import ShapeError
from engine.record import OPS

if TYPE_CHECKING:
    import numpy as np

    from engine.core import Tensor
    from engine.shapes import Shape


class Methods:
    """The methods of `Tensor`."""
    __slots__ = ()

    if TYPE_CHECKING:
        @property
        def shape(self) -> Shape: ...
        @property
        def ndim(self) -> int: ...
        @property
        def device(self) -> str: ...
        def read(self) -> Any: ...

    # -- copies
    def __copy__(self) -> Tensor:
        """As `copy.deepcopy`: a copy that shared numbers or a gradient would change with this one."""
        return self.__deepcopy__({})

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        """A leaf like this one, with numbers and a gradient of its own. Raises GraphError where it has a history."""
        from engine.copying import deepcopy
        return deepcopy(cast("Tensor", self), memo)

    def __reduce__(self) -> tuple[Any, ...]:
        """How it is made again from a pickle. Raises GraphError where it has a history."""
        from engine.copying import reduced
        return reduced(cast("Tensor", self))

    # -- operators
    def __neg__(self) -> Tensor: return OPS["neg"](self)
    def __abs__(self) -> Tensor: return OPS["abs"](self)
    def __add__(self, y: Any) -> Tensor: return OPS["add"](self, y)
    def __radd__(self, y: Any) -> Tensor: return OPS["add"](y, self)
    def __sub__(self, y: Any) -> Tensor: return OPS["sub"](self, y)
    def __rsub__(self, y: Any) -> Tensor: return OPS["sub"](y, self)
    def __mul__(self, y: Any) -> Tensor: return OPS["mul"](self, y)
    def __rmul__(self, y: Any) -> Tensor: return OPS["mul"](y, self)
    def __truediv__(self, y: Any) -> Tensor: return OPS["div"](self, y)
    def __rtruediv__(self, y: Any) -> Tensor: return OPS["div"](y, self)
    def __mod__(self, y: Any) -> Tensor: return OPS["remainder"](self, y)
    def __rmod__(self, y: Any) -> Tensor: return OPS["remainder"](y, self)
    def __floordiv__(self, y: Any) -> Tensor: return OPS["floor_divide"](self, y)
    def __rfloordiv__(self, y: Any) -> Tensor: return OPS["floor_divide"](y, self)
    def __pow__(self, y: Any) -> Tensor: return OPS["pow"](self, y)
    def __rpow__(self, y: Any) -> Tensor: return OPS["pow"](y, self)
    def __matmul__(self, y: Any) -> Tensor: return OPS["matmul"](self, y)
    def __rmatmul__(self, y: Any) -> Tensor: return OPS["matmul"](y, self)
    def __eq__(self, y: Any) -> Tensor: return OPS["equal"](self, y)  # type: ignore[override]
    def __ne__(self, y: Any) -> Tensor: return OPS["not_equal"](self, y)  # type: ignore[override]
    def __lt__(self, y: Any) -> Tensor: return OPS["less"](self, y)
    def __le__(self, y: Any) -> Tensor: return OPS["less_equal"](self, y)
    def __gt__(self, y: Any) -> Tensor: return OPS["greater"](self, y)
    def __ge__(self, y: Any) -> Tensor: return OPS["greater_equal"](self, y)
    def __and__(self, y: Any) -> Tensor: return OPS["logical_and"](self, y)
    def __or__(self, y: Any) -> Tensor: return OPS["logical_or"](self, y)
    def __xor__(self, y: Any) -> Tensor: return OPS["logical_xor"](self, y)
    def __rand__(self, y: Any) -> Tensor: return OPS["logical_and"](y, self)
    def __ror__(self, y: Any) -> Tensor: return OPS["logical_or"](y, self)
    def __rxor__(self, y: Any) -> Tensor: return OPS["logical_xor"](y, self)
    def __invert__(self) -> Tensor: return OPS["logical_not"](self)
    def __getitem__(self, index: Any) -> Tensor: return OPS["getitem"](self, index=index)

    def __len__(self) -> int:
        if not self.ndim:
            raise TypeError("len() of a 0-d tensor")
        return self.shape[0]

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))

    def __bool__(self) -> bool:
        if self.read().size != 1:
            raise ValueError(f"a tensor of shape {self.shape} is neither true nor false")
        return bool(devices.host(self.read()))

    def __float__(self) -> float: return float(self.item())
    def __int__(self) -> int: return int(self.item())

    def __index__(self) -> int:
        if self.read().dtype.kind not in "iu" or self.ndim:
            raise TypeError(f"only a 0-d integer tensor can be an index; this one is {self.read().dtype} {self.shape}")
        return int(devices.host(self.read()))

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        array = self.numpy()
        return array.astype(dtype) if dtype is not None else array

    # -- values
    def numpy(self) -> np.ndarray:
        """The values as a NumPy array of their own."""
        array = self.read()
        return array.copy() if devices.of(array) == "cpu" else devices.host(array)

    def item(self) -> Any:
        """The value of a tensor of one number, as a Python number."""
        if self.read().size != 1:
            raise ShapeError(f"item(): a tensor of shape {self.shape} is not one number")
        return devices.host(self.read()).item()

    def tolist(self) -> Any:
        """The values as nested Python lists."""
        return devices.host(self.read()).tolist()

    def to(self: Any, device: str) -> Tensor:
        """The values on a device: itself if it is there, else a copy that gradients come back through.

        device: "cpu", "cuda" or "auto". Raises DeviceError where there is no such device, or it cannot be used.
        """
        here = self.device
        return self if here == device else OPS["to"](self, device=device, source=here)

    def astype(self, dtype: Any) -> Tensor: return OPS["astype"](self, dtype=dtype)

    # -- elementwise
    def square(self) -> Tensor: return OPS["square"](self)
    def reciprocal(self) -> Tensor: return OPS["reciprocal"](self)
    def sqrt(self) -> Tensor: return OPS["sqrt"](self)
    def rsqrt(self) -> Tensor: return OPS["rsqrt"](self)
    def exp(self) -> Tensor: return OPS["exp"](self)
    def exp2(self) -> Tensor: return OPS["exp2"](self)
    def expm1(self) -> Tensor: return OPS["expm1"](self)
    def log(self) -> Tensor: return OPS["log"](self)
    def log2(self) -> Tensor: return OPS["log2"](self)
    def log10(self) -> Tensor: return OPS["log10"](self)
    def log1p(self) -> Tensor: return OPS["log1p"](self)
    def abs(self) -> Tensor: return OPS["abs"](self)
    def sign(self) -> Tensor: return OPS["sign"](self)
    def sin(self) -> Tensor: return OPS["sin"](self)
    def cos(self) -> Tensor: return OPS["cos"](self)
    def tan(self) -> Tensor: return OPS["tan"](self)
    def asin(self) -> Tensor: return OPS["asin"](self)
    def acos(self) -> Tensor: return OPS["acos"](self)
    def atan(self) -> Tensor: return OPS["atan"](self)
    def sinh(self) -> Tensor: return OPS["sinh"](self)
    def cosh(self) -> Tensor: return OPS["cosh"](self)
    def tanh(self) -> Tensor: return OPS["tanh"](self)
    def asinh(self) -> Tensor: return OPS["asinh"](self)
    def acosh(self) -> Tensor: return OPS["acosh"](self)
    def atanh(self) -> Tensor: return OPS["atanh"](self)
    def floor(self) -> Tensor: return OPS["floor"](self)
    def ceil(self) -> Tensor: return OPS["ceil"](self)
    def trunc(self) -> Tensor: return OPS["trunc"](self)
    def round(self, decimals: int = 0) -> Tensor: return OPS["round"](self, decimals=decimals)
    def __round__(self, decimals: int = 0) -> Tensor: return OPS["round"](self, decimals=decimals)
    def sigmoid(self) -> Tensor: return OPS["sigmoid"](self)
    def erf(self) -> Tensor: return OPS["erf"](self)
    def relu(self) -> Tensor: return OPS["relu"](self)
    def gelu(self) -> Tensor: return OPS["gelu"](self)
    def silu(self) -> Tensor: return OPS["silu"](self)
    def clip(self, low: float | None = None, high: float | None = None) -> Tensor:
        return OPS["clip"](self, low=low, high=high)
    def remainder(self, y: Any) -> Tensor: return OPS["remainder"](self, y)
    def floor_divide(self, y: Any) -> Tensor: return OPS["floor_divide"](self, y)
    def atan2(self, x: Any) -> Tensor: return OPS["atan2"](self, x)
    def hypot(self, y: Any) -> Tensor: return OPS["hypot"](self, y)
    def logaddexp(self, y: Any) -> Tensor: return OPS["logaddexp"](self, y)
    def maximum(self, y: Any) -> Tensor: return OPS["maximum"](self, y)
    def minimum(self, y: Any) -> Tensor: return OPS["minimum"](self, y)
    def isnan(self) -> Tensor: return OPS["isnan"](self)
    def isinf(self) -> Tensor: return OPS["isinf"](self)
    def isfinite(self) -> Tensor: return OPS["isfinite"](self)

    # -- reductions: axis is None (all), an integer or a tuple
    def sum(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return OPS["sum"](self, axis=axis, keepdims=keepdims)
    def mean(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return OPS["mean"](self, axis=axis, keepdims=keepdims)
    def var(self, axis: Any = None, keepdims: bool = False, correction: float = 0) -> Tensor:
        return OPS["var"](self, axis=axis, keepdims=keepdims, correction=correction)
    def std(self, axis: Any = None, keepdims: bool = False, correction: float = 0) -> Tensor:
        return OPS["std"](self, axis=axis, keepdims=keepdims, correction=correction)
    def prod(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return OPS["prod"](self, axis=axis, keepdims=keepdims)
    def norm(self, axis: Any = None, keepdims: bool = False, ord: float = 2) -> Tensor:
        return OPS["norm"](self, axis=axis, keepdims=keepdims, ord=ord)
    def any(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return OPS["any"](self, axis=axis, keepdims=keepdims)
    def all(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return OPS["all"](self, axis=axis, keepdims=keepdims)
    def max(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return OPS["max"](self, axis=axis, keepdims=keepdims)
    def min(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return OPS["min"](self, axis=axis, keepdims=keepdims)
    def logsumexp(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return OPS["logsumexp"](self, axis=axis, keepdims=keepdims)
    def cumsum(self, axis: int | None = None) -> Tensor: return OPS["cumsum"](self, axis=axis)
    def cumprod(self, axis: int | None = None) -> Tensor: return OPS["cumprod"](self, axis=axis)
    def argmax(self, axis: int | None = None, keepdims: bool = False) -> Tensor:
        return OPS["argmax"](self, axis=axis, keepdims=keepdims)
    def argmin(self, axis: int | None = None, keepdims: bool = False) -> Tensor:
        return OPS["argmin"](self, axis=axis, keepdims=keepdims)
    def softmax(self, axis: int = -1, mask: Any = None) -> Tensor: return OPS["softmax"](self, mask, axis=axis)
    def log_softmax(self, axis: int = -1) -> Tensor: return OPS["log_softmax"](self, axis=axis)

    # -- shape
    def reshape(self, *shape: Any) -> Tensor: return OPS["reshape"](self, shape=_sequence(shape))
    def transpose(self, *axes: Any) -> Tensor:
        return OPS["transpose"](self, axes=None if axes in ((), (None,)) else _sequence(axes))
    def swapaxes(self, axis1: int, axis2: int) -> Tensor: return OPS["swapaxes"](self, axis1=axis1, axis2=axis2)
    def broadcast_to(self, *shape: Any) -> Tensor: return OPS["broadcast_to"](self, shape=_sequence(shape))
    def expand_dims(self, axis: Any) -> Tensor: return OPS["expand_dims"](self, axis=axis)
    def squeeze(self, axis: Any = None) -> Tensor: return OPS["squeeze"](self, axis=axis)
    def flatten(self) -> Tensor:
        """All numbers in C order, one axis: the op `reshape` to (-1,)."""
        return OPS["reshape"](self, shape=(-1,))
    def pad(self, widths: Any, value: float = 0.0) -> Tensor: return OPS["pad"](self, widths=widths, value=value)
    def moveaxis(self, source: Any, destination: Any) -> Tensor:
        return OPS["moveaxis"](self, source=source, destination=destination)
    def tile(self, *reps: Any) -> Tensor: return OPS["tile"](self, reps=_sequence(reps))
    def repeat(self, repeats: Any, axis: int | None = None) -> Tensor:
        return OPS["repeat"](self, repeats=repeats, axis=axis)
    def flip(self, axis: Any = None) -> Tensor: return OPS["flip"](self, axis=axis)
    def roll(self, shift: Any, axis: Any = None) -> Tensor: return OPS["roll"](self, shift=shift, axis=axis)
    def diagonal(self, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Tensor:
        return OPS["diagonal"](self, offset=offset, axis1=axis1, axis2=axis2)
    def trace(self, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Tensor:
        return OPS["trace"](self, offset=offset, axis1=axis1, axis2=axis2)
    def tril(self, k: int = 0) -> Tensor: return OPS["tril"](self, k=k)
    def triu(self, k: int = 0) -> Tensor: return OPS["triu"](self, k=k)

    # -- by position and in order
    def take(self, ids: Any, axis: int | None = None) -> Tensor: return OPS["take"](self, ids, axis=axis)
    def take_along_axis(self, ids: Any, axis: int = -1) -> Tensor: return OPS["take_along_axis"](self, ids, axis=axis)
    def gather(self, ids: Any, axis: int = -1) -> Tensor: return OPS["gather"](self, ids, axis=axis)
    def scatter(self, ids: Any, src: Any, axis: int = -1) -> Tensor: return OPS["scatter"](self, ids, src, axis=axis)
    def index_add(self, ids: Any, src: Any, axis: int = 0) -> Tensor: return OPS["index_add"](self, ids, src, axis=axis)
    def masked_fill(self, mask: Any, value: float) -> Tensor: return OPS["masked_fill"](self, mask, value=value)
    def sort(self, axis: int | None = -1, descending: bool = False) -> Tensor:
        return OPS["sort"](self, axis=axis, descending=descending)
    def argsort(self, axis: int | None = -1, descending: bool = False) -> Tensor:
        return OPS["argsort"](self, axis=axis, descending=descending)
    def topk(self, k: int, axis: int = -1, largest: bool = True) -> tuple[Tensor, Tensor]:
        """The k largest (or smallest) numbers along an axis, and where they stand: see engine.topk."""
        places = OPS["argtopk"](self, k=k, axis=axis, largest=largest)
        return OPS["take_along_axis"](self, places, axis=axis), places

    # -- products
    def matmul(self, y: Any) -> Tensor: return OPS["matmul"](self, y)
    def dot(self, b: Any) -> Tensor: return OPS["dot"](self, b)
    def outer(self, b: Any) -> Tensor: return OPS["outer"](self, b)

    @property
    def T(self) -> Tensor:
        """All axes reversed."""
        return OPS["transpose"](self, axes=None)

    @property
    def mT(self) -> Tensor:
        """The last two axes swapped."""
        return OPS["swapaxes"](self, axis1=-1, axis2=-2)


def _sequence(args: tuple[Any, ...]) -> tuple[int, ...] | Sequence[int]:
    """`f(2, 3)` and `f((2, 3))` alike."""
    return tuple(args[0]) if len(args) == 1 and isinstance(args[0], (tuple, list)) else args
