"""What a person sees of a run: a bar and colours on a terminal, plain lines where the output is piped."""
from __future__ import annotations

import os
import time
from contextlib import suppress
from importlib.util import find_spec
from typing import Any, TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from microtfm.events import Events, Opening, Sample

EVERY = 5.0                              # seconds between lines where there is no bar


class Report(Events):
    """Prints a run as it goes; quiet: nothing of it."""

    def __init__(self, stream: TextIO | None = None, quiet: bool = False) -> None:
        """stream: where to, standard output if None; in a notebook, the cell."""
        self.quiet = quiet
        self.console = Console(file=stream, highlight=False, soft_wrap=True)
        # a notebook can move a bar only with ipywidgets; without them it gets lines
        self.moving = self.console.is_terminal or (self.console.is_jupyter and find_spec("ipywidgets") is not None)
        self.bar: Progress | None = None
        self.task: TaskID | None = None
        self.run: Opening | None = None
        self.printed = 0.0
        self.early: tuple[int, float] | None = None
        self.place = ""                  # what was said of the device

    def say(self, text: str, style: str = "") -> None:
        """Print a line."""
        if self.quiet:
            return
        self.console.print(escape(text), style=style)

    def placed(self, place: str) -> None:
        if place != self.place:
            self.say(f"device  {place}")
        self.place = place

    def notice(self, text: str) -> None:
        self.say(f"note    {text}", "yellow")

    def opening(self, opening: Opening) -> None:
        self.run = opening
        cores = "1 thread" if opening.threads == 1 else f"{opening.threads} threads"
        source, target = opening.vocabulary
        device = opening.device          # why it is this one stands in the first line, if anywhere
        if self.place:
            device = device.replace(self.place, self.place.partition(":")[0])
        self.say(f"run     {opening.folder}  ({device}, {cores})")
        words = f"{source:,}" if source == target else f"{source:,} and {target:,}"
        self.say(f"text    {opening.pairs:,} sentence pairs to learn from, {opening.valid:,} to validate with; "
                 f"vocabulary {words}")
        self.say(f"model   {opening.model}: {opening.parameters:,} parameters")
        until = [f"{opening.last_step:,} steps"] if opening.last_step is not None else []
        until += [f"{opening.minutes:g} minutes"] if opening.minutes is not None else []
        self.say(f"train   {'from step ' + format(opening.step, ',') + ' ' if opening.step else ''}for "
                 f"{' or '.join(until)}; Ctrl-C saves and stops")
        if opening.step == 0:
            self.say("        the first step takes longest: it compiles what is not compiled yet", "dim")
        if self.moving and not self.quiet:
            self.bar = Progress(TextColumn("{task.description}"), BarColumn(bar_width=24),
                                TextColumn("{task.fields[text]}"), console=self.console, transient=True)
            self.task = self.bar.add_task("step 0", total=1.0, text="")
            self.bar.start()

    def first_step(self, seconds: float) -> None:
        if seconds >= 2:
            self.say(f"        first step done after {seconds:.0f} s", "dim")

    def stepped(self, metrics: dict[str, Any]) -> None:
        share, left = self._outlook(metrics)
        text = (f"loss {metrics['loss']:.3f}  lr {metrics['lr']:.1e}  {metrics['tokens_per_s']:,.0f} tokens/s"
                + ("" if left is None else f"  {clock(left)} left"))
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=share, text=text, description=f"step {metrics['step']:,}")
        elif time.monotonic() - self.printed >= EVERY:
            self.say(f"step {metrics['step']:>7,}  {text}")
            self.printed = time.monotonic()

    def _outlook(self, metrics: dict[str, Any]) -> tuple[float, float | None]:
        """The share of the run that is done, and the seconds that are left, once there is a pace to tell them from."""
        assert self.run is not None
        step, seconds = metrics["step"], metrics["seconds"]
        if self.early is None:
            self.early = (step, seconds)                  # after the first step, which is like no other
            return 0.0, None
        pace = (seconds - self.early[1]) / max(step - self.early[0], 1)
        left = [pace * (self.run.last_step - step)] if self.run.last_step is not None else []
        left += [60 * self.run.minutes - seconds] if self.run.minutes is not None else []
        ahead = max(min(left, default=0.0), 0.0)
        return seconds / max(seconds + ahead, 1e-9), ahead

    def validated(self, metrics: dict[str, Any], samples: list[Sample], best: bool) -> None:
        praise = "  (best so far)" if best else ""
        self.say(f"step {metrics['step']:>7,}  validation: loss {metrics['valid_loss']:.3f}  BLEU {metrics['bleu']:.1f}"
                 f"  chrF {metrics['chrf']:.1f}  exact {metrics['exact_match']:.1%}{praise}", "bold")
        for sample in samples:
            right = sample.translation == sample.reference
            wanted = "" if right else f"  [{sample.reference}]"
            self.say(f"          {sample.source}  ->  {sample.translation}{wanted}", "green" if right else "")

    def judged(self, right: bool, text: str) -> None:
        self.say(f"        {text}", "dim" if right else "yellow")

    def stopping(self) -> None:
        with suppress(OSError):          # unbuffered, because the signal may have come in the middle of a print
            os.write(2, b"\nStopping after this step, and saving. Once more stops at once.\n")

    def closing(self) -> None:
        if self.bar is not None:
            with suppress(OSError):
                self.bar.stop()
            self.bar = None


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
