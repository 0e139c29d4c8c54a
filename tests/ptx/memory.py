"""Memory as compiled kernels see it: addresses, and what a card does not forgive.

Global memory is the launch's own arrays, at their addresses. Shared memory is one array for all blocks that run side by
side, and addresses in it are offsets. Faults: an access outside of what a launch was given, one at an address that its
width does not divide, and two threads that meet at a word without a barrier between them, one of them writing. Blocks
have no barrier: none may write a word of global memory that another reads, or to which it writes another number.
"""
from __future__ import annotations

import bisect
import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray
WARP = 32
NOBODY, SEVERAL = -1, -2  # who has touched a word: else a thread, or several threads of one warp


def of_warp(warp: Any) -> Any:
    """The mark of several threads of a warp."""
    return -3 - warp


def warp_of(who: Any) -> Any:
    """The warp of a mark, or of a thread."""
    return np.where(who <= -3, -3 - who, who // WARP)


class Fault(Exception):
    """What a card forbids or leaves undefined; `lane` did it."""

    def __init__(self, what: str, lane: int) -> None:
        super().__init__(what)
        self.lane = lane


@dataclass
class Buffer:
    """Memory from one address to another, and as which arrays it can be seen."""

    start: int
    end: int
    begin: int  # a multiple of 16 not behind the start
    views: dict[int, Array]
    touched: dict[int, Users]  # of words, and of bytes where they are accessed by one or two


class Users:
    """Which blocks have written and read each word."""

    NOBODY, SEVERAL = 0, -1  # else the number of the block, and 1

    def __init__(self, words: int) -> None:
        self.writer, self.reader = np.zeros(words, np.int64), np.zeros(words, np.int64)  # without memory until used

    def read(self, word: Array, blocks: Array) -> int | None:
        """Note that blocks read: -> the place of a word that another has written."""
        mine, known = blocks + 1, self.reader[word]
        self.reader[word] = np.where((known == self.NOBODY) | (known == mine), mine, self.SEVERAL)
        self.reader[word[self.reader[word] != mine]] = self.SEVERAL
        return self._other(self.writer[word], mine)

    def write(self, word: Array, blocks: Array, changed: Array) -> int | None:
        """Note that blocks write: -> the place of a word that another reads, or has written otherwise (`changed`)."""
        mine = blocks + 1
        read, written = self._other(self.reader[word], mine), self._other(np.where(changed, self.writer[word], 0), mine)
        self.writer[word] = mine
        return written if read is None else read

    def _other(self, known: Array, mine: Array) -> int | None:
        other = np.flatnonzero((known != self.NOBODY) & (known != mine))
        return int(other[0]) if len(other) else None


class Global:
    """The memory that a launch was given. `block_of`: the number of each lane's block."""

    def __init__(self, arrays: Sequence[Array]) -> None:
        self._kept = arrays
        spans = sorted(span for array in arrays if (span := _span(array)) is not None)
        merged: list[list[int]] = []
        for start, end in spans:
            if merged and start <= merged[-1][1]:
                merged[-1][1] = max(end, merged[-1][1])
            else:
                merged.append([start, end])
        self._buffers = [_buffer(start, end) for start, end in merged]
        self._starts = [b.start for b in self._buffers]
        self.block_of = np.zeros(0, np.int64)

    def load(self, address: Array, width: int, lanes: Array) -> Array:
        """Words of so many bytes, as unsigned numbers; `lanes` are the threads, for messages."""
        out = np.empty(len(address), f"u{width}")
        for buffer, chosen in self._places(address, width, lanes):
            at = address[chosen] - buffer.begin
            users, word = self._users(buffer, at, width)
            self._refuse(users.read(word, self.block_of[lanes[chosen]]), lanes[chosen])
            out[chosen] = buffer.views[width][at // width]
        return out

    def store(self, address: Array, words: Array, lanes: Array) -> None:
        width = words.dtype.itemsize
        for buffer, chosen in self._places(address, width, lanes):
            at, view, given = address[chosen] - buffer.begin, buffer.views[width], words[chosen]
            users, word = self._users(buffer, at, width)
            changed = view[at // width] != given
            self._refuse(users.write(word, self.block_of[lanes[chosen]], changed), lanes[chosen])
            view[at // width] = given
            differ = np.flatnonzero(view[at // width] != given)
            if len(differ):
                raise Fault("another thread writes another number to the same word of global memory by the same "
                            "instruction", int(lanes[chosen][differ[0]]))  # fmt: skip

    def _users(self, buffer: Buffer, at: Array, width: int) -> tuple[Users, Array]:
        """Who uses what an access moves; of 8 bytes the first 4 stand for all."""
        unit = 4 if width >= 4 else 1
        return buffer.touched[unit], at // unit

    def _refuse(self, place: int | None, lanes: Array) -> None:
        if place is not None:
            raise Fault("another block uses this word of global memory, and one of both writes it", int(lanes[place]))

    def _places(self, address: Array, width: int, lanes: Array) -> Any:
        low, high = int(address.min()), int(address.max())
        at = bisect.bisect_right(self._starts, low) - 1
        if at >= 0 and high + width <= self._buffers[at].end:
            return [(self._buffers[at], slice(None))]
        found = np.searchsorted(self._starts, address, "right") - 1
        ends = np.array([b.end for b in self._buffers], np.int64)
        outside = np.flatnonzero((found < 0) | (address + width > ends[found] if len(ends) else True))
        if len(outside):
            lane = outside[0]
            raise Fault(f"{width} bytes of global memory, {self._near(int(address[lane]))}", int(lanes[lane]))
        return [(self._buffers[i], np.flatnonzero(found == i)) for i in np.unique(found)]

    def from_begin(self, address: Array) -> Array:
        """Addresses as they would be if the first array began at a multiple of 128 bytes, as memory of a card does."""
        found = np.clip(np.searchsorted(self._starts, address, "right") - 1, 0, None)
        return address - np.array(self._starts, np.int64)[found] % 128

    def _near(self, address: int) -> str:
        at = bisect.bisect_right(self._starts, address) - 1
        if at < 0:
            return "before all that the launch was given"
        size, offset = self._buffers[at].end - self._starts[at], address - self._starts[at]
        return f"{offset} bytes from the beginning of an array of {size}"


def _span(array: Array) -> tuple[int, int] | None:
    """The addresses between which an array lies."""
    if not array.size:
        return None
    low, high = np.lib.array_utils.byte_bounds(array)
    return int(low), int(high)


def _buffer(start: int, end: int) -> Buffer:
    begin = start // 16 * 16
    raw = (ctypes.c_ubyte * (-(-(end - begin) // 16) * 16)).from_address(begin)
    memory = np.ctypeslib.as_array(raw)
    views = {width: memory.view(f"u{width}") for width in (1, 2, 4, 8)}
    return Buffer(start, end, begin, views, {unit: Users(len(memory) // unit) for unit in (1, 4)})


def check_alignment(address: Array, width: int, lanes: Array, what: str) -> None:
    """Raises Fault where an access begins at no multiple of its width."""
    wrong = address & (width - 1)
    if wrong.any():
        lane = int(np.flatnonzero(wrong)[0])
        raise Fault(f"misaligned: {width} bytes of {what} memory at {int(address[lane]):#x}", int(lanes[lane]))


class Touched:
    """Who has written and read each word, and when: times are counted in barriers."""

    def __init__(self, words: int) -> None:
        self.writer, self.reader = np.full(words, NOBODY), np.full(words, NOBODY)
        self.written, self.read = np.zeros(words, np.int64), np.zeros(words, np.int64)


class Shared:
    """The shared memory of the blocks that run side by side, and who has touched it since the last barrier."""

    def __init__(self, blocks: int, size: int, threads: int) -> None:
        self.size, self.stride = size, -(-size // 16) * 16
        self.bytes = np.full(blocks * self.stride, 0xFF, np.uint8)  # NaN, as floats
        self._views = {width: self.bytes.view(f"u{width}") for width in (1, 2, 4, 8)}
        self._threads, self._block_of = threads, np.repeat(np.arange(blocks), threads)
        self._base = self._block_of * self.stride
        self._under_way = np.zeros(blocks * self.stride // 4, bool)
        self._touched = {4: Touched(blocks * self.stride // 4), 1: Touched(blocks * self.stride)}
        self._epoch, self._warps_epoch = np.ones(blocks, np.int64), np.zeros(blocks * threads // WARP, np.int64)
        self._clock = 1

    def load(self, address: Array, width: int, lanes: Array) -> Array:
        """Words of so many bytes."""
        at = self._place(address, width, lanes)
        self._touch(at, width, lanes, writes=False)
        return self._views[width][at // width]

    def store(self, address: Array, words: Array, lanes: Array) -> None:
        width = words.dtype.itemsize
        at = self._place(address, width, lanes)
        self._touch(at, width, lanes, writes=True)
        self._views[width][at // width] = words

    def begin_copies(self, address: Array, lanes: Array) -> None:
        """Words of 4 bytes that are written from now on, until `end_copies`."""
        at = self._place(address, 4, lanes)
        self._touch(at, 4, lanes, writes=True)
        self._under_way[at // 4] = True

    def end_copies(self, address: Array, words: Array, lanes: Array) -> None:
        """The words are there, for the threads that asked for them; for others behind the next barrier."""
        self._under_way[self._place(address, 4, lanes) // 4] = False
        self.store(address, words, lanes)

    def meet(self, lanes: Array, whole_block: bool) -> None:
        """These threads have met at a barrier: what they did before is behind them."""
        self._clock += 1
        if whole_block:
            self._epoch[self._block_of[lanes]] = self._clock
        else:
            self._warps_epoch[lanes // WARP] = self._clock

    def _place(self, address: Array, width: int, lanes: Array) -> Array:
        if address.min() < 0 or address.max() + width > self.size:
            lane = int(np.flatnonzero((address < 0) | (address + width > self.size))[0])
            raise Fault(f"{width} bytes of shared memory at {int(address[lane])}: a block has {self.size}",
                        int(lanes[lane]))  # fmt: skip
        return address + self._base[lanes]

    def _touch(self, at: Array, width: int, lanes: Array, writes: bool) -> None:
        """Hold an access against those of other threads. What is accessed by bytes is never accessed by words."""
        copied = self._under_way[at // 4]
        if copied.any():
            raise Fault("a copy to this word of shared memory is under way", int(lanes[np.flatnonzero(copied)[0]]))
        unit = min(width, 4)
        touched = self._touched[4 if unit == 4 else 1]
        for word in (at // unit + n for n in range(width // unit)) if unit == 4 else (at,):
            self._against(touched.writer, touched.written, word, lanes, "writes")
            if writes:
                self._against(touched.reader, touched.read, word, lanes, "reads")
                touched.writer[word], touched.written[word] = lanes, self._clock
                other = touched.writer[word] != lanes
                if other.any():
                    self._race(int(np.flatnonzero(other)[0]), lanes, int(touched.writer[word[other][0]]), "writes")
            else:
                self._note_reader(touched, word, lanes)

    def _note_reader(self, touched: Touched, word: Array, lanes: Array) -> None:
        """Who reads a word: one thread, several of one warp, or SEVERAL."""
        known = np.where(touched.read[word] >= self._since(lanes), touched.reader[word], NOBODY)
        who, warp = touched.reader, of_warp(lanes // WARP)
        who[word], touched.read[word] = lanes, self._clock
        several = who[word] != lanes
        if several.any():
            who[word[several]] = warp[several]
            now = who[word]
            apart = (now <= of_warp(0)) & (now != warp)
            who[word[apart]] = SEVERAL
        now = who[word]
        differ = (known != NOBODY) & (known != now)
        if differ.any():
            one, other = known[differ], now[differ]
            same = (warp_of(one) == warp_of(other)) & (one != SEVERAL)
            who[word[differ]] = np.where(same, of_warp(warp_of(one)), SEVERAL)

    def _since(self, lanes: Array) -> Array:
        """The time of the last barrier of each thread's block."""
        return self._epoch[self._block_of[lanes]]

    def _against(self, who: Array, when: Array, word: Array, lanes: Array, does: str) -> None:
        """Raise Fault where another thread has done this to a word, and no barrier was between them."""
        other, time = who[word], when[word]
        open_ = (time >= self._since(lanes)) & (other != NOBODY) & (other != lanes)
        if not open_.any():
            return
        same_warp = (other != SEVERAL) & (warp_of(other) == lanes // WARP)
        open_ &= ~(same_warp & (time < self._warps_epoch[lanes // WARP]))
        if open_.any():
            first = int(np.flatnonzero(open_)[0])
            self._race(first, lanes, int(other[first]), does)

    def _race(self, place: int, lanes: Array, other: int, does: str) -> None:
        lane = int(lanes[place])
        if other == SEVERAL:
            who = "other warps"
        elif other < 0:
            who = f"a thread of {'its own' if warp_of(other) == lane // WARP else 'another'} warp"
        else:
            who = f"thread {other % self._threads} of its block"
        raise Fault(f"a race: {who} {does} the same word of shared memory, and no barrier is between", lane)


@dataclass
class _Copy:
    """A cp.async: its threads, their groups, where to, and the words that were read."""

    lanes: Array
    group: Array
    address: Array
    words: Array  # (threads, words of 4 bytes)


class Copies:
    """Copies to shared memory that threads have asked for and not waited for."""

    def __init__(self, threads: int, shared: Shared) -> None:
        self._group = np.zeros(threads, np.int64)
        self._shared = shared
        self._under_way: list[_Copy] = []

    def ask(self, lanes: Array, address: Array, words: Array) -> None:
        for n in range(words.shape[1]):
            self._shared.begin_copies(address + 4 * n, lanes)
        self._under_way.append(_Copy(lanes, self._group[lanes], address, words))

    def commit(self, lanes: Array) -> None:
        self._group[lanes] += 1

    def wait(self, lanes: Array, but: int) -> None:
        """Until all groups have arrived but the last `but`; those not committed are no group yet."""
        waiting = np.zeros(len(self._group), bool)
        waiting[lanes] = True
        left = []
        for copy in self._under_way:
            there = waiting[copy.lanes] & (copy.group < self._group[copy.lanes] - but)
            if there.any():
                for n in range(copy.words.shape[1]):
                    self._shared.end_copies(copy.address[there] + 4 * n, copy.words[there, n], copy.lanes[there])
            if not there.all():
                stay = ~there
                left.append(_Copy(copy.lanes[stay], copy.group[stay], copy.address[stay], copy.words[stay]))
        self._under_way = left

    def finish(self) -> None:
        """Raises Fault where a thread has ended before its copies had arrived."""
        if self._under_way:
            raise Fault("a thread ends while copies that it asked for are under way",
                        int(self._under_way[0].lanes[0]))  # fmt: skip
