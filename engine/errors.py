"""What can go wrong, by kind, so that a program can tell the cases apart."""
from typing import Any


class EngineError(Exception):
    """Anything the engine refuses; the message says what happened, to which tensor, and what to do."""
    failed: Any = None               # of a refused call: its record, with which `graph(error)` draws how far it came


class ShapeError(EngineError, ValueError):
    """Shapes that do not fit the op they were given to."""


class IndexRangeError(EngineError, IndexError):
    """An index or id outside the axis that it points into."""


class DtypeError(EngineError, TypeError):
    """A dtype that the op, or a gradient, cannot take."""


class DeviceError(EngineError, RuntimeError):
    """A device that is not there, cannot be used, has no memory left, or does not hold what an op needs."""


class GraphError(EngineError, RuntimeError):
    """A graph that cannot be walked back: freed, changed since, or without a cotangent."""


class NotFiniteError(EngineError, FloatingPointError):
    """A NaN or an infinity, found by `nan_check`: `op` made it in `scope` and `phase`, or `tensor` held it already."""
    op: str = ""
    scope: tuple[str, ...] = ()
    phase: str = "forward"
    tensor: str | None = None
