"""What products of float32 matrices are computed in, chosen once for all kernels of a context."""

from contextvars import ContextVar

PRECISIONS = ("float32", "tf32x3", "tf32", "bf16")
_precision: ContextVar[str] = ContextVar("cuda_precision", default="float32")


def precision() -> str:
    """ "float32", "tf32x3" (the same as three products of TF32), "tf32" (10 bits of mantissa) or "bf16" (7 bits); sums
    are float32 in any case."""
    return _precision.get()


def set_precision(name: str) -> str:
    """Choose it, for this thread's context: -> the one before."""
    if name not in PRECISIONS:
        raise ValueError(f"the precision is {', '.join(PRECISIONS[:-1])} or {PRECISIONS[-1]}, not {name!r}")
    before = _precision.get()
    _precision.set(name)
    return before
