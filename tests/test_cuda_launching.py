"""Arguments of a launch: what the driver finds at the addresses that it is given."""
import ctypes
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest

from engine.kernels.cuda.launching import CODES, DEFAULT_SHARED, Launcher

KINDS = {"int64": ctypes.c_int64, "uint64": ctypes.c_uint64, "int32": ctypes.c_int32, "uint32": ctypes.c_uint32,
         "int16": ctypes.c_int16, "uint16": ctypes.c_uint16, "int8": ctypes.c_int8, "uint8": ctypes.c_uint8,
         "bool": ctypes.c_bool, "float32": ctypes.c_float, "float64": ctypes.c_double}
SHAPE = (3, 2, 1), (256, 1, 1), 0


class Driver:
    """It reads what it is told to launch with, as the card's would."""

    def __init__(self, elements):
        self.elements, self.launches, self.contexts, self.allowed = elements, [], 0, []
        self.launcher = Launcher("tested", 77, elements, self.launch, lambda: 5, self.context, self.allowed.append)

    def context(self):
        self.contexts += 1

    def launch(self, function, *rest):
        *shape, stream, table, extra = rest
        assert (function, stream, extra) == (77, 5, 0)
        addresses = (ctypes.c_void_p * len(self.elements)).from_address(table)
        read = [KINDS[e].from_address(a).value for e, a in zip(self.elements, addresses, strict=True)]
        self.launches.append((tuple(shape), read))


def test_every_type_is_read_as_it_was_given():
    driver = Driver([*CODES, "bool", "int64"])
    values = [-2**63, 2**64 - 1, -2**31, 2**32 - 1, -2**15, 2**16 - 1, -128, 255, True, 1.5, 0.1, False, 2**40]
    driver.launcher(SHAPE, values)
    driver.launcher(SHAPE, [0, 0, 0, 0, 0, 0, 0, 0, np.bool_(True), np.inf, np.float32(0.5), True, np.int32(7)])
    assert driver.launches == [((3, 2, 1, 256, 1, 1, 0), values),
                               ((3, 2, 1, 256, 1, 1, 0), [0, 0, 0, 0, 0, 0, 0, 0, True, np.inf, 0.5, True, 7])]
    assert driver.contexts == 1


@pytest.mark.parametrize(("values", "why"), [([2**31, 1.0], "-2147483648 <= number"), ([1.5, 1.0], "not an integer"),
                                             ([1, "x"], "not a float"), ([1], "expected 2")])
def test_what_does_not_fit_is_refused_with_the_kernels_name(values, why):
    driver = Driver(["int32", "float32"])
    with pytest.raises(TypeError, match=rf"kernel tested takes \(int32, float32\), not .*{why}"):
        driver.launcher(SHAPE, values)
    assert driver.launches == []


def test_more_shared_memory_is_asked_for_once():
    driver = Driver(["int32"])
    for nbytes in (0, DEFAULT_SHARED, 100_000, 90_000, 100_000, 120_000):
        driver.launcher((*SHAPE[:2], nbytes), [1])
    assert driver.allowed == [100_000, 120_000]
    driver.launcher.reserve(200_000)                     # as a recorded step does before it runs
    driver.launcher((*SHAPE[:2], 200_000), [1])
    assert driver.allowed == [100_000, 120_000, 200_000] and driver.launches.pop()[0][-1] == 200_000
    assert [shape[-1] for shape, _ in driver.launches] == [0, DEFAULT_SHARED, 100_000, 90_000, 100_000, 120_000]


def test_threads_do_not_write_over_each_others_arguments():
    """Each waits in the driver until all have written theirs."""
    driver, meeting = Driver(["int64"]), Barrier(4, timeout=30)
    read = driver.launch

    def launch(*arguments):
        meeting.wait()
        read(*arguments)

    driver.launcher._launch = launch
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: driver.launcher(SHAPE, [n]), range(4)))
    assert sorted(values[0] for _, values in driver.launches) == [0, 1, 2, 3] and driver.contexts == 1 + 4
