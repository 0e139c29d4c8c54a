"""How many processor threads a command uses."""
from __future__ import annotations

import os


def default_threads() -> int:
    """The threads of a command that is not told otherwise: NUMBA_NUM_THREADS, else the processors it may run on."""
    given = os.environ.get("NUMBA_NUM_THREADS", "")
    if given.isdecimal() and int(given):
        return int(given)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
