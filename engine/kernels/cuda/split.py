"""A float32 as the sum of two numbers of TF32, so that tensor cores make products about as exact as float32's.

Rounded to the 11 bits of TF32, a number leaves a rest of 12 bits at most. Of the four products of two such sums the one
of the rests is below the last bit of a float32 and is left out; three are left ("3xTF32" in CUTLASS). Tensor cores cut
off what they add up (Fasi et al., "Numerical behavior of NVIDIA tensor cores", 2021), which makes a long sum ever
smaller, so only eight steps of k are theirs: these sums are added in float32, rounded to nearest (Ootomo & Yokota,
"Recovering single precision accuracy from Tensor Cores while surpassing the FP32 theoretical peak performance", 2022).

The rest of a number below 1e-34 is so small that tensor cores see less of it, so products of such numbers are less
exact than float32's: 6e-6 at 1e-36.

What is infinite, or would be if it were rounded, has no such sum: it makes NaN, and `exact` computes that number again.
"""

import numpy as np

from ..compiled import scalar
from .jit import jit
from .ptx import add_outer


@jit
def split(word):
    """(first, rest): a float32 rounded to TF32, and what that leaves; both and it as their bits."""
    first = np.int32((np.int64(word) + 0x1000) & -0x2000)
    return first, scalar.bits(scalar.from_bits(word) - scalar.from_bits(first))


@jit
def split4(words):
    """Four numbers: (their first parts, their rests)."""
    (a, x), (b, y), (c, z), (d, w) = split(words[0]), split(words[1]), split(words[2]), split(words[3])
    return (a, b, c, d), (x, y, z, w)


@jit
def add4(x, y):
    """Four sums."""
    return x[0] + y[0], x[1] + y[1], x[2] + y[2], x[3] + y[3]


@jit
def exact(total, a, a_at, a_k, b, b_at, b_k, length):
    """total and `length` products of the numbers whose bits lie a_k and b_k apart, one by one in float32."""
    for _ in range(length):
        (total,) = add_outer((total,), (scalar.from_bits(a[a_at]),), (scalar.from_bits(b[b_at]),))
        a_at, b_at = np.int32(a_at + a_k), np.int32(b_at + b_k)
    return total
