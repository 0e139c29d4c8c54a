"""Copies from global to shared memory that a thread does not wait for (cp.async; PTX ISA, "Data Movement").

    copy4(to, i, x, j, there)        # to[i .. i + 3] = x[j .. j + 3], or zeros where there is nothing
    copy1(to, i, x, j, there)
    arrived()                        # this thread's copies lie in shared memory: a barrier shows them to the others

Where `there` is False nothing of x is read. Four at once: both places must be aligned to 16 bytes. The twins copy at
once, so a simulator finds no missing `arrived`.
"""

from typing import Any

import numpy as np

from .jit import intrinsic
from .ptx import _pointer


def _copy4_twin(to, i, x, j, there):
    if there:
        to[i], to[i + 1], to[i + 2], to[i + 3] = x[j], x[j + 1], x[j + 2], x[j + 3]
    else:
        to[i], to[i + 1], to[i + 2], to[i + 3] = np.float32(0), np.float32(0), np.float32(0), np.float32(0)


def _copy1_twin(to, i, x, j, there):
    to[i] = x[j] if there else np.float32(0)


def _copy(text: str, nbytes: int) -> Any:
    """One instruction that copies so many bytes, of which the last operand says how many are there."""

    def declare(typing_context, to, i, x, j, there):
        from llvmlite import ir

        from .provider import types

        def codegen(context, builder, sig, values):
            int32, int64 = ir.IntType(32), ir.IntType(64)
            target = _pointer(context, builder, to, values[0], i, values[1])
            source = _pointer(context, builder, x, values[2], j, values[3])
            shared = builder.addrspacecast(target, ir.PointerType(target.type.pointee, 3))
            there_of = context.cast(builder, values[4], there, types.boolean)
            size = builder.select(there_of, ir.Constant(int32, nbytes), ir.Constant(int32, 0))
            function = ir.FunctionType(ir.VoidType(), [int32, int64, int32])
            assembly = ir.InlineAsm(function, text, "r,l,r,~{memory}", side_effect=True)
            builder.call(assembly, [builder.ptrtoint(shared, int32), builder.ptrtoint(source, int64), size])
            return context.get_dummy_value()

        return types.void(to, i, x, j, there), codegen

    return declare


@intrinsic(thread=_copy4_twin)
def copy4(typing_context, to, i, x, j, there):
    """Begin to copy four float32 from global to shared memory."""
    return _copy("cp.async.cg.shared.global [$0], [$1], 16, $2;", 16)(typing_context, to, i, x, j, there)


@intrinsic(thread=_copy1_twin)
def copy1(typing_context, to, i, x, j, there):
    """Begin to copy a float32 from global to shared memory."""
    return _copy("cp.async.ca.shared.global [$0], [$1], 4, $2;", 4)(typing_context, to, i, x, j, there)


def _arrived_twin():
    return


@intrinsic(thread=_arrived_twin)
def arrived(typing_context):
    """Wait until all copies that this thread began have arrived."""
    from llvmlite import ir

    from .provider import types

    def codegen(context, builder, sig, values):
        function = ir.FunctionType(ir.VoidType(), [])
        builder.call(ir.InlineAsm(function, "cp.async.wait_all;", "~{memory}", side_effect=True), [])
        return context.get_dummy_value()

    return types.void(), codegen
