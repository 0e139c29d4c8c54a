"""The card: whether one can be used, what it is, what memory it has, and the words for all that can be wrong with it.

Nothing here raises where there is no card: `problem()` says what is wrong, or None.
"""

import math
import os
import re
from functools import cache
from typing import Any, NamedTuple

import numpy as np

LEAST_CAPABILITY = (8, 0)  # of a card that the kernels are written for
OLDEST_DRIVER = 12000  # the least that a driver must serve for the oldest of the CUDA packages
SWITCH = "NUMBA_ENABLE_CUDASIM"


class State(NamedTuple):
    """What CuPy and the driver say."""

    name: str
    capability: tuple[int, int]
    driver: int  # the newest CUDA that the driver serves, 13000 for 13.0
    runtime: int  # the CUDA that CuPy was built for
    free: int
    total: int


class NoCard(RuntimeError):
    """There is no driver, or no card that this process may use; the message says what to do."""


def ask(cupy: Any) -> State:
    """What the driver says of the current card. Raises NoCard."""
    runtime = cupy.cuda.runtime
    try:
        count = runtime.getDeviceCount()
    except Exception as e:
        raise NoCard(_without_driver(str(e), runtime.driverGetVersion())) from e
    if not count:
        raise NoCard("no card is visible: CUDA_VISIBLE_DEVICES may hide it, and nvidia-smi shows what there is")
    try:
        number = runtime.getDevice()
        properties = runtime.getDeviceProperties(number)
        driver, built = runtime.driverGetVersion(), runtime.runtimeGetVersion()
        free, total = runtime.memGetInfo()
    except Exception as e:
        raise NoCard(f"the card does not answer ({e}). Another process may hold it exclusively or fill its memory: "
                     "nvidia-smi shows which") from e
    label = properties["name"]
    return State(label.decode() if isinstance(label, bytes) else label, (properties["major"], properties["minor"]),
                 driver, built, free, total)


ADVICE = {
    "NoDevice": "nvidia-smi shows what there is, and CUDA_VISIBLE_DEVICES may hide it",
    "InvalidDevice": "CUDA_VISIBLE_DEVICES may name a card that is not there; nvidia-smi shows which are",
    "MemoryAllocation": "another process may fill its memory: nvidia-smi shows which. Or use --device cpu",
    "SystemNotReady": "its services have not started; machines with NVSwitch need nvidia-fabricmanager",
    "SystemDriverMismatch": "restart the machine, for the driver was updated while it was in use",
    "CompatNotSupportedOnDevice": "a compatibility library (cuda-compat) is found first, which this card does not "
                                  "take: remove it from LD_LIBRARY_PATH",
}  # fmt: skip
"""What helps where a driver is there and fails, by a word of CUDA's name for the error."""


def _without_driver(said: str, driver: int) -> str:
    """Why nothing is known of any card. CUDA calls a driver that is not there an insufficient one; its version is then
    0."""
    if not driver:
        return (f"there is no NVIDIA driver ({said}): install one, and see whether nvidia-smi shows the card")
    if "insufficient" in said.lower():
        other = ' or pip install "microtfm[cuda12]"' if driver >= OLDEST_DRIVER else ""
        return (f"the driver is too old for these CUDA packages ({said}; it serves CUDA {cuda_version(driver)}): "
                f"install a newer driver,{other or ' 525 or newer'}")
    if "no cuda-capable device" in said.lower():
        said = f"cudaErrorNoDevice: {said}" if "NoDevice" not in said else said
    advice = next((text for word, text in ADVICE.items() if word in said), "nvidia-smi shows whether it works, and a "
                  "restart of the machine may mend it")  # fmt: skip
    return f"the NVIDIA driver does not answer ({said}): {advice}"


def simulated() -> bool:
    """Whether kernels run in the simulator, on NumPy memory: the switch is a whole number, as Numba reads it."""
    try:
        return int(os.environ.get(SWITCH) or 0) != 0
    except ValueError:
        return False


@cache
def problem() -> str | None:
    """Why no card can be used, and what to do about it; None if one can. Asked once a process."""
    if simulated():
        try:
            import greenlet  # noqa: F401
        except ImportError:
            return 'the simulator needs the package greenlet: pip install "microtfm[test]"'
        return None
    try:
        from . import provider
        provider.cupy()
    except ImportError as e:
        return str(e)
    return _unfit(provider)


def _unfit(provider: Any) -> str | None:
    """What is wrong with the driver or the card."""
    try:
        state = provider.state()
    except NoCard as e:
        return str(e)
    if state.driver < state.runtime // 1000 * 1000:
        older = state.driver // 1000
        return (f"the driver serves CUDA {cuda_version(state.driver)}, and the CUDA packages here are for "
                f"{cuda_version(state.runtime)}: install a newer driver, or the packages for CUDA {older}, "
                f'pip install "microtfm[cuda{older}]"')  # fmt: skip
    if state.capability < LEAST_CAPABILITY:
        have, least = (".".join(map(str, c)) for c in (state.capability, LEAST_CAPABILITY))
        return (f"the card {state.name} has compute capability {have}; the kernels need {least} (Ampere, 2020) or "
                "newer. Use --device cpu")
    return None


@cache
def shared_memory() -> int:
    """Bytes of shared memory that a block may have: 227 KiB on a Hopper card, 99 on those of compute capability 8.6,
    8.9 and 12.0 (CUDA Programming Guide, "Compute Capabilities")."""
    if simulated():
        return 227 * 1024
    from . import provider
    return provider.shared_memory()


def cuda_version(number: int) -> str:
    """13000 as 13.0."""
    return f"{number // 1000}.{number % 1000 // 10}"


def name() -> str:
    """What the card is called."""
    if simulated():
        return "a simulated card"
    from . import provider
    state = provider.state()
    return f"{state.name}, {state.free / 2**30:.1f} of {state.total / 2**30:.1f} GiB free"


def erf(x: Any) -> Any:
    """The error function, by CuPy's library."""
    if simulated():
        from .arrays import SimulatedArray
        return SimulatedArray(np.asarray(np.frompyfunc(math.erf, 1, 1)(x.memory)).astype(x.dtype))
    from . import provider
    return provider.erf(x)


def synchronise() -> None:
    """Wait until the card has done all that it was given."""
    if not simulated():
        from . import provider
        provider.cupy().cuda.get_current_stream().synchronize()


def out_of_memory(error: BaseException) -> str:
    """The words for memory that the card does not have: what was needed, what is free, and which settings help."""
    asked = re.search(r"allocating ([\d,]+) bytes", str(error))
    needed = int(asked[1].replace(",", "")) if asked else 0
    if simulated():
        return f"the simulated card has no memory ({error})"
    from . import provider
    free, total = provider.memory()
    held = provider.cupy().get_default_memory_pool().used_bytes()
    what = _size(needed) if needed else "what was asked for"
    return (f"the card has no memory for {what}: {_size(free)} of {_size(total)} are free, and this process holds "
            f"{_size(held)} (another process may hold the rest). A smaller --train.batch-tokens with "
            "--train.accumulate learns the same; --model.d-model or --model.layers make a smaller model; --device "
            "cpu uses the computer's memory")


def _size(n: int) -> str:
    return f"{n / 2**30:.2f} GiB" if n >= 2**30 else f"{n / 2**20:.1f} MiB"
