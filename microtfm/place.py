"""Where a command computes: the device and the precision that its settings name, and what is said of them."""
from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import engine
from microtfm.errors import UserError


def choose(device: str, otherwise: str = "--device cpu") -> tuple[str, str]:
    """The device that "cpu", "cuda" or "auto" stands for, and why. otherwise: what goes on without a card, for the
    DeviceError where "cuda" cannot be used."""
    try:
        return engine.choose_device(device)
    except engine.DeviceError as error:
        if device != "cuda":
            raise
        problem = str(error).removesuffix(". Use --device cpu")
        raise engine.DeviceError(f"{problem}. Without a card: {otherwise}.") from None


def say_where(device: str, why: str, tell: Callable[[str], None]) -> None:
    """Tell what "auto" took, and why: once all is read that could be wrong, and before anything else is said."""
    if device == "auto":
        tell(why)


@contextmanager
def computing(device: str, precision: str = "float32", command: str = "") -> Iterator[str]:
    """All that is made inside is made on the device: "cpu", "cuda", or "auto", which takes a card that can be used.

    Yields which one it is, and why. command: the one to which the flags belong that an error names, if they were not
    given to it. Raises DeviceError where the device cannot be used, UserError where the precision does not go with it.
    """
    plain = "" if precision == "float32" else " --precision float32"
    chosen, why = choose(device, f"{command} --device cpu{plain}".lstrip())
    check_precision(precision, chosen, why)
    with engine.default_device(chosen), engine.precision(precision):
        yield f"{why}, products in {precision}" if plain else why


def check_precision(precision: str, chosen: str, why: str) -> None:
    """UserError where a precision of cards is asked of the processor."""
    if precision != "float32" and chosen == "cpu":
        raise UserError(f"--precision {precision} is a precision of cards, and this computes on the processor ({why}). "
                        "Use --precision float32, or --device cuda.")


def note(place: str) -> None:
    """Say it on standard error, for commands whose standard output is data; "" is nothing to say."""
    if place:
        print(f"note: {place}", file=sys.stderr, flush=True)


def beside_data(device: str | None, why: str) -> str:
    """What a command says of where it computes: what "auto" chose where that was asked for, and that it is a card;
    nothing of the processor where nobody asked."""
    return why if device == "auto" or why.startswith("cuda") else ""


def line(place: str) -> None:
    """Say it as the first line of a report on standard output; "" is nothing to say."""
    if place:
        print(f"device  {place}", flush=True)
