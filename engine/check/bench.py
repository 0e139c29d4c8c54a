"""`selfcheck`: how many seeded faults a gradient checker finds, and how often it raises a false alarm."""
from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from engine.check.awkward import awkward, sweep
from engine.check.faults import Case, faults
from engine.check.pullback import check_vjp
from engine.check.report import InconclusiveWarning


@dataclass
class SelfCheck:
    """What a gradient checker did with right and wrong pullbacks."""
    faults: int = 0                      # wrong pullbacks, …
    caught: int = 0                      # … found
    families: dict[str, list[int]] = field(default_factory=dict)         # of each: caught, all
    awkward: int = 0                     # right pullbacks of awkward functions
    alarms: int = 0                      # of these, called wrong
    sweep: int = 0                       # right pullbacks of plain functions, at many scales, with ties and zeros
    sweep_alarms: int = 0
    inconclusive: int = 0                # of both, not decided
    missed: list[str] = field(default_factory=list)
    false: list[str] = field(default_factory=list)

    @property
    def catch_rate(self) -> float:
        """The share of the faults that was found."""
        return self.caught / max(self.faults, 1)

    @property
    def false_alarm_rate(self) -> float:
        """The share of right pullbacks that was called wrong."""
        return (self.alarms + self.sweep_alarms) / max(self.awkward + self.sweep, 1)

    def json(self) -> str:
        """All of it as one JSON object."""
        return json.dumps({**asdict(self), "catch_rate": self.catch_rate, "false_alarm_rate": self.false_alarm_rate},
                          ensure_ascii=False)

    def __str__(self) -> str:
        families = ", ".join(f"{name} {a}/{b}" for name, (a, b) in self.families.items())
        lines = [f"faults caught        {self.caught} of {self.faults} ({self.catch_rate:.1%}): {families}",
                 f"false alarms         {self.alarms} of {self.awkward} right but awkward functions",
                 f"                     {self.sweep_alarms} of {self.sweep} right ones at scales 1e-6 to 1e6, with "
                 "ties and zeros",
                 f"false-alarm rate     {self.false_alarm_rate:.2%}, and {self.inconclusive} inconclusive"]
        lines += [f"missed: {name}" for name in self.missed] + [f"false alarm: {name}" for name in self.false]
        return "\n".join(lines)


def selfcheck(checker: Callable[..., Any] = check_vjp, *, every: int = 1, show: bool = True,
              wrong: Iterable[Case] | None = None, right: Iterable[Case] | None = None) -> SelfCheck:
    """Measure a gradient checker: this package's own, or any `checker(f, vjp, inputs)` that raises at a fault.

    Prints the catch rate and the false-alarm rate on seeded faults, right but awkward functions, and 900 plain ones.
    every: use every so-manieth case of the sweep alone. wrong, right: other cases instead of those shipped.
    """
    result = SelfCheck()
    for case in faults() if wrong is None else wrong:
        found, _ = _alarmed(checker, case)
        count = result.families.setdefault(case.family, [0, 0])
        count[1] += 1
        count[0] += found
        result.faults, result.caught = result.faults + 1, result.caught + found
        if not found:
            result.missed.append(f"{case.family}: {case.name}")
    for case in awkward() if right is None else right:
        alarmed, undecided = _alarmed(checker, case)
        result.awkward, result.alarms = result.awkward + 1, result.alarms + alarmed
        result.inconclusive += undecided
        result.false += [case.name] if alarmed else []
    if right is None:
        for k, case in enumerate(sweep()):
            if k % every == 0:
                alarmed, undecided = _alarmed(checker, case)
                result.sweep, result.sweep_alarms = result.sweep + 1, result.sweep_alarms + alarmed
                result.inconclusive += undecided
                result.false += [case.name] if alarmed else []
    if show:
        print(result)
    return result


def _alarmed(checker: Callable[..., Any], case: Case) -> tuple[bool, bool]:
    """Whether the checker raised, and whether it said that it cannot tell."""
    with warnings.catch_warnings(record=True) as noted, np.errstate(all="ignore"):
        warnings.simplefilter("always")
        try:
            checker(case.f, case.vjp, case.inputs)
        except Exception:
            return True, False
    return False, any(issubclass(w.category, InconclusiveWarning) for w in noted)
