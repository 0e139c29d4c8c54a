"""How property tests run: few and always the same examples by default; HYPOTHESIS_PROFILE=deep looks further."""
import os
import sys

import pytest

os.environ.setdefault("NUMBA_ENABLE_CUDASIM", "1")      # device="cuda" is simulated; tests/gpu.py sets 0

from hypothesis import HealthCheck, settings

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.differing_executors]

settings.register_profile("quick", deadline=None, max_examples=8, derandomize=True, database=None,
                          suppress_health_check=SLOW)
settings.register_profile("deep", deadline=None, max_examples=300, suppress_health_check=SLOW, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


def pytest_runtest_logfinish(nodeid: str) -> None:
    """On a real card: a test that breaks the card's context ends its process, in which all others would fail, too."""
    cupy = sys.modules.get("cupy")
    if cupy is None or os.environ["NUMBA_ENABLE_CUDASIM"] != "0":
        return
    try:
        cupy.cuda.runtime.deviceSynchronize()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        if "PYTEST_XDIST_WORKER" in os.environ:
            os._exit(3)                  # another worker takes over
        pytest.exit(f"{nodeid} broke the card's context: {error}", returncode=3)
