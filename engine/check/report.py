"""What a check has found: verdicts, numbers with their error bars, and code that shows a finding again."""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine.check.slopes import Slope
from engine.errors import EngineError

FEW = 64                                 # arrays of at most so many numbers are written out in full


class CheckError(EngineError, AssertionError):
    """An op that does not do what its record says."""


class GradcheckError(CheckError):
    """A gradient that is not the slope. `report` has all that was found."""
    report: Report | None = None


class InconclusiveWarning(UserWarning):
    """A check whose numbers cannot tell right from wrong."""


@dataclass(frozen=True)
class Finding:
    """One thing that was found wrong, or that could not be decided."""
    verdict: str                         # "wrong" or "inconclusive"
    what: str                            # value | contract | layout | linearity | dtype | shape | float32 | zero-size …
    message: str
    name: str = ""                       # of the input
    input: int | None = None             # its position
    index: tuple[int, ...] | None = None
    given: float = math.nan              # what the gradient says
    slope: Slope | None = None           # what running the function says

    @property
    def near_kink(self) -> bool:
        """Whether the two sides of the point have different slopes."""
        return self.slope is not None and self.slope.kind in ("kink", "jump", "steep")

    def __str__(self) -> str:
        return self.message


@dataclass
class Report:
    """Everything that a check has found. True where all that was asked is right.

    `verdict` is "right", "wrong" or "inconclusive": something could not be told from the numbers, and nothing is wrong.
    """
    findings: list[Finding] = field(default_factory=list)
    code: str = ""                       # shows the first finding again
    runs: int = 0                        # how often the function was run
    compared: int = 0                    # slopes that were compared
    kinks: int = 0                       # of these, at kinks, jumps and vertical tangents
    skipped: int = 0                     # elements that are not finite, or whose outputs are not: they have no slope
    worst: float = 0.0                   # the largest relative difference between a gradient and its slope

    @property
    def verdict(self) -> str:
        found = {f.verdict for f in self.findings}
        if "wrong" in found:
            return "wrong"
        return "inconclusive" if found or (self.skipped and not self.compared) else "right"

    def __bool__(self) -> bool:
        return self.verdict == "right"

    def __str__(self) -> str:
        head = (f"{self.verdict}: {self.compared} slopes compared ({self.kinks} at kinks, {self.skipped} not finite), "
                f"largest relative difference {self.worst:.2g}, {self.runs} runs")
        shown = [f"  {f.verdict}: {f.message}" for f in self.findings[:8]]
        more = [f"  … and {len(self.findings) - 8} more"] if len(self.findings) > 8 else []
        return "\n".join([head, *shown, *more, *([self.code] if self.code and self.findings else [])])

    def add(self, verdict: str, what: str, message: str, **fields: Any) -> None:
        """Note a finding."""
        self.findings.append(Finding(verdict, what, message, **fields))

    def first(self) -> Finding | None:
        """The finding that says most: something wrong, at a single element if there is one."""
        found = self.wrong() or self.findings
        return next((f for f in found if f.index is not None), found[0] if found else None)

    def wrong(self) -> list[Finding]:
        """What is wrong."""
        return [f for f in self.findings if f.verdict == "wrong"]


def written(array: Any) -> str:
    """An array as code that makes it again, memory layout included where that is simple."""
    a = np.asarray(array)
    if a.size > FEW:
        return f"np.zeros({a.shape}, {a.dtype.name!r})   # yours: too many numbers to be printed"
    body = np.array2string(a, separator=", ", threshold=FEW + 1, floatmode="unique", max_line_width=10**6,
                           formatter={"float_kind": _number}).replace("\n", "")
    if not a.size:
        body = "[]"
    code = f"np.array({body}, {a.dtype.name!r})"
    return _laid_out(code + (f".reshape({a.shape})" if not a.size else ""), a)


def _number(x: Any) -> str:
    if math.isnan(x) or math.isinf(x):
        return {"nan": "np.nan", "inf": "np.inf", "-inf": "-np.inf"}[str(float(x))]
    return np.format_float_positional(x, trim="0", unique=True) if 1e-4 <= abs(x) < 1e6 or x == 0 else repr(float(x))


def _laid_out(code: str, a: np.ndarray) -> str:
    """The code of an array, in the array's memory layout."""
    if a.ndim and a.size > 1 and 0 in a.strides:
        layout = "stride 0"
    elif a.size > 1 and all(s < 0 for s in a.strides):
        layout = "reversed"
    elif not a.flags.writeable:
        layout = "read-only"
    elif a.flags.c_contiguous:
        return code
    else:
        layout = "Fortran" if a.flags.f_contiguous else "strided"
    return f"LAYOUTS[{layout!r}]({code})"


def script(lines: Sequence[str]) -> str:
    """Lines of code to be pasted, set off from the message."""
    return "\n".join(["Code that shows it again:", *(f"    {line}" for line in lines)])
