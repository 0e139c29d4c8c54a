"""What the threads of a warp do together. Every number here is of all lanes: (warps, 32)."""
from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray
LANE = np.arange(32)
G, T = LANE >> 2, LANE & 3  # groupID and threadID_in_group (PTX ISA, "Matrix fragments")


def shuffle(kind: str, x: Array, by: Array, clamp: Array) -> tuple[Array, Array]:
    """(numbers, whether they are another lane's) of shfl.sync (PTX ISA, "shfl.sync")."""
    segment, bound = (clamp >> 8) & 31, clamp & 31
    highest, lowest = (LANE & segment) | (bound & ~segment & 31), LANE & segment
    by = by & 31
    if kind == "up":
        source = LANE - by
        inside = source >= highest
    elif kind == "down":
        source = LANE + by
        inside = source <= highest
    elif kind == "bfly":
        source = LANE ^ by
        inside = source <= highest
    else:
        source = lowest | (by & ~segment & 31)
        inside = source <= highest
    source = np.where(inside, source, LANE)
    return np.take_along_axis(x, source, 1), inside


def ballot(p: Array) -> Array:
    """A bit of each lane, the same word for all."""
    words = (p.astype(np.uint64) << LANE.astype(np.uint64)).sum(axis=1).astype(np.uint32)
    return np.repeat(words[:, None], 32, 1)


def mma(kind: str, a: list[Array], b: list[Array], c: list[Array]) -> list[Array]:
    """c + a b of 16 × K by K × 8, K being 8 for tf32 and 16 for bf16: registers as the instruction takes them (PTX ISA,
    "Matrix Fragments for mma.m16n8k8" and "mma.m16n8k16"). Sums are made in float64 and rounded once."""
    warps = len(c[0])
    depth = {"tf32": 8, "bf16": 16}[kind]
    left, right = np.zeros((warps, 16, depth)), np.zeros((warps, depth, 8))
    for n, bits in enumerate(a):
        row = G + 8 * (n & 1)
        if kind == "tf32":
            left[:, row, T + 4 * (n >> 1)] = tf32(bits)
        else:
            for half, x in enumerate(bfloat16(bits)):
                left[:, row, 2 * T + 8 * (n >> 1) + half] = x
    for n, bits in enumerate(b):
        if kind == "tf32":
            right[:, T + 4 * n, G] = tf32(bits)
        else:
            for half, x in enumerate(bfloat16(bits)):
                right[:, 2 * T + 8 * n + half, G] = x
    sums = np.zeros((warps, 16, 8))
    for n, x in enumerate(c):
        sums[:, G + 8 * (n >> 1), 2 * T + (n & 1)] = x
    for k in range(depth):
        sums += left[:, :, k, None] * right[:, None, k]
    made = sums.astype(np.float32)
    return [made[:, G + 8 * (n >> 1), 2 * T + (n & 1)] for n in range(4)]


def tf32(bits: Array) -> Array:
    """The numbers that a tensor core sees of words: the last 13 bits count for nothing."""
    return (bits & np.int32(-0x2000)).view(np.float32)


def bfloat16(bits: Array) -> tuple[Array, Array]:
    """The two numbers in words, the low half first."""
    return (bits << np.int32(16)).view(np.float32), (bits & np.int32(-0x10000)).view(np.float32)


def matrix_rows(load: Any, address: Array, count: int) -> list[Array]:
    """ldmatrix: row r of matrix i begins where lane 8 i + r says; lane 4 g + t gets word t of row g of each (PTX ISA,
    "ldmatrix"). `load` reads the words at (warps, 32) addresses."""
    return [load(address[:, 8 * i + G] + 4 * T) for i in range(count)]
