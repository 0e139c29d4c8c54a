"""How property tests run: few and always the same examples by default; HYPOTHESIS_PROFILE=deep looks further."""
import os

os.environ.setdefault("NUMBA_ENABLE_CUDASIM", "1")      # device="cuda" is simulated; tests/gpu.py sets 0

from hypothesis import HealthCheck, settings

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.differing_executors]

settings.register_profile("quick", deadline=None, max_examples=8, derandomize=True, database=None,
                          suppress_health_check=SLOW)
settings.register_profile("deep", deadline=None, max_examples=300, suppress_health_check=SLOW, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))
