"""The pytest plug-in: functions marked by `@gradient_test` are tests, whatever their name.

pip installs it with the package (entry point `pytest11`). It imports neither Hypothesis nor Numba.
"""
from __future__ import annotations

import sys
from types import FunctionType
from typing import Any


def pytest_addoption(parser: Any) -> None:
    """`--gradient-examples N`: how many inputs every gradient test draws."""
    parser.getgroup("gradients").addoption("--gradient-examples", type=int, default=None, metavar="N",
                                           help="how many inputs each @gradient_test draws")


def pytest_pycollect_makeitem(collector: Any, name: str, obj: Any) -> Any:
    """A test of every marked function that the module itself defines."""
    if not isinstance(obj, FunctionType) or getattr(obj, "gradient_test", None) is not True:
        return None
    if obj.__module__ != collector.module.__name__:
        return []
    import pytest
    return pytest.Function.from_parent(collector, name=name, callobj=obj)


def pytest_runtest_setup(item: Any) -> None:
    """Hand the option on."""
    found = sys.modules.get("engine.check.property")
    if found is not None:
        found.EXAMPLES = item.config.getoption("--gradient-examples")     # type: ignore[attr-defined]
