"""The most memory that this process has held since a mark was last put down."""
from __future__ import annotations

import re
import sys
from contextlib import suppress
from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def put_down_mark() -> None:
    """Start the high-water mark anew, where the system can (Linux)."""
    with suppress(OSError):
        CLEAR.write_text("5")


def peak_mb() -> float | None:
    """The most resident memory since the mark was put down, or in the whole life of the process; None if unknown."""
    with suppress(OSError):
        if found := re.search(r"^VmHWM:\s+(\d+) kB", STATUS.read_text(), re.M):
            return int(found[1]) / 2**10
    try:
        import resource
    except ImportError:                  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 2**20 if sys.platform == "darwin" else most / 2**10
