"""What CUDA's Python lacks, as intrinsics: wide loads and stores, and tiles of numbers in registers.

Tuples hold what must stay in registers. An index counts elements; where four are moved at once it must be a multiple of
four, in memory that is aligned to 16 bytes.

    c = zeros(64)                                     # a tile of 8 × 8 numbers, row by row
    c = add_outer(c, load4(x, i), load4(y, j))        # c[r, s] = fma(a[r], b[s], c[r, s])
    store4(out, k, c[0], c[1], c[2], c[3])
"""

from typing import Any

import numpy as np

from .jit import intrinsic
from .memory import together


def address_of(context: Any, builder: Any, kind: Any, array: Any, index_kind: Any, index: Any) -> Any:
    """The address of an element of a flat array."""
    from .provider import types

    index = context.cast(builder, index, index_kind, types.int64)
    if isinstance(kind, types.CPointer):
        return builder.gep(array, [index])
    return builder.gep(context.make_array(kind)(context, builder, array).data, [index])


def _vector(builder: Any, pointer: Any, count: int) -> Any:
    from llvmlite import ir

    return builder.bitcast(pointer, ir.VectorType(pointer.type.pointee, count).as_pointer(pointer.type.addrspace))


def _storing(count: int) -> Any:
    """The codegen of a store of `count` numbers at once."""

    def codegen(context, builder, sig, values):
        from llvmlite import ir

        kind = sig.args[0]
        pointer = address_of(context, builder, kind, values[0], sig.args[1], values[1])
        vector = ir.Constant(ir.VectorType(pointer.type.pointee, count), ir.Undefined)
        for lane in range(count):
            number = context.cast(builder, values[2 + lane], sig.args[2 + lane], kind.dtype)
            vector = builder.insert_element(vector, number, ir.Constant(ir.IntType(32), lane))
        store = builder.store(vector, _vector(builder, pointer, count))
        store.align = count * context.get_abi_sizeof(context.get_data_type(kind.dtype))
        return context.get_dummy_value()

    return codegen


def _load1_twin(x, i):
    return x[i]


@intrinsic(thread=_load1_twin)
def load1(typing_context, x, i):
    """x[i], with no thought of negative indices, which cost instructions in shared memory."""

    def codegen(context, builder, sig, values):
        return builder.load(address_of(context, builder, x, values[0], i, values[1]))

    return x.dtype(x, i), codegen


def _load4_twin(x, i):
    together(x, i)
    return x[i], x[i + 1], x[i + 2], x[i + 3]


@intrinsic(thread=_load4_twin)
def load4(typing_context, x, i):
    """x[i], x[i + 1], x[i + 2] and x[i + 3] by one instruction."""
    from llvmlite import ir

    from .provider import types

    result = types.UniTuple(x.dtype, 4)

    def codegen(context, builder, sig, values):
        pointer = _vector(builder, address_of(context, builder, x, values[0], i, values[1]), 4)
        vector = builder.load(pointer)
        vector.align = 4 * context.get_abi_sizeof(context.get_data_type(x.dtype))
        numbers = [builder.extract_element(vector, ir.Constant(ir.IntType(32), lane)) for lane in range(4)]
        return context.make_tuple(builder, result, numbers)

    return result(x, i), codegen


def _store4_twin(x, i, a, b, c, d):
    together(x, i)
    x[i], x[i + 1], x[i + 2], x[i + 3] = a, b, c, d


@intrinsic(thread=_store4_twin)
def store4(typing_context, x, i, a, b, c, d):
    """x[i], x[i + 1], x[i + 2], x[i + 3] = a, b, c, d by one instruction."""
    from .provider import types

    return types.void(x, i, a, b, c, d), _storing(4)


def _store2_twin(x, i, a, b):
    together(x, i, 2)
    x[i], x[i + 1] = a, b


@intrinsic(thread=_store2_twin)
def store2(typing_context, x, i, a, b):
    """x[i], x[i + 1] = a, b by one instruction; i is a multiple of two, in memory aligned to 8 bytes."""
    from .provider import types

    return types.void(x, i, a, b), _storing(2)


def _divided_twin(n, d):
    return n // d, n % d


@intrinsic(thread=_divided_twin)
def divided(typing_context, n, d):
    """(n // d, n % d) of whole numbers from 0 to 2^31 - 1, in 32 bits: Numba divides in 64, which a card does by a
    function of many instructions."""
    from .provider import types

    result = types.UniTuple(types.int32, 2)

    def codegen(context, builder, sig, values):
        number, divisor = (
            context.cast(builder, value, kind, types.int32) for value, kind in zip(values, sig.args, strict=True)
        )
        quotient = builder.udiv(number, divisor)
        rest = builder.sub(number, builder.mul(quotient, divisor))
        return context.make_tuple(builder, result, [quotient, rest])

    return result(n, d), codegen


def _only_here_twin(n):
    return n


@intrinsic(thread=_only_here_twin)
def only_here(typing_context, n):
    """n, a whole number of 32 bits: what follows from it is computed where it is needed, not before a loop around it,
    from where it would take registers all the way."""
    from .provider import types

    def codegen(context, builder, sig, values):
        from llvmlite import ir

        int32 = ir.IntType(32)
        assembly = ir.InlineAsm(ir.FunctionType(int32, [int32]), "mov.b32 $0, $1;", "=r,r", side_effect=True)
        return builder.call(assembly, values)

    return types.int32(types.int32), codegen


def _zeros_twin(n):
    return (np.float32(0),) * n


@intrinsic(thread=_zeros_twin)
def zeros(typing_context, n):
    """n times the float32 0; n is a constant."""
    from .provider import types

    if not isinstance(n, types.IntegerLiteral):
        return None
    result = types.UniTuple(types.float32, n.literal_value)

    def codegen(context, builder, sig, values):
        zero = context.get_constant(types.float32, 0.0)
        return context.make_tuple(builder, result, [zero] * result.count)

    return result(n), codegen


def _add_outer_twin(c, a, b):
    wide = [np.float64(y) for y in b]
    return tuple([np.float32(np.float64(x) * y + np.float64(c[i * len(b) + j]))
                  for i, x in enumerate(a) for j, y in enumerate(wide)])  # fmt: skip


def _add_outer_lanes(c, a, b):
    all_of = np.array(np.broadcast_arrays(*a, *b, *c), np.float64)
    left, right, tile = np.split(all_of, [len(a), len(a) + len(b)])
    made = left[:, None] * right[None] + tile.reshape(len(a), len(b), *tile.shape[1:])
    return tuple(made.astype(np.float32).reshape(tile.shape))


@intrinsic(thread=_add_outer_twin, lanes=_add_outer_lanes)
def add_outer(typing_context, c, a, b):
    """The tile c (a rows by b columns) with fma(a[i], b[j], c[i, j]) everywhere."""
    from .provider import cgutils

    def codegen(context, builder, sig, values):
        tile, left, right = (
            cgutils.unpack_tuple(builder, value, kind.count) for value, kind in zip(values, sig.args, strict=True)
        )
        made = [builder.fma(x, y, tile[i * len(right) + j]) for i, x in enumerate(left) for j, y in enumerate(right)]
        return context.make_tuple(builder, c, made)

    return c(c, a, b), codegen


def _times_rows_twin(c, a):
    return tuple([x * a[i // (len(c) // len(a))] for i, x in enumerate(c)])


@intrinsic(thread=_times_rows_twin)
def times_rows(typing_context, c, a):
    """The tile c with its rows multiplied by the numbers a."""
    from .provider import cgutils

    def codegen(context, builder, sig, values):
        tile, factors = (
            cgutils.unpack_tuple(builder, value, kind.count) for value, kind in zip(values, sig.args, strict=True)
        )
        columns = len(tile) // len(factors)
        made = [builder.fmul(x, factors[i // columns]) for i, x in enumerate(tile)]
        return context.make_tuple(builder, c, made)

    return c(c, a), codegen
