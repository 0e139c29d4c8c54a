"""From a Python call to machine code: how a kernel's arguments and its blocks of work reach the processor.

`entry_point` turns one serial function over a range of blocks into a native Python callable. The callable reads
pointers, shapes and strides straight out of the ndarray objects (no copies, no specialisation by layout), writes them
into a record on the stack and hands record and function pointer to `workers`: the only parallel loop of the engine.
"""

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.core import cgutils
from numba.extending import NativeValue, intrinsic, models, register_model, unbox

I8, I32, I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
BYTES = I8.as_pointer()
THUNK = ir.FunctionType(ir.VoidType(), [I64, I64, I64, BYTES])  # worker, lo, hi, record


class ArrayArgument(types.Type):
    """An ndarray parameter of a kernel: `rank` axes with any strides, or (rank None) flat: any rank, C-contiguous."""

    def __init__(self, dtype: types.Type, rank: int | None) -> None:
        self.dtype, self.rank, self.ndim = dtype, rank, 1 if rank is None else rank
        self.array = types.Array(dtype, self.ndim, "C" if rank is None else "A")
        super().__init__(f"ArrayArgument({dtype}, {rank})")

    def __str__(self) -> str:
        kind = "C-contiguous" if self.rank is None else f"{self.rank}-D"
        return f"a {kind} {self.dtype} array"


register_model(ArrayArgument)(models.ArrayModel)

# The public layout of an ndarray object (numpy/ndarraytypes.h, PyArrayObject_fields), the same since NumPy 1.7.
HEAD = object.__basicsize__
DATA, NDIM, SHAPE, STRIDES, DESCR, FLAGS = (HEAD + o for o in (0, 8, 16, 24, 40, 48))
TYPE_NUMBER = HEAD + 8 + 4  # in PyArray_Descr: typeobj, four chars, type_num
CONTIGUOUS = 0x0001


@unbox(ArrayArgument)
def _read_ndarray(typ: ArrayArgument, obj: Any, c: Any) -> NativeValue:
    """Read data pointer, shape and strides of an ndarray; None stands for an array of size 0."""
    builder = c.builder

    def field(base: Any, offset: int, kind: Any) -> Any:
        place = builder.gep(builder.bitcast(base, BYTES), [I64(offset)])
        return builder.load(builder.bitcast(place, kind.as_pointer()))

    array = cgutils.create_struct_proxy(typ.array)(c.context, builder)
    itemsize = c.context.get_abi_sizeof(c.context.get_data_type(typ.dtype))
    slot = cgutils.alloca_once_value(builder, cgutils.get_null_value(array._getvalue().type))
    failed = cgutils.alloca_once_value(builder, cgutils.false_bit)
    with builder.if_then(builder.not_(builder.icmp_unsigned("==", obj, c.pyapi.borrow_none()))):
        number = field(field(obj, DESCR, BYTES), TYPE_NUMBER, I32)
        wrong = builder.icmp_signed("!=", number, I32(np.dtype(str(typ.dtype)).num))
        if typ.rank is None:
            flags = builder.and_(field(obj, FLAGS, I32), I32(CONTIGUOUS))
            wrong = builder.or_(wrong, builder.icmp_signed("==", flags, I32(0)))
        else:
            wrong = builder.or_(wrong, builder.icmp_signed("!=", field(obj, NDIM, I32), I32(typ.rank)))
        with builder.if_else(wrong, likely=False) as (refuse, accept):
            with refuse:
                builder.store(cgutils.true_bit, failed)
                c.pyapi.err_set_string("PyExc_TypeError", f"this kernel takes {typ} here")
            with accept:
                shape_at = field(obj, SHAPE, I64.as_pointer())
                strides_at = field(obj, STRIDES, I64.as_pointer())
                if typ.rank is None:
                    size = cgutils.alloca_once_value(builder, I64(1))
                    with cgutils.for_range(builder, builder.sext(field(obj, NDIM, I32), I64)) as loop:
                        extent = builder.load(builder.gep(shape_at, [loop.index]))
                        builder.store(builder.mul(builder.load(size), extent), size)
                    shape, strides = [builder.load(size)], [I64(itemsize)]
                else:
                    axes = [I64(axis) for axis in range(typ.rank)]
                    shape = [builder.load(builder.gep(shape_at, [axis])) for axis in axes]
                    strides = [builder.load(builder.gep(strides_at, [axis])) for axis in axes]
                count = I64(1)
                for extent in shape:
                    count = builder.mul(count, extent)
                array.data = builder.bitcast(field(obj, DATA, BYTES), array.data.type)
                array.shape = cgutils.pack_array(builder, shape, I64)
                array.strides = cgutils.pack_array(builder, strides, I64)
                array.nitems, array.itemsize = count, I64(itemsize)
                array.meminfo = cgutils.get_null_value(array.meminfo.type)
                array.parent = cgutils.get_null_value(array.parent.type)
                builder.store(array._getvalue(), slot)
    return NativeValue(builder.load(slot), is_error=builder.load(failed))


@intrinsic(prefer_literal=True)
def _launch(typingctx, function, takes_worker, workers_address, threads, blocks, arguments):
    """Run the compiled kernel at address `function` over all blocks, by one thread or through the parallel loop."""

    def codegen(context, builder, signature, values):
        function, _, workers_address, threads, blocks, packed = values
        unpacked = cgutils.unpack_tuple(builder, packed)
        record_type = ir.LiteralStructType([I64, I64, *(value.type for value in unpacked)])
        record = cgutils.alloca_once(builder, record_type)
        for position, value in enumerate([I64(0), function, *unpacked]):
            builder.store(value, cgutils.gep_inbounds(builder, record, 0, position))
        native = [native_type(argument) for argument in arguments]
        thunk = _thunk(context, builder.module, record_type, native, takes_worker.literal_value)
        record_bytes = builder.bitcast(record, BYTES)
        alone = builder.icmp_signed("==", workers_address, I64(0))
        with builder.if_else(alone) as (serial, parallel):
            with serial:
                builder.call(thunk, [I64(0), I64(0), blocks, record_bytes])
            with parallel:
                numbers = [builder.ptrtoint(thunk, I64), builder.ptrtoint(record_bytes, I64), threads, blocks]
                workers = ir.FunctionType(ir.VoidType(), [I64] * 4).as_pointer()
                builder.call(builder.inttoptr(workers_address, workers), numbers)
        error = builder.load(cgutils.gep_inbounds(builder, record, 0, 0))
        with builder.if_then(builder.icmp_signed("!=", error, I64(0)), likely=False):
            context.call_conv.return_user_exc(builder, IndexError, (FAILED,))
        return context.get_dummy_value()

    return types.void(function, takes_worker, workers_address, threads, blocks, arguments), codegen


FAILED = "an index is out of bounds, or memory is short, inside a kernel: NUMBA_DISABLE_JIT=1 runs without kernels"


def _thunk(context: Any, module: Any, record_type: Any, native: list[Any], takes_worker: bool) -> Any:
    """The C function `(worker, lo, hi, record)` that calls the kernel whose address and arguments are in the record."""
    thunk = ir.Function(module, THUNK, module.get_unique_name("thunk"))
    thunk.linkage = "internal"
    builder = ir.IRBuilder(thunk.append_basic_block())
    record = builder.bitcast(thunk.args[3], record_type.as_pointer())
    _, address, *arguments = (
        builder.load(cgutils.gep_inbounds(builder, record, 0, i)) for i in range(len(record_type.elements))
    )
    position = thunk.args[:3] if takes_worker else thunk.args[1:3]
    argument_types = [*(types.int64 for _ in position), *native]
    function_type = context.call_conv.get_function_type(types.none, argument_types)
    function = builder.inttoptr(address, function_type.as_pointer())
    status, _ = context.call_conv.call_function(
        builder, function, types.none, argument_types, [*position, *arguments]
    )
    with builder.if_then(status.is_error, likely=False):
        builder.store(I64(1), cgutils.gep_inbounds(builder, record, 0, 0))
    builder.ret_void()
    return thunk


def native_type(argument: types.Type) -> types.Type:
    """What a kernel sees of an argument."""
    return argument.array if isinstance(argument, ArrayArgument) else argument


@intrinsic
def _take(typingctx, counter):
    """Atomically read and increment the first element of an int64 array."""

    def codegen(context, builder, signature, values):
        array = context.make_array(signature.args[0])(context, builder, values[0])
        return builder.atomic_rmw("add", array.data, I64(1), "monotonic")

    return types.int64(counter), codegen


@intrinsic
def _call(typingctx, thunk, worker, lo, hi, record):
    """Call the thunk at an integer address."""

    def codegen(context, builder, signature, values):
        thunk, worker, lo, hi, record = values
        function = builder.inttoptr(thunk, THUNK.as_pointer())
        builder.call(function, [worker, lo, hi, builder.inttoptr(record, BYTES)])
        return context.get_dummy_value()

    return types.void(thunk, worker, lo, hi, record), codegen


def workers(thunk, record, threads, blocks):
    """The parallel loop: each worker takes the next block until none is left."""
    counter = np.zeros(1, np.int64)
    for worker in prange(threads):
        block = _take(counter)
        while block < blocks:
            _call(thunk, worker, block, block + 1, record)
            block = _take(counter)


WORKERS_SIGNATURE = types.void(types.int64, types.int64, types.int64, types.int64)


def entry_function(name: str, arity: int, takes_worker: bool) -> Callable[..., None]:
    """The Python source of a native entry: `entry(kernel, workers, threads, blocks, *arguments)`.

    Kernels with the same types of parameters share one.
    """
    names = "".join(f"a{i}, " for i in range(arity))
    source = (
        f"def {name}(kernel, workers, threads, blocks, {names}):\n"
        f"    launch(kernel, {takes_worker}, workers, threads, blocks, ({names}))\n"
    )
    namespace: dict[str, Any] = {"__name__": __name__, "launch": _launch}
    exec(source, namespace)
    return namespace[name]


def entry_signature(argument_types: Sequence[types.Type]) -> Any:
    """The Numba signature of the entry for kernels with these argument types."""
    return types.void(*[types.int64] * 4, *argument_types)


def called_apart(dispatcher: Any) -> Any:
    """An intrinsic that calls a compiled function without inlining it, with constants as ordinary numbers."""

    def call(typingctx, *arguments):
        argument_types = tuple(types.unliteral(argument) for argument in arguments)
        found = types.Dispatcher(dispatcher).get_call_type(typingctx, argument_types, {})

        def codegen(context, builder, signature, values):
            compiled = dispatcher.get_compile_result(found)
            context.add_linking_libs([compiled.library])
            function, kernel = context.declare_function(builder.module, compiled.fndesc), compiled.fndesc
            status, result = context.call_conv.call_function(
                builder, function, kernel.restype, kernel.argtypes, values, attrs=("noinline",)
            )
            with builder.if_then(status.is_error, likely=False):
                context.call_conv.return_status_propagate(builder, status)
            return context.get_dummy_value() if kernel.restype == types.none else result

        return found.return_type(*argument_types), codegen

    function = dispatcher.py_func
    names = ", ".join(function.__code__.co_varnames[: function.__code__.co_argcount])
    namespace: dict[str, Any] = {"__name__": __name__, "call": call}
    exec(f"def {function.__name__}(typingctx, {names}):\n    return call(typingctx, {names})\n", namespace)
    wrapper = namespace[function.__name__]
    wrapper.__doc__ = function.__doc__
    return intrinsic(wrapper)


def c_address(compiled: Any) -> int:
    """The address of a compiled function as C sees it."""
    return compiled.library.get_pointer_to_function(compiled.fndesc.llvm_cfunc_wrapper_name)


if ctypes.sizeof(ctypes.c_void_p) != 8:
    raise ImportError("the kernels need a 64-bit processor; set NUMBA_DISABLE_JIT=1 to run without them")
