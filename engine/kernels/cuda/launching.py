"""Launches of a loaded kernel: its arguments as the driver reads them, and the one call that hands them over.

The driver is told where each argument lies, and copies them all before it returns (CUDA Driver API, cuLaunchKernel). So
each thread has its own memory for a kernel's arguments, laid out once; a launch writes all of them by one call, which
also checks that they fit.
"""

import ctypes
import struct
import threading
from collections.abc import Callable, Sequence
from typing import Any

CODES = {"int64": "q", "uint64": "Q", "int32": "i", "uint32": "I", "int16": "h", "uint16": "H", "int8": "b",
         "uint8": "B", "bool": "?", "float32": "f", "float64": "d"}  # fmt: skip
DEFAULT_SHARED = 48 * 1024  # bytes of dynamic shared memory that a kernel may have unasked


class Layout:
    """How the arguments of these types lie in memory, and at which bytes they begin."""

    def __init__(self, elements: Sequence[str]) -> None:
        codes = "@" + "".join(CODES[element] for element in elements)
        self.struct = struct.Struct(codes)
        self.begins = [struct.calcsize(codes[: i + 2]) - struct.calcsize(codes[i + 1]) for i in range(len(elements))]


class Room(threading.local):
    """A thread's memory for the arguments of one kernel, and the table of their addresses."""

    def __init__(self, layout: Layout, context: Callable[[], Any]) -> None:
        context()  # the driver launches for threads that have one
        self.memory = ctypes.create_string_buffer(layout.struct.size)
        start = ctypes.addressof(self.memory)
        self.table = (ctypes.c_void_p * len(layout.begins))(*[start + begin for begin in layout.begins])
        self.address = ctypes.addressof(self.table)


class Launcher:
    """What launches a kernel: called with ((grid), (block), bytes of shared memory) and its arguments as numbers.

    launch, stream, context, allow: the driver's launch, the address of the current stream, what makes the card's
    context this thread's, and what lets the kernel have more shared memory than DEFAULT_SHARED.
    """

    def __init__(
        self, name: str, function: int, elements: Sequence[str], launch: Callable[..., Any],
        stream: Callable[[], int], context: Callable[[], Any], allow: Callable[[int], Any],
    ) -> None:  # fmt: skip
        self._name, self._function, self._elements = name, function, elements
        self._launch, self._stream, self._allow = launch, stream, allow
        self._layout, self._allowed = Layout(elements), DEFAULT_SHARED
        self._room = Room(self._layout, context)

    def reserve(self, shared: int) -> None:
        """Let the kernel have so many bytes of shared memory."""
        if shared > self._allowed:
            self._allow(shared)
            self._allowed = shared

    def __call__(self, shape: tuple[Any, ...], values: Sequence[Any]) -> None:
        grid, block, shared = shape
        if shared > self._allowed:
            self.reserve(shared)
        room = self._room
        try:
            self._layout.struct.pack_into(room.memory, 0, *values)
        except (struct.error, OverflowError) as e:
            raise TypeError(f"the kernel {self._name} takes ({', '.join(self._elements)}), not {values}: {e}") from e
        self._launch(self._function, *grid, *block, shared, self._stream(), room.address, 0)
