"""What attention leaves out of its sums: masked keys, whatever lies there.

A masked key has the weight 0, which adds nothing as long as what it weighs is finite. Where a NaN or an infinity is
found, the sum is made again without it, and so that it can be told from a weight that is only very small, the 0 of a
masked key is negative.
"""

import numpy as np

from ..compiled import scalar
from .jit import jit

UNSEEN = np.float32(-0.0)
LARGEST = np.float32(np.finfo(np.float32).max)


@jit
def is_seen(weight):
    return scalar.bits(weight) != np.int32(-0x80000000)


@jit
def not_finite(a, b, c, d):
    return not (abs(a) <= LARGEST and abs(b) <= LARGEST and abs(c) <= LARGEST and abs(d) <= LARGEST)


@jit
def sum_of_seen(total, weights, at, step, x, start, row, count):
    """total and `count` weights times numbers, `step` and `row` apart, in ascending order."""
    for n in range(count):
        weight = weights[at + n * step]
        if is_seen(weight):
            total = scalar.fma(weight, x[start + n * row], total)
    return total


@jit
def rows_of_seen(new, old, weights):
    """Of a tile of 4 × 4 each row of the new one where its weight counts, else of the old one."""
    a, b, c, d = is_seen(weights[0]), is_seen(weights[1]), is_seen(weights[2]), is_seen(weights[3])
    return (
        new[0] if a else old[0], new[1] if a else old[1], new[2] if a else old[2], new[3] if a else old[3],
        new[4] if b else old[4], new[5] if b else old[5], new[6] if b else old[6], new[7] if b else old[7],
        new[8] if c else old[8], new[9] if c else old[9], new[10] if c else old[10], new[11] if c else old[11],
        new[12] if d else old[12], new[13] if d else old[13], new[14] if d else old[14], new[15] if d else old[15],
    )  # fmt: skip
