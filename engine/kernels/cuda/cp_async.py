"""Asynchronous copies, as intrinsics.

Copies that a thread does not wait for (PTX ISA, "cp.async") go from global to shared memory while it computes:

    copy4(shared, at, x, i, count)                    # x[i] to x[i + count - 1], and 0 for the rest of four
    copy1(shared, at, x, i, there)                    # x[i], or 0
    commit()                                          # what was asked for since the last commit is one group
    arrived(n)                                        # wait for all groups but the last n, a constant
"""

from typing import Any

from .jit import SIMULATED, intrinsic
from .memory import together
from .ptx import address_of

if SIMULATED:
    from . import stand_in


def _both_together(shared, at, x, i, count):
    together(shared, at)
    if count > 0:
        together(x, i)


def _copy4_twin(shared, at, x, i, count):
    _both_together(shared, at, x, i, count)
    stand_in.async_copy(shared, at, x, i, count)
    for n in range(count, 4):
        shared[at + n] = 0


def _copy4_at_once_twin(shared, at, x, i, count):
    _both_together(shared, at, x, i, count)
    for n in range(4):
        if n < count:
            shared[at + n] = x[i + n]
        else:
            shared[at + n] = 0


def _copy1_twin(shared, at, x, i, there):
    if there:
        stand_in.async_copy(shared, at, x, i, 1)
    else:
        shared[at] = 0


def _copy1_at_once_twin(shared, at, x, i, there):
    if there:
        shared[at] = x[i]
    else:
        shared[at] = 0


def _copying(text: str) -> Any:
    """A cp.async; as many numbers are read as the last operand says, and the others are zeros."""

    def declare(typing_context, shared, at, x, i, count):
        from llvmlite import ir

        from .provider import types

        def codegen(context, builder, sig, values):
            int32, int64 = ir.IntType(32), ir.IntType(64)
            to = address_of(context, builder, shared, values[0], at, values[1])
            to = builder.addrspacecast(to, to.type.pointee.as_pointer(3))
            source = address_of(context, builder, x, values[2], i, values[3])
            size = context.cast(builder, values[4], sig.args[4], types.int32)
            size = builder.mul(size, ir.Constant(int32, context.get_abi_sizeof(context.get_data_type(x.dtype))))
            function = ir.FunctionType(ir.VoidType(), [int32, int64, int32])
            assembly = ir.InlineAsm(function, text, "r,l,r,~{memory}", side_effect=True)
            builder.call(assembly, [builder.ptrtoint(to, int32), builder.ptrtoint(source, int64), size])
            return context.get_dummy_value()

        return types.void(shared, at, x, i, count), codegen

    return declare


def _ordering(text: str) -> Any:
    """The codegen of an instruction that orders accesses to memory; $ is the operand, a constant."""

    def codegen(context, builder, sig, values):
        from llvmlite import ir

        number = str(sig.args[0].literal_value) if sig.args else ""
        function = ir.FunctionType(ir.VoidType(), [])
        builder.call(ir.InlineAsm(function, text.replace("$", number), "~{memory}", side_effect=True), [])
        return context.get_dummy_value()

    return codegen


@intrinsic(thread=_copy4_twin, lockstep=_copy4_at_once_twin)
def copy4(typing_context, shared, at, x, i, count):
    """Bring x[i] to x[i + count - 1] and zeros after them, four in all, to shared[at] on."""
    return _copying("cp.async.cg.shared.global [$0], [$1], 16, $2;")(typing_context, shared, at, x, i, count)


@intrinsic(thread=_copy1_twin, lockstep=_copy1_at_once_twin)
def copy1(typing_context, shared, at, x, i, there):
    """Bring x[i], or 0 if it is not there, to shared[at]."""
    return _copying("cp.async.ca.shared.global [$0], [$1], 4, $2;")(typing_context, shared, at, x, i, there)


def _commit_twin():
    stand_in.async_commit()


def _nothing():
    return


@intrinsic(thread=_commit_twin, lockstep=_nothing)
def commit(typing_context):
    """What was asked for since the last time is one group."""
    from .provider import types

    return types.void(), _ordering("cp.async.commit_group;")


def _arrived_twin(n):
    stand_in.async_wait(n)


def _arrived_at_once(n):
    return


@intrinsic(thread=_arrived_twin, lockstep=_arrived_at_once)
def arrived(typing_context, n):
    """Wait until all groups of this thread have arrived but the last n; n is a constant."""
    from .provider import types

    return (types.void(n), _ordering("cp.async.wait_group $;")) if isinstance(n, types.IntegerLiteral) else None
