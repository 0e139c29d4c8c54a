"""The one module that imports numba-cuda and CuPy: compiling kernels, and launching them on a card.

Numba is the compiler alone: it makes PTX of a kernel, without a card or a driver, and ptxas (or the driver) machine
code of that. CuPy loads it and launches the kernel on its own current stream, with arrays from its memory pool. So
there is one context, one stream and one pool, and what a test compiles offline is what runs.
"""

import hashlib
import os
import re
from collections import deque
from collections.abc import Callable
from functools import cache
from importlib import metadata
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import numpy as np

from .. import disk
from . import CompileFailure, assembler
from .launching import Launcher

INSTALL = ('install the CUDA packages: pip install "microtfm[cuda13]" (driver 580 or newer), or "microtfm[cuda12]" '
           "(driver 525 or newer)")  # fmt: skip
NVVM = ("nvidia-nvvm", "nvidia-cuda-nvcc", "nvidia-cuda-nvcc-cu12")  # packages that bring the compiler to PTX
OPTIONS = ("NUMBA_OPT", "NUMBA_DEBUGINFO", "NUMBA_CUDA_DEBUGINFO_DEFAULT")  # environment variables that change PTX


class ProviderMissing(ImportError):
    """numba-cuda or CuPy cannot be imported."""


def _missing(what: str, error: Exception) -> ProviderMissing:
    """The error for a package that is not there, or that fails while it is imported."""
    said = " ".join(str(error).split())
    if isinstance(error, ImportError):
        return ProviderMissing(f"{what}, which cannot be imported ({said}): {INSTALL}")
    return ProviderMissing(f"{what}, which fails while it is imported ({type(error).__name__}: {said}): mend that, or "
                           f"{INSTALL}")


def _numba_cuda() -> tuple[Any, Any, Any]:
    if not hasattr(np, "row_stack"):
        np.row_stack = np.vstack  # NumPy 2.5 dropped the alias, and numba-cuda's last release still reads it
    try:
        import numba_cuda  # noqa: F401
        from numba import cuda
        from numba.cuda import cgutils, types
    except Exception as e:
        raise _missing("CUDA kernels need numba-cuda", e) from e
    return cuda, cgutils, types


cuda, cgutils, types = _numba_cuda()


@cache
def cupy() -> Any:
    """CuPy. Raises ProviderMissing where it cannot be imported."""
    try:
        import cupy
    except Exception as e:
        raise _missing("arrays on a card need CuPy", e) from e
    return cupy


def device_function(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that kernels call, inlined."""
    return cuda.jit(function, device=True, forceinline=True)


def intrinsic(function: Callable[..., Any]) -> Any:
    """Numba's intrinsic for CUDA."""
    from numba.cuda.extending import intrinsic
    return intrinsic(function)


def signature(kernel: Any, dtype: str | None) -> Any:
    """The Numba types of a kernel's parameters, T being `dtype`."""
    def one(p: Any) -> Any:
        element = types.boolean if p.element == "bool" else getattr(types, p.element)
        if p.rank is None:
            return element
        if p.rank == -2:
            return types.CPointer(types.CPointer(element))
        return types.Array(element, p.rank, "A") if p.rank > 0 else types.CPointer(element)

    return types.void(*(one(p.typed(dtype)) for p in kernel.parameters))


def ptx(kernel: Any, dtype: str | None, capability: tuple[int, int]) -> str:
    """The PTX of a kernel for a compute capability, T being `dtype` (None where it has no T). Needs no card."""
    bounds = kernel.threads, kernel.blocks_per_multiprocessor
    with _no_device_asked(capability):
        text, _ = cuda.compile(kernel.function, signature(kernel, dtype), device=False, abi="numba", cc=capability,
                               fastmath=kernel.fastmath, launch_bounds=bounds)
    return text


class _no_device_asked:
    """Numba asks the card for its capability while it compiles a device function: the answer, without a card."""

    def __init__(self, capability: tuple[int, int]) -> None:
        self.capability = capability

    def __enter__(self) -> None:
        from numba.cuda import dispatcher
        self.asked = dispatcher.get_current_device
        card = type("Card", (), {"compute_capability": self.capability})
        dispatcher.get_current_device = lambda: card

    def __exit__(self, *_: Any) -> None:
        from numba.cuda import dispatcher
        dispatcher.get_current_device = self.asked


def entry(text: str) -> str:
    """The name of the kernel in a PTX text."""
    found = re.search(r"\.visible\s+\.entry\s+([\w$]+)", text)
    if found is None:
        raise ValueError("there is no kernel in the compiled text")
    return found[1]


def load(kernel: Any, dtype: str | None) -> Callable[[tuple[Any, ...], list[Any]], None]:
    """Compile a kernel for the current card and load it: -> what launches it. Raises CompileFailure."""
    try:
        capability = cupy().cuda.Device().compute_capability
        function = _loaded(kernel, dtype, (int(capability[:-1]), int(capability[-1])))
    except ProviderMissing:
        raise
    except Exception as e:
        if "OUT_OF_MEMORY" in str(e) or isinstance(e, MemoryError):
            raise MemoryError(f"the kernel {kernel.__name__} has no room on the card: {e}") from e
        raise CompileFailure(f"the CUDA kernel {kernel.__name__} does not compile for {dtype or 'its types'}: "
                             f"{type(e).__name__}: {e}") from e
    return _launcher(kernel.__name__, function, elements(kernel, dtype))


def _launcher(name: str, function: Any, taken: list[str]) -> Launcher:
    from cupy_backends.cuda.api import driver
    cuda = cupy().cuda

    def allow(nbytes: int) -> None:
        """More dynamic shared memory than a kernel may have unasked (CUDA Programming Guide, §3.2.4)."""
        try:
            driver.funcSetAttribute(function.ptr, driver.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, nbytes)
        except driver.CUDADriverError as e:
            raise CompileFailure(f"the CUDA kernel {name} needs {nbytes} bytes of shared memory a block, and the card "
                                 f"does not give it as much ({e})") from e  # fmt: skip

    return Launcher(name, function.ptr, taken, driver.launchKernel, lambda: cuda.get_current_stream().ptr,
                    lambda: cuda.runtime.free(0), allow)  # fmt: skip


def elements(kernel: Any, dtype: str | None) -> list[str]:
    """The types of the numbers as which a kernel's arguments are handed over, T being `dtype`: see `words`."""
    typed = (p.typed(dtype) for p in kernel.parameters)
    lists = ([p.element] if p.rank is None else ["int64"] * (1 if p.rank <= 0 else 5 + 2 * p.rank) for p in typed)
    return [element for several in lists for element in several]


def _loaded(kernel: Any, dtype: str | None, capability: tuple[int, int]) -> Any:
    """The kernel on the card: its machine code, or its PTX where the driver must assemble it."""
    text, code = cached_ptx(kernel, dtype, capability), cached_code(kernel, dtype, capability)
    module = cupy().cuda.function.Module()
    if code is not None:
        try:
            module.load(code)
            return module.get_function(entry(text))
        except cupy().cuda.driver.CUDADriverError as e:  # as of an older driver
            assembler.give_up(f"the driver does not take its machine code ({e})")
            module = cupy().cuda.function.Module()
    module.load(text.encode())
    return module.get_function(entry(text))


def cached_ptx(kernel: Any, dtype: str | None, capability: tuple[int, int]) -> str:
    """The PTX of a kernel, kept on disk under a name that changes with every source file and package it depends on."""
    from .jit import KERNELS
    same = [k for k in KERNELS if (k.__module__, k.__name__) == (kernel.__module__, kernel.__name__)]
    number = next(i for i, k in enumerate(same) if k is kernel)
    facts = (_sources(), kernel.__module__, kernel.__name__, number, _written(kernel), str(kernel.parameters), dtype,
             capability, kernel.threads, kernel.blocks_per_multiprocessor, kernel.fastmath)  # fmt: skip
    return (_kept(kernel, facts, "ptx", lambda: ptx(kernel, dtype, capability).encode()) or b"").decode()


def cached_code(kernel: Any, dtype: str | None, capability: tuple[int, int]) -> bytes | None:
    """The kernel's machine code, kept on disk beside its PTX; None where the driver must make it."""
    if not assembler.usable():
        return None
    text = cached_ptx(kernel, dtype, capability)
    facts = text, capability, assembler.version()
    return _kept(kernel, facts, "cubin", lambda: assembler.assembled(text, capability))


def _kept(kernel: Any, facts: Any, kind: str, make: Callable[[], bytes | None]) -> bytes | None:
    """What is made of a kernel, from the disk if it was made of the same before."""
    folder = disk.folder(f"microtfm-cuda-{metadata.version('numba-cuda')}")
    if folder is None:
        return make()
    file = folder / f"{kernel.__name__}-{hashlib.sha256(repr(facts).encode()).hexdigest()[:24]}.{kind}"
    made = disk.read(file)
    if made is None:
        made = make()
        if made is not None:
            disk.write(file, made)
    return made


@cache
def _sources() -> str:
    """A digest of all that a kernel's PTX follows from."""
    versions = [metadata.version("numba-cuda"), metadata.version("numba"), np.__version__, *map(_version, NVVM)]
    options = [os.environ.get(name) for name in OPTIONS]
    digest, here = hashlib.sha256(repr((versions, options)).encode()), Path(__file__).parent
    for file in sorted([*here.glob("*.py"), *here.parent.glob("*.py")]):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _written(kernel: Any) -> tuple[Any, ...]:
    """What a kernel is written in: its code, which has a template's constants in it, and what it has from the function
    that made it; of one that does not belong to the engine the whole file, too."""
    file = Path(kernel.function.__code__.co_filename)
    foreign = Path(__file__).parent not in file.parents and file.is_file()
    return _fact(kernel.function), file.read_bytes() if foreign else b""


def _fact(x: Any) -> Any:
    """What of a value that a kernel uses can be told from others: numbers, tuples and arrays of them, and functions."""
    x = getattr(x, "py_func", x)
    if isinstance(x, FunctionType):
        return _code(x.__code__), [_fact(cell.cell_contents) for cell in x.__closure__ or ()]
    if isinstance(x, tuple):
        return tuple(map(_fact, x))
    if isinstance(x, np.ndarray):
        return x.dtype.str, x.shape, x.tobytes()
    return x if isinstance(x, (bool, int, float, str, np.generic)) else None


def _code(code: CodeType) -> tuple[Any, ...]:
    constants = tuple(_code(c) if isinstance(c, CodeType) else c for c in code.co_consts)
    return code.co_code, code.co_names, constants


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def words(array: Any, p: Any) -> list[int]:
    """An array as Numba's kernels take it: the address of a flat one, else two unused words, size, item size, address,
    shape and strides. Several: the address of a table of addresses on the card, which they keep."""
    if p.rank == -2:
        array.on_card = cupy().asarray(np.array([a.data.ptr for a in array.arrays], np.int64))
        array = array.on_card
    address = 0 if array is None else array.data.ptr
    if p.rank <= 0:
        return [address]
    size, item = (0, np.dtype(p.element).itemsize) if array is None else (array.size, array.itemsize)
    shape, strides = ((0,) * p.rank,) * 2 if array is None else (array.shape, array.strides)
    return [0, 0, size, item, address, *shape, *strides]


# --- the card -------------------------------------------------------------------------------------
_sent: deque[tuple[Any, np.ndarray]] = deque()
UNDER_WAY = 64  # arrays that may be on their way to the card
LARGE = 256 * 1024  # bytes of an array for which to wait


def send(out: Any, array: np.ndarray) -> None:
    """Write an array's numbers as they are now into one on the card, of the same shape and dtype; not waiting, if there
    are few.

    A card may read the host's memory while the host goes on (CUDA Driver API, "API synchronization behavior"): so it
    gets a copy, which is kept until it has been read.
    """
    cuda = cupy().cuda
    if array.nbytes > LARGE:
        out.set(np.asarray(array, order="C"))
        cuda.get_current_stream().synchronize()
        return
    if len(_sent) < UNDER_WAY:
        event = cuda.Event(disable_timing=True)
    else:
        event, _ = _sent.popleft()
        event.synchronize()
    copy = np.array(array, order="C")
    out.set(copy)
    event.record()
    _sent.append((event, copy))


def state() -> Any:
    """What the driver says of the current card: a `card.State`. Raises `card.NoCard`."""
    from .card import ask
    return ask(cupy())


def memory() -> tuple[int, int]:
    """(free, all) bytes of the card's memory."""
    free, total = cupy().cuda.runtime.memGetInfo()
    return int(free), int(total)


def shared_memory() -> int:
    """Bytes of shared memory that a block may have, if it asks."""
    runtime = cupy().cuda.runtime
    return int(runtime.getDeviceProperties(runtime.getDevice())["sharedMemPerBlockOptin"])


def erf(x: Any) -> Any:
    """The error function, by CuPy's library."""
    from cupyx.scipy.special import erf
    return erf(x)
