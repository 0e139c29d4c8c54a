"""Tensor cores, and how a warp reads their operands, as intrinsics.

Tensor cores (PTX ISA, "Warp Level Matrix Multiply-Accumulate Instructions"): lane 4 g + t of a warp holds of a 16 × K
matrix a the rows g and g + 8, of a K × 8 matrix b the column g, of the 16 × 8 sums c the rows g and g + 8 in columns
2 t and 2 t + 1. `mma_tf32` has K = 8: a is (a[g, t], a[g+8, t], a[g, t+4], a[g+8, t+4]) and b (b[t, g], b[t+4, g]),
each the bits of a float32 whose last 13 are not looked at. `mma_bf16` has K = 16: the same with pairs of bfloat16
(`pack_bf16`) in columns 2 t, 2 t + 1 and 2 t + 8, 2 t + 9.

`load_matrices` (PTX ISA, "ldmatrix") reads four matrices of 8 rows of four words each from shared memory: lane 8 i + r
says where row r of matrix i begins, and lane 4 g + t gets word t of row g of each.
"""

from typing import Any

import numpy as np

from .jit import cuda, intrinsic
from .memory import together
from .ptx import address_of
from .rows import EVERYBODY


def _pack_bf16_twin(low, high):
    def rounded(x):
        bits = np.int64(x.view(np.uint32))
        return np.where(np.isnan(x), 0x7FFF, ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16) & 0xFFFF)

    return np.int64(rounded(low) | (rounded(high) << 16)).astype(np.int32)


def _summed(products, sums):
    """Sums over the middle axis, and with `sums`, as tensor cores make them: what is below half a unit of the largest
    is cut off before, and what float32 has no room for afterwards (Fasi et al., "Numerical behavior of NVIDIA tensor
    cores", 2021, §4; the number of further bits differs from card to card)."""
    every = np.concatenate([products, sums], axis=1)
    total = _cut_off(every, np.abs(every).max(axis=1, keepdims=True), 25).sum(axis=1)
    return _cut_off(total, total, 24).astype(np.float32)


def _cut_off(x, largest, bits):
    """x without what lies below so many bits, counted from the first of `largest`."""
    unit = np.ldexp(1.0, np.frexp(largest)[1] - bits)
    return np.trunc(x / unit) * unit


def _mma_twin(depth, rows_of, columns_of):
    """The twin of an mma whose a operand i holds (row, column, number) by `rows_of`, and b alike by `columns_of`."""

    def twin(a, b, c):
        g, t = np.arange(32) >> 2, np.arange(32) & 3
        left, right, sums = np.zeros((16, depth)), np.zeros((depth, 8)), np.zeros((16, 8), np.float32)
        for i, bits in enumerate(a):
            for row, column, number in rows_of(i, g, t, bits):
                left[row, column] = number
        for i, bits in enumerate(b):
            for row, column, number in columns_of(i, g, t, bits):
                right[row, column] = number
        for i in range(4):
            sums[g + 8 * (i >> 1), 2 * t + (i & 1)] = c[i]
        sums = _summed(left[:, :, None] * right[None], sums[:, None])
        return tuple(sums[g + 8 * (i >> 1), 2 * t + (i & 1)] for i in range(4))

    return twin


def _single(bits):
    return (np.asarray(bits, np.int32) & np.int32(-0x2000)).view(np.float32)


def _halves(bits):
    words = np.asarray(bits, np.int32).view(np.uint32)
    return ((words << np.uint32(16)).view(np.float32), (words & np.uint32(0xFFFF0000)).view(np.float32))


_tf32_twin = _mma_twin(
    8,
    lambda i, g, t, bits: [(g + 8 * (i & 1), t + 4 * (i >> 1), _single(bits))],
    lambda i, g, t, bits: [(t + 4 * i, g, _single(bits))],
)
_bf16_twin = _mma_twin(
    16,
    lambda i, g, t, bits: [(g + 8 * (i & 1), 2 * t + 8 * (i >> 1) + h, x) for h, x in enumerate(_halves(bits))],
    lambda i, g, t, bits: [(2 * t + 8 * i + h, g, x) for h, x in enumerate(_halves(bits))],
)


def _assembly(kinds: str, text: str, constraints: str) -> Any:
    """The codegen of one instruction on numbers: `kinds` has i or f for the result and each operand."""

    def codegen(context, builder, sig, values):
        from llvmlite import ir

        native = {"i": ir.IntType(32), "f": ir.FloatType()}
        function = ir.FunctionType(native[kinds[0]], [native[kind] for kind in kinds[1:]])
        return builder.call(ir.InlineAsm(function, text, constraints), values)

    return codegen


@intrinsic(thread=_pack_bf16_twin)
def pack_bf16(typing_context, low, high):
    """Two numbers rounded to bfloat16 as the halves of an int32."""
    from .provider import types

    return types.int32(types.float32, types.float32), _assembly("iff", "cvt.rn.bf16x2.f32 $0, $2, $1;", "=r,f,f")


def _mma(shape: str, kind: str) -> Any:
    """What an mma instruction of 16 × K by K × 8 does: 4 registers of a, 2 of b, 4 of c."""

    def declare(typing_context, a, b, c):
        from llvmlite import ir

        from .provider import cgutils, types

        result = types.UniTuple(types.float32, 4)
        registers = ["{" + ",".join(f"${i}" for i in span) + "}" for span in (range(4), range(4, 8), range(8, 10))]
        sums = "{" + ",".join(f"${i}" for i in range(10, 14)) + "}"
        text = f"mma.sync.aligned.{shape}.row.col.f32.{kind}.{kind}.f32 {', '.join(registers)}, {sums};"

        def codegen(context, builder, sig, values):
            operands = [x for value, n in zip(values, (4, 2, 4), strict=True)
                        for x in cgutils.unpack_tuple(builder, value, n)]  # fmt: skip
            float32, int32 = ir.FloatType(), ir.IntType(32)
            function = ir.FunctionType(ir.LiteralStructType([float32] * 4), [int32] * 6 + [float32] * 4)
            constraints = ",".join(["=f"] * 4 + ["r"] * 6 + ["f"] * 4)
            # the instruction is for all lanes: a side effect keeps it from being moved into a branch
            assembly = ir.InlineAsm(function, text, constraints, side_effect=True)
            made = builder.call(assembly, operands)
            return context.make_tuple(builder, result, [builder.extract_value(made, i) for i in range(4)])

        return result(types.UniTuple(types.int32, 4), types.UniTuple(types.int32, 2), result), codegen

    return declare


@intrinsic(warp=_tf32_twin)
def mma_tf32(typing_context, a, b, c):
    """c + a b on a tensor core, for a whole warp: 16 × 8 by 8 × 8 TF32 numbers."""
    return _mma("m16n8k8", "tf32")(typing_context, a, b, c)


@intrinsic(warp=_bf16_twin)
def mma_bf16(typing_context, a, b, c):
    """c + a b on a tensor core, for a whole warp: 16 × 16 by 16 × 8 bfloat16 numbers."""
    return _mma("m16n8k16", "bf16")(typing_context, a, b, c)


def _load_matrices_twin(memory, at):
    together(memory, at)
    lane = cuda.laneid
    first = cuda.shfl_sync(EVERYBODY, at, lane >> 2) + (lane & 3)
    second = cuda.shfl_sync(EVERYBODY, at, 8 + (lane >> 2)) + (lane & 3)
    third = cuda.shfl_sync(EVERYBODY, at, 16 + (lane >> 2)) + (lane & 3)
    fourth = cuda.shfl_sync(EVERYBODY, at, 24 + (lane >> 2)) + (lane & 3)
    return memory[first], memory[second], memory[third], memory[fourth]


@intrinsic(thread=_load_matrices_twin)
def load_matrices(typing_context, memory, at):
    """A word of each of four matrices in shared memory, whose rows of four words begin where the lanes say."""
    from llvmlite import ir

    from .provider import types

    result = types.UniTuple(types.int32, 4)

    def codegen(context, builder, sig, values):
        int32 = ir.IntType(32)
        place = address_of(context, builder, memory, values[0], at, values[1])
        place = builder.ptrtoint(builder.addrspacecast(place, place.type.pointee.as_pointer(3)), int32)
        function = ir.FunctionType(ir.LiteralStructType([int32] * 4), [int32])
        text = "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {$0,$1,$2,$3}, [$4];"
        assembly = ir.InlineAsm(function, text, "=r,=r,=r,=r,r,~{memory}", side_effect=True)
        made = builder.call(assembly, [place])
        return context.make_tuple(builder, result, [builder.extract_value(made, i) for i in range(4)])

    return result(memory, at), codegen
