"""The line at a translator's door: everybody's turn, what is not wanted any more, and how much may wait."""
from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from microtfm.waiting import PORTION, Busy, Line

Pieces = list[list[int]]


class Slow:
    """A translator that waits to be let go, fails where it is told to, and goes on for ever where it is told to."""

    def __init__(self) -> None:
        self.beam, self.go, self.begun = 2, threading.Event(), threading.Event()
        self.on_token: Callable[[], None] = lambda: None
        self.calls: list[tuple[Pieces, int]] = []

    def translate_pieces(self, pieces: Pieces, n: int) -> list[list[str]]:
        self.begun.set()
        self.go.wait(30)
        self.calls.append((pieces, n))
        if [13] in pieces:
            raise ValueError("told to")
        while [0] in pieces:
            self.on_token()
        return [[f"{piece[0]}.{k}" for k in range(n)] for piece in pieces]


@pytest.fixture
def slow() -> Slow:
    return Slow()


@pytest.fixture
def line(slow: Slow) -> Iterator[Line]:
    made = Line(slow, 100_000)  # type: ignore[arg-type]
    yield made
    slow.go.set()
    made.close()


def test_a_portion_holds_a_bounded_number_of_tokens_and_some_of_everybody(slow: Slow, line: Line) -> None:
    long = line.add([[7] * 100 for _ in range(200)], 1)
    assert slow.begun.wait(30)
    short, other = line.add([[1, 2], [3] * 32], 1), line.add([[4]], 3)
    slow.go.set()
    assert long.result(30) == [["7.0"]] * 200
    assert short.result(30) == [["1.0"], ["3.0"]]
    assert other.result(30) == [["4.0", "4.1", "4.2"]]
    assert all(sum(map(len, pieces)) * max(2, n) <= PORTION for pieces, n in slow.calls)
    places = [next(i for i, (pieces, _) in enumerate(slow.calls) if wanted in pieces)
              for wanted in ([1, 2], [3] * 32, [4])]
    assert places[0] == places[1] and max(places) <= 3       # one under way, then one of each who waits
    assert slow.calls[places[0]][0] == [[1, 2], [3] * 32]    # and no longer piece, with which it would take longer


def test_many_short_lines_do_not_wait_for_the_end_of_long_texts(slow: Slow, line: Line) -> None:
    long = [line.add([[number] * 100 for _ in range(400)], 1) for number in (7, 8)]
    assert slow.begun.wait(30)
    short = line.add([[1, 2] for _ in range(3000)], 1)
    slow.go.set()
    assert short.result(30) == [["1.0"]] * 3000 and [each.result(30)[0] for each in long] == [["7.0"], ["8.0"]]
    assert max(i for i, (pieces, _) in enumerate(slow.calls) if [1, 2] in pieces) <= 25


def test_what_is_longer_than_a_portion_is_one_by_itself(slow: Slow, line: Line) -> None:
    slow.go.set()
    assert line.add([[5] * PORTION, [6] * PORTION], 1).result(30) == [["5.0"], ["6.0"]]
    assert [len(pieces) for pieces, _ in slow.calls] == [1, 1]


def test_nothing_is_done_that_nobody_waits_for(slow: Slow, line: Line) -> None:
    first = line.add([[0]], 1)
    assert slow.begun.wait(30)
    dropped, last = line.add([[8]], 1), line.add([[9]], 1)
    assert dropped.cancel() and first.cancel()
    slow.go.set()                        # what goes on for ever is ended at its next token
    assert last.result(30) == [["9.0"]]
    assert [pieces for pieces, _ in slow.calls] == [[[0]], [[9]]]


def test_too_much_is_refused_but_never_where_nobody_waits(slow: Slow) -> None:
    line = Line(slow, 100)  # type: ignore[arg-type]
    first = line.add([[1] * 99] * 3, 1)
    with pytest.raises(Busy):
        line.add([[2]], 1)
    assert line.add([], 1).result(30) == []
    slow.go.set()
    assert first.result(30) == [["1.0"]] * 3
    assert line.add([[2]], 1).result(30) == [["2.0"]]
    line.close()


def test_what_fails_is_raised_where_it_is_awaited_and_the_next_is_served(slow: Slow, line: Line) -> None:
    slow.go.set()
    assert isinstance(line.add([[13]], 1).exception(30), ValueError)
    assert line.add([[2]], 1).result(30) == [["2.0"]]


def test_a_call_takes_its_turn(slow: Slow, line: Line) -> None:
    long = line.add([[7] * 100 for _ in range(200)], 1)
    assert slow.begun.wait(30)
    called = line.call(lambda: len(slow.calls), [1])
    slow.go.set()
    assert called.result(30) == 1
    assert isinstance(line.call(lambda: 1 // 0, [1]).exception(30), ZeroDivisionError)
    assert len(long.result(30)) == 200


def test_it_closes_in_the_midst_of_a_portion(slow: Slow) -> None:
    line = Line(slow, 100)  # type: ignore[arg-type]
    slow.go.set()
    line.add([[0]], 1)
    assert slow.begun.wait(30)
    line.close()
