"""Blocks of threads that run a compiled kernel: each instruction for all threads of many blocks at once.

Threads at the same basic block run it together; where they part, those whose block comes first in the text go on, until
the others are met again. At an instruction that a warp does together its threads wait for each other, at a barrier all
threads of a block. A basic block is written as a Python function over NumPy arrays.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from .arithmetic import HELD, Writer, variable
from .memory import WARP, Fault, Global
from .moving import names, statements
from .parsing import Block, Instruction, Program, Unknown, parse
from .run import Run, special
from .traffic import Traffic

Array = np.ndarray
MOST_LANES = 4096  # threads that run side by side
MOST_STEPS = 2_000_000  # basic blocks of one launch, before it is held to run for ever


class Machine:
    """A compiled kernel, ready to be launched."""

    def __init__(self, text: str) -> None:
        self.program = parse(text)
        self._writer = Writer(self.program.registers, self.program.shared)
        self._writer.names |= {"np": np, "special": special}
        shared = _crossing(self.program)
        self._run = [self._compiled(n, block, shared) for n, block in enumerate(self.program.blocks)]
        self.visits = [0] * len(self._run)  # how often each basic block has been run

    def launch(self, grid: Sequence[int], block: Sequence[int], shared_bytes: int, arguments: Sequence[Any],
               arrays: Sequence[Array], traffic: Traffic | None = None) -> None:  # fmt: skip
        """Run all blocks. arguments: the numbers that a driver would copy; arrays: the memory that they point into;
        traffic: what counts accesses to memory.

        Raises Fault, in words that name block and thread.
        """
        memory, threads, total = Global(arrays), math.prod(block), math.prod(grid)
        padded = -(-threads // WARP) * WARP
        at_once = max(1, MOST_LANES // padded)
        with np.errstate(all="ignore"):
            for first in range(0, total, at_once):
                count = min(at_once, total - first)
                run = Run(self.program, grid, block, first, count, shared_bytes, memory, traffic)
                try:
                    self._steps(run, arguments)
                except Fault as e:
                    raise Fault(f"{run.where(e.lane)}: {e}", e.lane) from e

    def _steps(self, run: Run, arguments: Sequence[Any]) -> None:
        registers: dict[str, Any] = {}
        for name, value in zip(self.program.parameters, arguments, strict=True):
            registers[name] = _as_held(value, self.program.registers[name])
        waiting: dict[int, Array] = {0: run.exist.copy()}
        for _ in range(MOST_STEPS):
            if not waiting:
                run.copies.finish()
                return
            at, active = self._next(run, waiting)
            self._go(run, registers, waiting, at, active)
        raise Fault(f"{MOST_STEPS} steps, and no end", int(np.flatnonzero(next(iter(waiting.values())))[0]))

    def _next(self, run: Run, waiting: dict[int, Array]) -> tuple[int, Array]:
        """The first basic block for which threads are complete, and those threads."""
        for at in sorted(waiting):
            active, kind = waiting[at], self.program.blocks[at].waits
            complete = active if not kind else run.complete(active, kind)
            if complete is active or complete.any():
                rest = active & ~complete
                if complete is active or not rest.any():
                    del waiting[at]
                else:
                    waiting[at] = rest
                return at, complete
        at = min(waiting)
        lane = int(np.flatnonzero(waiting[at])[0])
        others = [self._line(b) for b in sorted(waiting) if b != at]
        raise Fault(f"threads wait at line {self._line(at)} of the PTX for others, which wait at {others} or have "
                    "ended", lane)  # fmt: skip

    def _line(self, at: int) -> int:
        instructions = self.program.blocks[at].instructions
        return instructions[0].line if instructions else 0

    def _go(self, run: Run, registers: dict[str, Any], waiting: dict[int, Array], at: int, active: Array) -> None:
        run.turn_to(active)
        condition = self._run[at](registers, run)
        self.visits[at] += 1
        block = self.program.blocks[at]

        def send(to: int, lanes: Array) -> None:
            waiting[to] = waiting[to] | lanes if to in waiting else lanes

        if block.ends:
            return
        if not block.branch:
            send(at + 1, active)
            return
        target = self.program.labels[block.branch]
        if not block.condition:
            send(target, active)
        elif isinstance(condition, Array) and condition.ndim:
            taken = active & (condition != block.negated)
            left = active & ~taken
            if taken.any():
                send(target, taken)
            if left.any():
                send(at + 1, left)
        else:
            send(target if bool(condition) != block.negated else at + 1, active)

    def _compiled(self, n: int, block: Block, crossing: set[str]) -> Callable[[dict[str, Any], Run], Any]:
        """A basic block as a function of the registers and the run: -> the condition of its branch."""
        w, body = self._writer, []
        read, written = _uses(block)
        for name in sorted(read & crossing):
            body.append(f"{variable(name)} = R.get({name!r})")
        for instruction in block.instructions:
            try:
                body += statements(w, instruction)
            except (Unknown, KeyError, ValueError) as e:
                raise Unknown(f"line {instruction.line}: {instruction.code} {instruction.operands}: {e}") from e
        kept = sorted(written & crossing)
        body += [f"R[{name!r}] = X.kept({variable(name)}, R.get({name!r}))" for name in kept]
        body.append(f"return {variable(block.condition[1:])}" if block.condition else "return None")
        text = f"def block_{n}(R, X):\n" + "".join(f"    {line}\n" for line in body)
        exec(compile(text, f"<PTX {self.program.name[:60]} {n}>", "exec"), w.names)
        return w.names[f"block_{n}"]


def _as_held(value: Any, kind: str) -> Any:
    """An argument as its register holds it."""
    held = np.dtype(HELD[kind])
    if held.kind == "f":
        return held.type(value)
    return np.frombuffer((int(value) % (1 << 8 * held.itemsize)).to_bytes(held.itemsize, "little"), held)[0]


def _crossing(program: Program) -> set[str]:
    """Registers that live beyond a basic block."""
    places: dict[str, set[int]] = {}
    for n, block in enumerate(program.blocks):
        read, written = _uses(block)
        for name in read | written:
            places.setdefault(name, set()).add(n)
    within = {name for name, at in places.items() if len(at) == 1}
    return (set(places) - within) | {name for block in program.blocks for name in _read_first(block)}


def _parts(i: Instruction) -> tuple[list[str], list[str]]:
    """(registers that it reads, registers that it writes)."""
    stores = i.code.startswith(("st.", "cp.async", "bar.sync", "bar.warp", "barrier"))
    written = [] if stores or not i.operands else names(i.operands[0])
    read = [name for operand in i.operands[0 if stores else 1 :] for name in names(operand)]
    return read, written


def _uses(block: Block) -> tuple[set[str], set[str]]:
    read, written = set(names(block.condition)), set()
    for i in block.instructions:
        r, w = _parts(i)
        read |= set(r)
        written |= set(w)
    return read, written


def _read_first(block: Block) -> set[str]:
    """Registers that a block reads before it writes them: they come from elsewhere, if from itself in a loop."""
    first: set[str] = set()
    written: set[str] = set()
    for i in block.instructions:
        r, w = _parts(i)
        first |= set(r) - written
        written |= set(w)
    return first | (set(names(block.condition)) - written)


@lru_cache(256)
def machine(text: str) -> Machine:
    """The machine for a PTX text."""
    return Machine(text)
