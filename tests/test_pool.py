"""The pool of memory for results: what is in use stays as it is, what is not is used again, and there is a limit."""
from __future__ import annotations

import threading

import numpy as np
import pytest

import engine
from engine import Tensor
from engine.kernels.cpu import jit_disabled
from engine.kernels.cpu.pool import SMALLEST, Pool

SIZE = SMALLEST // 4                     # of a float32 array that comes from the pool


def _address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def test_memory_is_used_again() -> None:
    pool = Pool()
    first = _address(pool.empty((4, SIZE), np.float32))
    assert _address(pool.empty((SIZE, 4), np.float32)) == first
    assert _address(pool.empty(2 * SIZE, np.float64)) == first
    assert first % 64 == 0


@pytest.mark.parametrize("view", [lambda a: a, lambda a: a[3:5], lambda a: a.T[::7], memoryview,
                                  lambda a: a.view(np.int32)])
def test_what_anybody_holds_is_not_used_again(view) -> None:
    pool = Pool()
    array = pool.empty((4, SIZE), np.float32)
    address, held = _address(array), view(array)
    del array
    others = [pool.empty((4, SIZE), np.float32) for _ in range(3)]
    assert len({address, *map(_address, others)}) == 4
    del held
    assert address in {_address(pool.empty((4, SIZE), np.float32)), *map(_address, others)}


def test_no_more_is_kept_than_the_limit() -> None:
    pool = Pool(limit=10 * SMALLEST)
    for n in range(1, 30):
        pool.empty(n % 7 * SIZE + SIZE, np.float32)
        assert pool.size <= pool.limit
    assert pool.empty(11 * SIZE, np.float32).flags.owndata
    assert pool.empty(SIZE // 2, np.float32).flags.owndata


def test_results_of_ops_stay_as_they_are() -> None:
    if jit_disabled():
        pytest.skip("there are no kernels")
    x = Tensor(np.random.default_rng(0).standard_normal((64, 512), np.float32))
    kept = [engine.softmax(x * float(k)) for k in range(6)]
    whole = [y.numpy().copy() for y in kept]
    for k in range(20):
        engine.softmax(x * float(-k))
    assert all((y.numpy() == before).all() for y, before in zip(kept, whole, strict=True))


def test_threads_never_share() -> None:
    pool, wrong = Pool(), []

    def work(me: int) -> None:
        for _ in range(300):
            array = pool.empty(SIZE, np.int32)
            array[:] = me
            if (array != me).any():
                wrong.append(me)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
