"""Arrays of either device: where they are, how they get there, and what of them the engine asks whichever it is."""
from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NoReturn

import numpy as np

from engine.errors import DeviceError, DtypeError
from engine.kernels.cpu.pool import aligned_copy
from engine.state import STATE

DEVICES = ("cpu", "cuda")
DRIVER_ERRORS = ("CUDADriverError", "CUDARuntimeError")                  # CuPy's, which is not imported here
NO_MEMORY = re.compile("MemoryAllocation|OUT_OF_MEMORY")
LAST = re.compile("ILLEGAL|Illegal|LAUNCH_FAILED|LaunchFailure|MISALIGNED|Misaligned|ECC|HARDWARE|Hardware|"
                  "INVALID_PC|InvalidPc|ADDRESS_SPACE|AddressSpace|ASSERT|Assert|TIMEOUT|Timeout")
"""Words of the driver's errors for memory that there is not, and for those after which it refuses all else."""


def of(array: Any) -> str:
    """The device of an array; of no array, the CPU."""
    return "cpu" if array is None or isinstance(array, (np.ndarray, np.generic)) else "cuda"


def of_inputs(arrays: Sequence[Any]) -> str:
    """The device of an op's inputs, where single numbers go with the others."""
    return "cuda" if any(of(a) == "cuda" for a in arrays) else "cpu"


def current() -> str:
    """Where tensors of given values are made: "cpu", or what `default_device` says."""
    return STATE.get().device


def array_of(data: Any, dtype: Any, device: str | None) -> Any:
    """A C-contiguous copy of data. Python floats become float32, integers int64; arrays keep their dtype and, without a
    `device`, their place; all else goes where `current` says."""
    if isinstance(data, (list, tuple)) and any(of_data(x) == "cuda" for x in data):
        raise DeviceError("a list of arrays on a card does not become a tensor by itself: engine.stack joins them")
    place = of_data(data)
    if place == "cuda":
        from engine.kernels.cuda import tape
        with on_card():
            data = tape.adopted(data)
            array = data.astype(dtype or data.dtype, order="C", copy=True)
        array = move(array, place if device is None else device)
    else:
        dtype = dtype or _default_dtype(data)
        array = aligned_copy(np.asarray(data, dtype)) if type(data) is np.ndarray else np.array(data, dtype, order="C")
        if array.dtype.kind in "fiubc":
            array = move(array, current() if device is None else device)
    if array.dtype.kind not in "fiubc":
        raise DtypeError(f"a tensor holds numbers; got {array.dtype} from {type(data).__name__}")
    return array


def is_on_card(value: Any) -> bool:
    """Whether anything is an array on a card."""
    return of_data(value) == "cuda"


def of_data(data: Any) -> str:
    """The device of anything that a tensor is made of: an array of a card says so."""
    return "cuda" if hasattr(data, "__cuda_array_interface__") or type(data).__name__ == "SimulatedArray" else "cpu"


def _default_dtype(data: Any) -> Any:
    """None where the data has a dtype of its own; Python floats are float32, Python integers int64."""
    if isinstance(data, (np.ndarray, np.generic)) or hasattr(data, "__array_interface__"):
        return None
    if isinstance(data, (list, tuple)) and _holds_arrays(data):
        return None
    kind = np.asarray(data).dtype.kind
    return {"f": np.float32, "i": np.int64}.get(kind)


def _holds_arrays(data: Sequence[Any]) -> bool:
    return any(isinstance(x, (np.ndarray, np.generic)) or (isinstance(x, (list, tuple)) and _holds_arrays(x))
               for x in data)


def made(result: Any) -> Any:
    """What a kernel or a meaning gave, as an array: NumPy's scalars become arrays of no axes."""
    return np.asarray(result) if isinstance(result, (np.generic, int, float, complex)) else result


def move(array: Any, device: str) -> Any:
    """The array on a device, "auto" too: itself where it is there already, else a copy. Raises DeviceError."""
    here = of(array)
    if here != device:
        device = named(device)
    if here == device:
        return array
    if device == "cpu":
        return host(array)
    from engine.kernels.cuda import tape
    with on_card():
        return tape.from_numpy(array)


@contextmanager
def on_card() -> Iterator[None]:
    """What happens inside happens on a card: where it has no memory, DeviceError says what is free and what helps, and
    where it fails, what becomes of a run."""
    try:
        yield
    except (MemoryError, RuntimeError) as e:
        failed(e, "cuda")
        raise


def failed(error: Exception, device: str) -> None:
    """Raise DeviceError where this error is a card's: of its memory, or of its driver."""
    if device == "cpu" or not (isinstance(error, MemoryError) or type(error).__name__ in DRIVER_ERRORS):
        return
    if isinstance(error, MemoryError) or NO_MEMORY.search(str(error)):
        short_of_memory(error, device)
    last = ", and this process cannot use it any longer" if LAST.search(str(error)) else ""
    raise DeviceError(f"the card failed ({error}){last}. What a run has saved is whole: microtfm resume goes on, with "
                      "--device cpu if the card fails again") from error


def short_of_memory(error: Exception, device: str) -> NoReturn:
    """Raise this error again for the CPU; for a card a DeviceError that says what is free and what helps."""
    if device == "cpu":
        raise error
    from engine.kernels.cuda import card
    raise DeviceError(card.out_of_memory(error)) from error


def named(name: str) -> str:
    """A device that can be used: "cuda" is looked at once. Raises DeviceError."""
    if name == "auto":
        return choose(name)[0]
    usable(name)
    return name


def choose(name: str) -> tuple[str, str]:
    """The device that `name` stands for, and why: "auto" takes a card that can be used, else the CPU."""
    if name != "auto":
        device = named(name)
        return device, f"{device}: as asked for{_described(device)}"
    from engine.kernels.cuda import card
    if card.simulated():
        return "cpu", "cpu: the only card here is a simulated one (NUMBA_ENABLE_CUDASIM)"
    problem = card.problem()
    if problem is None:
        return "cuda", f"cuda: {card.name()}"
    cause = re.split(r" \(|[:;] |\. ", problem, maxsplit=1)[0]
    return "cpu", f"cpu: no card can be used ({cause}; microtfm doctor tells more)"


def _described(device: str) -> str:
    if device == "cpu":
        return ""
    from engine.kernels.cuda import card
    return f" ({card.name()})"


def usable(device: str) -> None:
    """Raise DeviceError where there is no such device, or it cannot be used; the message says what to do."""
    if device not in DEVICES:
        raise DeviceError(f"there is no device {device!r}; there are {', '.join(DEVICES)} and auto")
    if device == "cuda":
        from engine.kernels.cuda import card
        problem = card.problem()
        if problem is not None:
            raise DeviceError(f"device cuda: {problem}")


def laid_out(array: np.ndarray) -> Any:
    """The array itself, or one of the same memory layout where `current` says."""
    if current() == "cpu" or of(array) == "cuda":
        return array
    from engine.kernels.cuda import tape
    with on_card():
        return tape.laid_out(array)


def host(array: Any) -> np.ndarray:
    """The array for NumPy: itself on the CPU, else a copy."""
    if isinstance(array, np.ndarray):
        return array
    with on_card():
        return array.get()


def beside(array: Any, value: Any) -> Any:
    """A value that is to be written into an array: where that array is, if it is more than a number."""
    if of(array) == "cpu":
        return host(value) if is_on_card(value) else value
    if isinstance(value, (int, float)) or of_data(value) == "cuda":
        return value
    value = np.asarray(value)
    return move(value, "cuda") if value.ndim else value.item()


def beside_in(array: Any, index: Any) -> Any:
    """An index whose arrays are on the device of the array that it is for; on a card, truth values become the places
    that they pick, for which it would have to wait."""
    if of(array) == "cpu":
        return index_on_host(index)
    parts = [p for i in (index if isinstance(index, tuple) else (index,)) for p in _places(i)]
    moved = [move(p, "cuda") if isinstance(p, np.ndarray) else p for p in parts]
    return tuple(moved) if isinstance(index, tuple) or len(moved) != 1 else moved[0]


def _places(index: Any) -> Sequence[Any]:
    """A part of an index without truth values; more than one where those have several axes."""
    if not isinstance(index, np.ndarray) and not is_on_card(index):
        return (index,)
    if index.dtype == np.bool_ and index.ndim:
        return np.nonzero(host(index))
    return (index,) if index.ndim or is_on_card(index) else (index.item(),)


def index_on_host(index: Any) -> Any:
    """An index for NumPy: copies of its arrays that are on a card, all else as it is."""
    if isinstance(index, tuple):
        return tuple(index_on_host(i) for i in index)
    return host(index) if is_on_card(index) else index


def picked(shape: tuple[int, ...], index: Any) -> tuple[int, ...]:
    """The shape of what an index picks from an array of a shape. Raises IndexError where it is out of range: a card
    would not say so."""
    return np.broadcast_to(np.False_, shape)[index_on_host(index)].shape


def write(array: Any, index: Any, value: Any) -> None:
    """array[index] = value, from either device. Raises IndexError, ValueError."""
    if of(array) == "cpu":
        array[index_on_host(index)] = beside(array, value)
        return
    picked(array.shape, index)
    with on_card():
        array[beside_in(array, index)] = beside(array, value)


def add_at(out: Any, index: Any, values: Any) -> None:
    """out[index] += values, also where an index comes twice, in ascending order. On a card by way of the host, because
    sums there have no order; the kernels that training uses do better."""
    if of(out) == "cpu":
        np.add.at(out, index_on_host(index), values)
        return
    total = host(out)
    np.add.at(total, index_on_host(index), host(values))
    load(out, total)


def erf(x: Any) -> Any:
    """The error function of an array on a card, by its library."""
    from engine.kernels.cuda import card
    return card.erf(x)


def load(buffer: Any, array: Any) -> None:
    """Write an array of any device into a buffer of its shape and dtype."""
    if of(buffer) == "cpu":
        np.copyto(buffer, host(array))
        return
    from engine.kernels.cuda import tape
    with on_card():
        if of(array) == "cuda":
            np.copyto(buffer, array)
        else:
            tape.send(buffer, array)


def empty(shape: Any, dtype: Any, device: str) -> Any:
    """An array of any numbers that outlives a recorded step."""
    if device == "cpu":
        return np.empty(shape, dtype)
    from engine.kernels.cuda import tape
    with on_card():
        return tape.lasting(shape, dtype)


def memory(size: int, device: str) -> Any:
    """`size` bytes from the beginning of a cache line on."""
    if device == "cpu":
        from engine.arena import allocate
        return allocate(size)
    return empty(max(1, size), np.uint8, device)


def within(memory: Any, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: Any) -> Any:
    """An array in a card's memory, its first element at a byte."""
    from engine.kernels.cuda import tape
    return tape.within(memory, offset, shape, strides, dtype)


def address(array: Any) -> int:
    """Where an array's first element lies."""
    if of(array) == "cpu":
        return int(array.__array_interface__["data"][0])
    from engine.kernels.cuda import tape
    return tape.address(array)


def graph(steps: Sequence[Any]) -> Any:
    """Steps of a recording on a card as one thing to run."""
    from engine.kernels.cuda.graph import Graph
    return Graph(steps)


def empty_on_tape(shape: Any, dtype: Any, beside: Sequence[Any]) -> Any:
    """Memory of the step that is being recorded, on the device of an op's inputs."""
    if of_inputs(beside) == "cuda":
        from engine.kernels.cuda import tape
        return tape.empty(shape, dtype)
    from engine.kernels.cpu import tape as cpu_tape
    return cpu_tape.empty(shape, dtype)


def together(name: str, arrays: list[Any]) -> list[Any]:
    """The arrays of one op on one device: single numbers follow the others; else DeviceError."""
    for a in arrays:
        if a is not None and type(a) is not np.ndarray:
            return _together(name, arrays)
    return arrays


def _together(name: str, arrays: list[Any]) -> list[Any]:
    places = {of(a) for a in arrays if a is not None}
    if len(places) < 2:
        return arrays
    large = {of(a) for a in arrays if a is not None and a.ndim}
    if len(large) > 1:
        given = ", ".join(f"{a.dtype} {a.shape} on {of(a)}" for a in arrays if a is not None)
        raise DeviceError(f"{name}: its inputs live on two devices: {given}. Move them with x.to('cuda') or "
                          "x.to('cpu').")
    target = large.pop() if large else "cuda"
    return [a if a is None or of(a) == target else _number(a, target) for a in arrays]


def _number(array: Any, device: str) -> Any:
    return host(array) if device == "cpu" else _on_card(array.tobytes(), array.dtype.str)


@lru_cache(maxsize=1024)
def _on_card(data: bytes, dtype: str) -> Any:
    """A number on the card; those met often are kept. Nobody writes to it."""
    from engine.kernels.cuda import tape
    return tape.from_numpy(np.frombuffer(data, dtype).reshape(()))


def checksum(array: Any) -> int:
    """A checksum of the whole memory that an array is a view of."""
    whole = np.ndarray if of(array) == "cpu" else type(array)
    while isinstance(array.base, whole):
        array = array.base
    return zlib.crc32(np.ascontiguousarray(host(array)).tobytes()) if array.size else 0
