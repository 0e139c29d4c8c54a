"""Random programs of ops agree with an independent reference; HYPOTHESIS_PROFILE=deep runs ten thousand."""
import os

from programs import run


def test_random_programs():
    run(10_000 if os.environ.get("HYPOTHESIS_PROFILE") == "deep" else 40)
