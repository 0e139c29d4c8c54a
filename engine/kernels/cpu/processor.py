"""The processor that Numba compiles for: its vector registers, and what it does fast."""

from collections.abc import Mapping

from llvmlite import binding
from numba.core import config


def _features() -> Mapping[str, bool]:
    """What it can do: this one, or as NUMBA_CPU_FEATURES says ("+avx2,-avx512f")."""
    if config.CPU_FEATURES is None:
        return binding.get_host_cpu_features()
    return {part[1:]: part.startswith("+") for part in config.CPU_FEATURES.split(",") if part}


def _registers(features: Mapping[str, bool]) -> tuple[int, int]:
    """How many vector registers it has, and the bits of one."""
    if features.get("avx512f"):
        return 32, 512
    if features.get("neon"):
        return 32, 128
    return 16, 256 if features.get("avx") else 128


REGISTERS, REGISTER_BITS = _registers(_features())
MASKED_STORES = REGISTER_BITS == 512  # with AVX2 some processors take 20 cycles for one; others have none
