"""Where a command computes: the device and the precision that its settings name."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import engine
from microtfm.errors import UserError


@contextmanager
def computing(device: str, precision: str = "float32") -> Iterator[str]:
    """All that is made inside is made on the device: "cpu", "cuda", or "auto", which takes a card that can be used.

    Yields which one it is, and why. Raises DeviceError where it cannot be used, UserError where the precision does not
    go with it.
    """
    chosen, why = engine.choose_device(device)
    if precision != "float32" and chosen == "cpu":
        raise UserError(f"--precision {precision} is a precision of cards, and this run computes on the processor "
                        f"({why}). Use --precision float32, or --device cuda.")
    with engine.default_device(chosen), engine.precision(precision):
        yield why if precision == "float32" else f"{why}, products in {precision}"
