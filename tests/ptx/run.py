"""Blocks of a launch that run side by side: their special registers, their memory, and how their threads meet."""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import warps
from .memory import WARP, Copies, Fault, Global, Shared, check_alignment
from .parsing import Program, Unknown
from .traffic import Traffic

Array = np.ndarray


class Run:
    """Blocks of a launch that run side by side, a lane for each thread; warps are filled up with lanes that do not
    exist."""

    def __init__(self, program: Program, grid: Sequence[int], block: Sequence[int], first: int, count: int,
                 shared_bytes: int, memory: Global, traffic: Traffic | None) -> None:  # fmt: skip
        threads = math.prod(block)
        self.threads = -(-threads // WARP) * WARP
        self.lanes = np.arange(count * self.threads)
        thread, number_of = self.lanes % self.threads, first + self.lanes // self.threads
        self.exist = thread < threads
        found: dict[str, Any] = {"laneid": thread % WARP, "dynamic_smem_size": np.int64(shared_bytes)}
        for axis, name in enumerate("xyz"):
            found[f"tid_{name}"] = thread // math.prod(block[:axis]) % block[axis]
            found[f"ctaid_{name}"] = number_of // math.prod(grid[:axis]) % grid[axis]
            found[f"ntid_{name}"], found[f"nctaid_{name}"] = np.int64(block[axis]), np.int64(grid[axis])
        self.special = {name: value.astype(np.int32) for name, value in found.items()}
        memory.block_of = number_of
        self.memory, self._traffic = memory, traffic
        self.shared = Shared(count, program.shared_bytes + shared_bytes, self.threads)
        self.copies = Copies(len(self.lanes), self.shared)
        self.active, self.here = self.exist, self.lanes
        self.mask: Array | None = None  # None: everybody

    def where(self, lane: int) -> str:
        """A lane's block and thread."""
        b, t = ([int(self.special[f"{name}_{axis}"][lane]) for axis in "xyz"] for name in ("ctaid", "tid"))
        return f"block {tuple(b)}, thread {tuple(t)}"

    def complete(self, active: Array, kind: str) -> Array:
        """Those of the threads whose whole warp or block is among them."""
        width = self.threads if kind == "block" else WARP
        groups = ~(self.exist & ~active).reshape(-1, width).any(axis=1)
        found = active & np.repeat(groups, width)
        return active if (found == active).all() else found

    def turn_to(self, active: Array) -> None:
        """The next instructions are for these threads."""
        self.active = active
        everybody = bool(active.all())
        self.mask, self.here = (None, self.lanes) if everybody else (active, np.flatnonzero(active))

    def kept(self, new: Any, old: Any) -> Any:
        """A register after an instruction: the old number in threads for which it was not."""
        if self.mask is None or old is None:
            return new
        return np.where(self.mask, new, old)

    # --- memory -----------------------------------------------------------------------------------
    def load(self, space: str, address: Any, width: int, count: int) -> list[Any]:
        """`count` words, the first at the address: of each lane, or a number where all read the same."""
        lanes, at = self._at(address, every=space == "shared")
        memory = self.memory if space == "global" else self.shared
        self._access(space, "loads", at, width * count, lanes)
        return [self._spread(memory.load(at + width * n, width, lanes), lanes) for n in range(count)]

    def store(self, space: str, address: Any, width: int, values: Sequence[Any]) -> None:
        """Words beside each other."""
        lanes, at = self._at(address, every=True)
        memory = self.memory if space == "global" else self.shared
        self._access(space, "stores", at, width * len(values), lanes)
        for n, value in enumerate(values):
            words = self._of(value, lanes).view(f"u{width}")
            memory.store(at + width * n, words, lanes)

    def ask(self, address: Any, source: Any, size: int, there: Any) -> None:
        """cp.async of `size` bytes, of which the first `there` are read."""
        lanes, at = self._at(address, every=True)
        source, there = self._of(source, lanes), self._of(there, lanes)
        if ((there < 0) | (there > size)).any():
            raise Fault(f"a copy of {int(there.max())} of {size} bytes", int(lanes[0]))
        some = there > 0
        self._access("global", "copies", source[some], size, lanes[some])
        self._access("shared", "copies", at, size, lanes)
        words = np.zeros((len(lanes), size // 4), np.uint32)
        for n in range(size // 4):
            chosen = np.flatnonzero(there >= 4 * n + 4)
            if len(chosen):
                words[chosen, n] = self.memory.load(source[chosen] + 4 * n, 4, lanes[chosen])
        if (there % 4).any():
            raise Fault("a copy of a part of a word", int(lanes[0]))
        self.copies.ask(lanes, at, words)

    def commit(self) -> None:
        self.copies.commit(self.here)

    def wait(self, but: int) -> None:
        self.copies.wait(self.here, but)

    def _access(self, space: str, kind: str, at: Array, width: int, lanes: Array) -> None:
        """Check where an instruction that moves so many bytes a thread begins, and count it."""
        check_alignment(at, width, lanes, space)
        if self._traffic is not None and len(at):
            if space == "shared":
                self._traffic.shared(kind, at, width, lanes)
            else:
                self._traffic.memory(kind, self.memory.from_begin(at), width, lanes)

    def _at(self, address: Any, every: bool = False) -> tuple[Array, Array]:
        """(lanes, address) of an access; a lane stands for its block where all have the same address."""
        if isinstance(address, Array) and address.ndim:
            return self.here, (address if self.mask is None else address[self.here]).astype(np.int64)
        lanes = self.here if every else self.here[np.unique(self.here // self.threads, return_index=True)[1]]
        return lanes, np.full(len(lanes), address, np.int64)

    def _of(self, value: Any, lanes: Array) -> Array:
        if isinstance(value, Array) and value.ndim:
            return value if self.mask is None else value[lanes]
        return np.full(len(lanes), value)

    def _spread(self, words: Array, lanes: Array) -> Any:
        if len(lanes) != len(self.here):
            return words[0]
        if self.mask is None:
            return words
        out = np.zeros(len(self.lanes), words.dtype)
        out[lanes] = words
        return out

    # --- threads that meet ------------------------------------------------------------------------
    def barrier(self) -> None:
        self.shared.meet(self.here, whole_block=True)

    def warp_barrier(self, members: Any) -> None:
        self._everybody(members)
        self.shared.meet(self.here, whole_block=False)

    def any_of_block(self, p: Any) -> Array:
        """bar.red.or: whether it holds for a thread of the block."""
        self.barrier()
        held = self._rows(p, bool, self.threads) & self.active.reshape(-1, self.threads)
        return np.repeat(held.any(axis=1), self.threads)

    def shuffle(self, kind: str, x: Any, by: Any, clamp: Any, members: Any) -> tuple[Array, Array]:
        self._everybody(members)
        made, inside = warps.shuffle(kind, *(self._rows(n, np.int32) for n in (x, by, clamp)))
        return made.ravel(), inside.ravel()

    def vote(self, kind: str, p: Any, members: Any) -> Any:
        self._everybody(members)
        held = self._rows(p, bool) & self.active.reshape(-1, WARP)
        if kind == "ballot":
            return warps.ballot(held).ravel().view(np.int32)
        if kind == "all":
            held |= ~self.active.reshape(-1, WARP)
        return np.repeat(held.all(axis=1) if kind == "all" else held.any(axis=1), WARP)

    def mma(self, kind: str, a: Sequence[Any], b: Sequence[Any], c: Sequence[Any]) -> list[Array]:
        left, right = ([self._rows(x, np.int32) for x in operand] for operand in (a, b))
        return [x.ravel() for x in warps.mma(kind, left, right, [self._rows(x, np.float32) for x in c])]

    def matrices(self, address: Any, count: int) -> list[Array]:
        """ldmatrix of whole warps."""
        rows = self._rows(address, np.int64)
        active = self.active.reshape(-1, WARP).any(axis=1)
        here = self.lanes.reshape(-1, WARP)[active]
        self._access("shared", "ldmatrix", rows[active].ravel(), 16, here.ravel())

        def load(at: Array) -> Array:
            out = np.zeros(rows.shape, np.int32)
            words = self.shared.load(at[active].ravel(), 4, here.ravel())
            out[active] = words.view(np.int32).reshape(-1, WARP)
            return out

        return [x.ravel() for x in warps.matrix_rows(load, rows, count)]

    def _rows(self, x: Any, kind: Any, width: int = WARP) -> Array:
        return np.broadcast_to(np.asarray(x).astype(kind), self.lanes.shape).reshape(-1, width)

    def _everybody(self, members: Any) -> None:
        """Members of a warp are all its lanes: others are not known here."""
        if not (np.asarray(members) == -1).all():
            raise Unknown(f"a warp of which only {members} take part")


def special(name: str, run: Run) -> Any:
    """A special register."""
    return run.special[name]
