"""From a Python call to machine code: how a kernel's arguments and its blocks of work reach the processor.

Each kernel is compiled together with its *thunk*, a C function `(worker, lo, hi, record)` that reads the arguments from
a record: one word for a number, address and size for a flat array, address, shape and strides for others. One routine
packs the arguments of any kernel into a record: it reads the ndarray objects as `rules` say that describe the kernel's
parameters (no copies, no specialisation by layout, no compiled code for each set of types).
"""

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import register_pass
from numba.core.lowering import Lower
from numba.core.typed_passes import NativeLowering

from .native import (
    I64,
    THUNK,
    WORD,
    Py_DecRef,
    Py_IncRef,
    PyErr_Occurred,
    PyErr_SetString,
    PyEval_RestoreThread,
    PyEval_SaveThread,
    PyFloat_AsDouble,
    PyLong_AsLongLong,
    PyLong_AsUnsignedLongLongMask,
    PyNumber_Index,
    PyObject_CallNoArgs,
    PyObject_IsTrue,
    PyType_IsSubtype,
    bits_of,
    call_thunk,
    jit,
    peek,
    peek32,
    poke,
    stack,
)
from .team import (
    INDEX_ERROR,
    NDARRAY,
    NONE,
    STARTED,
    STARTER,
    TEAM,
    THREADS,
    TYPE_ERROR,
    hold,
    release,
    run_alone,
    share,
)


class Parameter(NamedTuple):
    """A parameter of a kernel: a number (rank None), a flat array (rank 0: any rank, C-contiguous) or one of a rank."""

    dtype: types.Type
    rank: int | None

    @property
    def native(self) -> types.Type:
        """What the kernel sees."""
        if self.rank is None:
            return self.dtype
        return types.Array(self.dtype, max(self.rank, 1), "A" if self.rank else "C")

    @property
    def words(self) -> int:
        """How many words it has in a record."""
        return 1 if self.rank is None else 1 + 2 * self.rank if self.rank else 2

    @property
    def rule(self) -> tuple[int, int]:
        """How it is packed: the array's rank or the sort of number, and NumPy's number of the element type."""
        if self.rank is not None:
            return self.rank, np.dtype(str(self.dtype)).num
        if self.dtype == types.boolean:
            return TRUTH, 0
        if isinstance(self.dtype, types.Float):
            return REAL, 0
        return (INTEGER if self.dtype.signed else UNSIGNED), 0

    def __str__(self) -> str:
        if self.rank is None:
            return f"a number ({self.dtype})"
        return f"a C-contiguous {self.dtype} array" if self.rank == 0 else f"a {self.rank}-D {self.dtype} array"


FLAT, INTEGER, UNSIGNED, REAL, TRUTH = 0, -1, -2, -3, -4


# The public layout of an ndarray object (numpy/ndarraytypes.h, PyArrayObject_fields), the same since NumPy 1.7.
HEAD = object.__basicsize__
DATA, NDIM, SHAPE, STRIDES, DESCR, FLAGS = (HEAD + o for o in (0, 8, 16, 24, 40, 48))
ELEMENT = HEAD + 8  # in PyArray_Descr, after typeobj: four chars, the third is the byte order, and the type's number
CONTIGUOUS = 0x0001
SWAPPED = ord(">")
TYPE = HEAD - WORD  # ob_type: the last word of what every object begins with

# A kernel's rules, in words: see `rules`.
TEAM_AT, FUNCTION, ALONE, WORDS, FAILED, MISCALLED, COUNT = (WORD * i for i in range(7))
PARAMETERS = 7 * WORD
KIND, ELEMENT_TYPE, WRONG = (WORD * i for i in range(3))
PARAMETER = 3 * WORD


class Rules:
    """What native code knows of a kernel: a table of words, and the texts that it points to."""

    def __init__(self, name: str, thunk: int, parameters: Sequence[Parameter]) -> None:
        self.failed = (
            f"an index is out of bounds, or memory is short, inside the kernel {name}: "
            "NUMBA_DISABLE_JIT=1 runs without kernels"
        )
        self._texts = [ctypes.create_string_buffer(text.encode()) for text in (
            self.failed, f"the kernel {name} takes a number of blocks and {len(parameters)} arguments",
            *(f"the kernel {name} takes {p} as argument {i}" for i, p in enumerate(parameters)))]  # fmt: skip
        failed, miscalled, *wrong = map(ctypes.addressof, self._texts)
        self.thunk, self.words = thunk, 1 + sum(parameter.words for parameter in parameters)
        head = [TEAM.address, thunk, 0, self.words, failed, miscalled, len(parameters)]
        each = [(*parameter.rule, text) for parameter, text in zip(parameters, wrong, strict=True)]
        self.shared = np.array(head + [word for rule in each for word in rule], np.int64)
        self.alone = self.shared.copy()
        self.alone[ALONE // WORD] = 1


@jit
def _failed(rules, message, error):
    PyErr_SetString(peek(peek(rules + TEAM_AT) + error), peek(message))
    return False


@jit
def _integer(item, unsigned):
    """An integer's 64 bits; where it is none, an exception is set."""
    index = PyNumber_Index(item)
    if index == 0:
        return -1
    value = PyLong_AsUnsignedLongLongMask(index) if unsigned else PyLong_AsLongLong(index)
    Py_DecRef(index)
    return value


@jit
def _pack_number(item, kind, place):
    """Write a number into its word: whether it was one, else an exception is set."""
    if kind == REAL:
        value = bits_of(PyFloat_AsDouble(item))
    elif kind == TRUTH:
        value = types.int64(PyObject_IsTrue(item))
    else:
        value = _integer(item, kind == UNSIGNED)
    poke(place, value)
    return (value != -1 and value != MINUS_ONE) or PyErr_Occurred() == 0


MINUS_ONE = int(np.float64(-1).view(np.int64))  # what PyFloat_AsDouble gives where it fails, as a word


@jit
def _fits(item, rank, element, ndarray):
    """Whether an object is an ndarray of this element type and rank (0: C-contiguous)."""
    if peek(item + TYPE) != ndarray and PyType_IsSubtype(peek(item + TYPE), ndarray) == 0:
        return False
    found = peek(peek(item + DESCR) + ELEMENT)
    if found >> 32 != element or (found >> 16) & 0xFF == SWAPPED:
        return False
    return peek32(item + FLAGS) & CONTIGUOUS != 0 if rank == FLAT else peek32(item + NDIM) == rank


@jit
def _pack_array(item, rank, place):
    """Write address and size, or address, shape and strides, into their words."""
    poke(place, peek(item + DATA))
    shape, strides = peek(item + SHAPE), peek(item + STRIDES)
    if rank == FLAT:
        size = 1
        for axis in range(peek32(item + NDIM)):
            size *= peek(shape + axis * WORD)
        poke(place + WORD, size)
    for axis in range(rank):
        poke(place + (1 + axis) * WORD, peek(shape + axis * WORD))
        poke(place + (1 + rank + axis) * WORD, peek(strides + axis * WORD))


@jit
def _pack_nothing(words, place):
    """None stands for an array of size 0."""
    for i in range(words):
        poke(place + i * WORD, 0)


@jit
def pack_all(rules, items, count, record):
    """Write a call's arguments into a record: whether all were what the kernel takes, else an exception is set."""
    if count != peek(rules + COUNT):
        return _failed(rules, rules + MISCALLED, TYPE_ERROR)
    team = peek(rules + TEAM_AT)
    poke(record, 0)
    place, rule = record + WORD, rules + PARAMETERS
    for i in range(count):
        item, kind = peek(items + i * WORD), peek(rule + KIND)
        words = 2 if kind == FLAT else 1 + 2 * kind if kind > 0 else 1
        if kind < 0:
            if not _pack_number(item, kind, place):
                return False
        elif item == peek(team + NONE):
            _pack_nothing(words, place)
        elif _fits(item, kind, peek(rule + ELEMENT_TYPE), peek(team + NDARRAY)):
            _pack_array(item, kind, place)
        else:
            return _failed(rules, rule + WRONG, TYPE_ERROR)
        place += words * WORD
        rule += PARAMETER
    return True


@jit
def none(team):
    """A new reference to None, for a C function to return."""
    Py_IncRef(peek(team + NONE))
    return peek(team + NONE)


@jit
def started(team):
    """Start the threads of the team that are missing: whether no exception is set."""
    if peek(team + STARTED) < peek(team + THREADS) and peek(team + THREADS) > 1:
        result = PyObject_CallNoArgs(peek(team + STARTER))
        if result == 0:
            return False
        Py_DecRef(result)
    return True


@jit
def _run(team, thunk, record, blocks, alone, interpreter):
    """All blocks: -> (whether a signal's handler raised, the interpreter's state)."""
    raised = False
    if blocks == 1 or alone:
        call_thunk(thunk, 0, 0, blocks, record)
    elif hold(team):
        raised, _, interpreter = share(team, thunk, record, blocks, 0, interpreter)
        release(team)
    else:
        raised, _, interpreter = run_alone(team, thunk, record, blocks, 0, interpreter)
    return raised, interpreter


def launch(bound, items, count):
    """The C function behind a kernel's calls; its Python arguments are the number of blocks and the kernel's own."""
    rules = peek(bound + DATA)
    team = peek(rules + TEAM_AT)
    if count == 0:
        _failed(rules, rules + MISCALLED, TYPE_ERROR)
        return 0
    blocks = _integer(peek(items), False)
    if blocks == -1 and PyErr_Occurred() != 0:
        return 0
    record = stack(peek(rules + WORDS))
    if not pack_all(rules, items + WORD, count - 1, record):
        return 0
    if blocks <= 0:
        return none(team)
    alone = peek(rules + ALONE) != 0
    if blocks > 1 and not alone and not started(team):
        return 0
    interpreter = PyEval_SaveThread()
    raised, interpreter = _run(team, peek(rules + FUNCTION), record, blocks, alone, interpreter)
    PyEval_RestoreThread(interpreter)
    if raised:
        return 0
    if peek(record) != 0:
        _failed(rules, rules + FAILED, INDEX_ERROR)
        return 0
    return none(team)


def pack(bound, items, count):
    """The C function that packs arguments for later: its Python arguments are a record's address and the kernel's."""
    rules = peek(bound + DATA)
    record = _integer(peek(items), False)
    return none(peek(rules + TEAM_AT)) if pack_all(rules, items + WORD, count - 1, record) else 0


class _LowerWithThunk(Lower):
    """Numba makes a C function beside the compiled one on request: here that is the thunk."""

    def create_cfunc_wrapper(self) -> None:
        _add_thunk(self.context, self.library, self.fndesc)


@register_pass(mutates_CFG=True, analysis_only=False)
class _KernelLowering(NativeLowering):
    _name = "kernel_lowering"

    @property
    def lowering_class(self) -> Any:
        return _LowerWithThunk


class KernelCompiler(CompilerBase):
    """Numba's compiler, but for the thunk."""

    def define_pipelines(self) -> list[Any]:
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state)
        passes.passes = [(_KernelLowering if p is NativeLowering else p, text) for p, text in passes.passes]
        passes.finalize()
        return [passes]


def _add_thunk(context: Any, library: Any, kernel: Any) -> None:
    module = context.create_module("thunk")
    thunk = ir.Function(module, THUNK, kernel.llvm_cfunc_wrapper_name)
    builder = ir.IRBuilder(thunk.append_basic_block())
    failed = builder.inttoptr(thunk.args[3], I64.as_pointer())
    position = thunk.args[:3] if kernel.args[0] == "worker" else thunk.args[1:3]
    words = (builder.load(builder.gep(failed, [I64(1 + i)])) for i in range(_MOST))
    arguments = [_argument(context, builder, native, words) for native in kernel.argtypes[len(position) :]]
    function_type = context.call_conv.get_function_type(kernel.restype, kernel.argtypes)
    function = ir.Function(module, function_type, kernel.llvm_func_name)
    status, _ = context.call_conv.call_function(
        builder, function, kernel.restype, kernel.argtypes, [*position, *arguments], attrs=("noinline",)
    )
    with builder.if_then(status.is_error, likely=False):
        builder.store(I64(1), failed)
    builder.ret_void()
    library.add_ir_module(module)


_MOST = 10_000  # words of a record: more than any kernel needs


def _argument(context: Any, builder: Any, native: types.Type, words: Any) -> Any:
    """The value that a kernel is given, from the next words of its record."""
    if isinstance(native, types.Array):
        return _array(context, builder, native, words)
    word = next(words)
    if isinstance(native, types.Float):
        value = builder.bitcast(word, ir.DoubleType())
        return value if native == types.float64 else builder.fptrunc(value, ir.FloatType())
    kind = context.get_value_type(native)
    return word if kind == I64 else builder.trunc(word, kind)


def _array(context: Any, builder: Any, native: types.Array, words: Any) -> Any:
    array = cgutils.create_struct_proxy(native)(context, builder)
    itemsize = I64(context.get_abi_sizeof(context.get_data_type(native.dtype)))
    array.data = builder.inttoptr(next(words), array.data.type)
    shape = [next(words) for _ in range(native.ndim)]
    strides = [itemsize] if native.layout == "C" else [next(words) for _ in range(native.ndim)]
    count = shape[0]
    for extent in shape[1:]:
        count = builder.mul(count, extent)
    array.shape, array.strides = cgutils.pack_array(builder, shape, I64), cgutils.pack_array(builder, strides, I64)
    array.nitems, array.itemsize = count, itemsize
    array.meminfo, array.parent = (cgutils.get_null_value(x.type) for x in (array.meminfo, array.parent))
    return array._getvalue()
