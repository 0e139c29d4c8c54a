"""A Numba type for a vector of 16 numbers, so that kernels can say which additions happen side by side.

    total = splat(0.0, a)                              # 16 lanes in the dtype of the array a
    for i in range(0, n - LANES + 1, LANES):
        total = fma(load(a, i), load(b, i), total)
    tail = n % LANES
    total = fma(load_tail(a, n - tail, tail), load_tail(b, n - tail, tail), total)
    dot = sum_lanes(total)

The vectors are logical, `<16 x float>` or `<16 x double>`: LLVM cuts them into what the processor has (AVX-512, AVX2,
NEON, SSE), so the bits of a result are the same on all of them. Operators: + - * / and unary - on numbers; < <= > >=
== != give masks; & | ^ << >> work on integers, & | ^ on masks. A plain number beside an operator is spread over the
lanes. Arrays are read and written at an element offset, the elements being next to one another in memory.
"""

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

from .processor import MASKED_STORES

LANES = 16
I32, I64 = ir.IntType(32), ir.IntType(64)
_FLOATS = {types.float32: "f32", types.float64: "f64"}
_INTEGERS = {types.int32: "i32", types.int64: "i64"}
_NAMES = {**_FLOATS, **_INTEGERS}  # as LLVM writes them
NATIVE = {
    types.float32: ir.FloatType(), types.float64: ir.DoubleType(),
    types.int32: I32, types.int64: I64, types.boolean: ir.IntType(1),
}  # fmt: skip
UNKNOWN = -1  # size of a flat view that reaches to both sides of its first element
_OPAQUE = "*" not in str(I32.as_pointer())  # LLVM before 17 names a pointer by what it points to


def suffix(dtype: types.Type, lanes: int = LANES) -> str:
    """What LLVM's names of operations on such vectors end in."""
    return f"v{lanes}{_NAMES[dtype]}"


class Vector(types.Type):
    """16 numbers of one dtype: float32, float64, int32, int64, or boolean (a mask)."""

    def __init__(self, dtype: types.Type) -> None:
        self.dtype = dtype
        super().__init__(f"Vector({dtype})")

    @property
    def native(self) -> Any:
        return ir.VectorType(NATIVE[self.dtype], LANES)

    @property
    def suffix(self) -> str:
        return suffix(self.dtype)


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, vector.native)


def spread(builder: Any, number: Any, lanes: int = LANES) -> Any:
    undefined = ir.Constant(ir.VectorType(number.type, lanes), ir.Undefined)
    first = builder.insert_element(undefined, number, I32(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(I32, lanes), [0] * lanes))


def call(builder: Any, name: str, result: Any, operands: list[Any]) -> Any:
    declared = ir.FunctionType(result, [operand.type for operand in operands])
    return builder.call(cgutils.get_or_insert_function(builder.module, declared, name), operands)


# --- memory ---------------------------------------------------------------------------------------


def address(context: Any, builder: Any, array_type: Any, array: Any, start: Any, count: Any) -> Any:
    """The address of element `start`; where bounds are checked, `count` elements must lie in the array from there."""
    struct = context.make_array(array_type)(context, builder, array)
    if config.BOUNDSCHECK:
        below = builder.icmp_signed("<", start, I64(0))
        above = builder.icmp_signed(">", builder.add(start, count), struct.nitems)
        known = builder.icmp_signed("!=", struct.nitems, I64(UNKNOWN))
        touched = builder.and_(known, builder.icmp_signed(">", count, I64(0)))
        with builder.if_then(builder.and_(touched, builder.or_(below, above)), likely=False):
            context.call_conv.return_user_exc(builder, IndexError, ("a vector reaches beyond its array",))
    return builder.bitcast(builder.gep(struct.data, [start]), Vector(array_type.dtype).native.as_pointer())


def element_address(context: Any, builder: Any, array_type: Any, array: Any, at: Any) -> Any:
    """The address of one element, checked like that of a vector."""
    pointer = address(context, builder, array_type, array, at, I64(1))
    return builder.bitcast(pointer, NATIVE[array_type.dtype].as_pointer())


def clipped(builder: Any, n: Any, most: int = LANES) -> Any:
    n = builder.select(builder.icmp_signed("<", n, I64(most)), n, I64(most))
    return builder.select(builder.icmp_signed(">", n, I64(0)), n, I64(0))


def first_lanes(builder: Any, n: Any, of: int = LANES) -> Any:
    """The mask of lanes 0 .. n - 1."""
    lanes = ir.Constant(ir.VectorType(I32, of), list(range(of)))
    return builder.icmp_signed("<", lanes, spread(builder, builder.trunc(n, I32), of))


def masked_name(verb: str, vectors: str) -> str:
    """The name of a masked load or store of vectors of this `suffix(…)`."""
    return f"llvm.masked.{verb}.{vectors}." + ("p0" if _OPAQUE else f"p0{vectors}")


def store_first(builder: Any, dtype: types.Type, vectors: list[Any], pointers: list[Any], n: Any) -> None:
    """Write the first n lanes, from none to all, of each of several vectors to its pointer."""
    lanes, align = vectors[0].type.count, dtype.bitwidth // 8
    if MASKED_STORES:
        mask, name = first_lanes(builder, n, lanes), masked_name("store", suffix(dtype, lanes))
        for vector, pointer in zip(vectors, pointers, strict=True):
            call(builder, name, ir.VoidType(), [vector, pointer, I32(align), mask])
        return
    with builder.if_else(builder.icmp_signed("==", n, I64(lanes)), likely=True) as (whole, part):
        with whole:
            for vector, pointer in zip(vectors, pointers, strict=True):
                builder.store(vector, pointer, align=align)
        with part:
            _store_pieces(builder, dtype, vectors, pointers, n)


def _store_pieces(builder: Any, dtype: types.Type, vectors: list[Any], pointers: list[Any], n: Any) -> None:
    """Half a vector, a quarter, … one lane, as the bits of n say."""
    size, align = vectors[0].type.count // 2, dtype.bitwidth // 8
    while size:
        low, high = (ir.Constant(ir.VectorType(I32, size), list(range(i, i + size))) for i in (0, size))
        wanted = builder.icmp_signed("!=", builder.and_(n, I64(size)), I64(0))
        done, rest = builder.and_(n, I64(-2 * size)), []
        first = [builder.shuffle_vector(vector, vector, low) for vector in vectors]
        with builder.if_then(wanted):
            for piece, pointer in zip(first, pointers, strict=True):
                start = builder.gep(builder.bitcast(pointer, NATIVE[dtype].as_pointer()), [done])
                builder.store(piece, builder.bitcast(start, piece.type.as_pointer()), align=align)
        for vector, piece in zip(vectors, first, strict=True):
            rest.append(builder.select(wanted, builder.shuffle_vector(vector, vector, high), piece))
        vectors, size = rest, size // 2


@intrinsic
def flat(typingctx, array):
    """A strided array as a flat one over the same memory: element 0 is the first element, offsets count elements."""
    line = types.Array(array.dtype, 1, "C")

    def codegen(context, builder, sig, values):
        source = context.make_array(array)(context, builder, values[0])
        result = context.make_array(line)(context, builder)
        reach, known = I64(1), cgutils.true_bit
        strides = cgutils.unpack_tuple(builder, source.strides)
        for extent, stride in zip(cgutils.unpack_tuple(builder, source.shape), strides, strict=True):
            steps = builder.sdiv(stride, I64(array.dtype.bitwidth // 8))
            reach = builder.add(reach, builder.mul(builder.sub(extent, I64(1)), steps))
            known = builder.and_(known, builder.icmp_signed(">=", stride, I64(0)))
        size = builder.select(known, reach, I64(UNKNOWN))
        result.data, result.nitems, result.itemsize = source.data, size, source.itemsize
        result.shape = cgutils.pack_array(builder, [size], I64)
        result.strides = cgutils.pack_array(builder, [source.itemsize], I64)
        result.meminfo = cgutils.get_null_value(result.meminfo.type)
        result.parent = cgutils.get_null_value(result.parent.type)
        return result._getvalue()

    return line(array), codegen


@intrinsic
def load(typingctx, array, start):
    """Elements start .. start + 15 of an array."""
    vector = Vector(array.dtype)

    def codegen(context, builder, sig, values):
        pointer = address(context, builder, array, *values, I64(LANES))
        return builder.load(pointer, align=array.dtype.bitwidth // 8)

    return vector(array, types.int64), codegen


@intrinsic
def load_tail(typingctx, array, start, n):
    """Elements start .. start + n - 1 of an array, then zeros; n ≥ 16 loads 16, n ≤ 0 none."""
    vector = Vector(array.dtype)

    def codegen(context, builder, sig, values):
        n = clipped(builder, values[2])
        pointer = address(context, builder, array, values[0], values[1], n)
        zeros = cgutils.get_null_value(vector.native)
        operands = [pointer, I32(array.dtype.bitwidth // 8), first_lanes(builder, n), zeros]
        return call(builder, masked_name("load", vector.suffix), vector.native, operands)

    return vector(array, types.int64, types.int64), codegen


@intrinsic
def store(typingctx, array, start, vector):
    """Write a vector to elements start .. start + 15 of an array."""

    def codegen(context, builder, sig, values):
        pointer = address(context, builder, array, *values[:2], I64(LANES))
        builder.store(values[2], pointer, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.int64, Vector(array.dtype)), codegen


@intrinsic
def store_tail(typingctx, array, start, vector, n):
    """Write the first n lanes of a vector to elements start .. start + n - 1 of an array."""

    def codegen(context, builder, sig, values):
        n = clipped(builder, values[3])
        pointer = address(context, builder, array, *values[:2], n)
        store_first(builder, array.dtype, [values[2]], [pointer], n)
        return context.get_dummy_value()

    return types.void(array, types.int64, Vector(array.dtype), types.int64), codegen


@intrinsic
def prefetch(typingctx, array, start):
    """Ask for the cache line of element `start`, which may lie beyond the array."""

    def codegen(context, builder, sig, values):
        struct = context.make_array(array)(context, builder, values[0])
        pointer = builder.bitcast(builder.gep(struct.data, [values[1]]), ir.IntType(8).as_pointer())
        name = "llvm.prefetch.p0" if _OPAQUE else "llvm.prefetch.p0i8"
        call(builder, name, ir.VoidType(), [pointer, I32(0), I32(3), I32(1)])
        return context.get_dummy_value()

    return types.void(array, types.int64), codegen


# --- making vectors -------------------------------------------------------------------------------


@intrinsic
def splat(typingctx, number, like):
    """A number in every lane, in the dtype of `like` (an array or a vector)."""
    vector = Vector(like.dtype)

    def codegen(context, builder, sig, values):
        return spread(builder, context.cast(builder, values[0], number, vector.dtype))

    return vector(number, like), codegen


@intrinsic
def select(typingctx, mask, x, y):
    """x where the mask is true, else y."""
    return x(mask, x, x), lambda context, builder, sig, values: builder.select(*values)


@intrinsic
def bits(typingctx, x):
    """The bits of a vector of floats as integers of the same size, and the other way round."""
    other = {types.float32: types.int32, types.int32: types.float32, types.float64: types.int64}
    vector = Vector(other.get(x.dtype, types.float64))
    return vector(x), lambda context, builder, sig, values: builder.bitcast(values[0], vector.native)


# --- arithmetic -----------------------------------------------------------------------------------


@intrinsic
def fma(typingctx, x, y, z):
    """x y + z, rounded once. Each of the first two may be a plain number."""
    vector = z

    def codegen(context, builder, sig, values):
        operands = [as_vector(context, builder, t, vector, v) for t, v in zip(sig.args, values, strict=True)]
        return call(builder, f"llvm.fma.{vector.suffix}", vector.native, operands)

    return vector(x, y, z), codegen


@intrinsic
def greater(typingctx, x, y):
    """The larger of x and y in each lane; y where either is NaN."""

    def codegen(context, builder, sig, values):
        return builder.select(builder.fcmp_ordered(">", *values), *values)

    return x(x, x), codegen


def as_vector(context: Any, builder: Any, source: Any, vector: Vector, value: Any) -> Any:
    if isinstance(source, Vector):
        return value
    return spread(builder, context.cast(builder, value, source, vector.dtype))


def _operator(symbol: Callable[..., Any], emit: Callable[..., Any], compares: bool = False) -> None:
    """Let `symbol` work on two vectors, or a vector and a number: `emit(builder, dtype, x, y)`."""

    @infer_global(symbol)
    class _Template(AbstractTemplate):
        def generic(self, args, kws):
            vectors = [a for a in args if isinstance(a, Vector)]
            if len(args) != 2 or not vectors or not all(isinstance(a, Vector | types.Number) for a in args):
                return None
            return signature(Vector(types.boolean) if compares else vectors[0], *args)

    def codegen(context, builder, sig, values):
        vector = next(a for a in sig.args if isinstance(a, Vector))
        operands = [as_vector(context, builder, t, vector, v) for t, v in zip(sig.args, values, strict=True)]
        return emit(builder, vector.dtype, *operands)

    for kinds in [(Vector, Vector), (Vector, types.Number), (types.Number, Vector)]:
        lower_builtin(symbol, *kinds)(codegen)


def _arithmetic(on_floats: str, on_integers: str) -> Callable[..., Any]:
    return lambda builder, dtype, x, y: getattr(builder, on_floats if dtype in _FLOATS else on_integers)(x, y)


def _comparison(sign: str) -> Callable[..., Any]:
    def emit(builder, dtype, x, y):
        if dtype not in _FLOATS:
            return builder.icmp_signed(sign, x, y)
        return (builder.fcmp_unordered if sign == "!=" else builder.fcmp_ordered)(sign, x, y)

    return emit


for _symbol, _instruction in [
    (operator.add, _arithmetic("fadd", "add")),
    (operator.sub, _arithmetic("fsub", "sub")),
    (operator.mul, _arithmetic("fmul", "mul")),
    (operator.truediv, _arithmetic("fdiv", "sdiv")),
    (operator.and_, _arithmetic("and_", "and_")),
    (operator.or_, _arithmetic("or_", "or_")),
    (operator.xor, _arithmetic("xor", "xor")),
    (operator.lshift, _arithmetic("shl", "shl")),
    (operator.rshift, _arithmetic("ashr", "ashr")),
]:
    _operator(_symbol, _instruction)

for _symbol, _sign in [
    (operator.lt, "<"), (operator.le, "<="), (operator.gt, ">"), (operator.ge, ">="), (operator.eq, "=="),
    (operator.ne, "!="),
]:  # fmt: skip
    _operator(_symbol, _comparison(_sign), compares=True)


@infer_global(operator.neg)
class _Negate(AbstractTemplate):
    def generic(self, args, kws):
        return signature(args[0], args[0]) if len(args) == 1 and isinstance(args[0], Vector) else None


@lower_builtin(operator.neg, Vector)
def _negate(context, builder, sig, values):
    return builder.fneg(values[0]) if sig.args[0].dtype in _FLOATS else builder.neg(values[0])


# --- across the lanes -----------------------------------------------------------------------------


def _tree(combine: Callable[..., Any]) -> Callable[..., Any]:
    """Combine 16 lanes by one fixed tree: lanes 8 apart, then 4, 2 and 1."""

    def codegen(context, builder, sig, values):
        value, width = values[0], LANES
        while width > 1:
            width //= 2
            halves = [ir.Constant(ir.VectorType(I32, width), list(range(at, at + width))) for at in (0, width)]
            undefined = ir.Constant(value.type, ir.Undefined)
            low, high = (builder.shuffle_vector(value, undefined, half) for half in halves)
            value = combine(builder, low, high)
        return builder.extract_element(value, I32(0))

    return codegen


@intrinsic
def sum_lanes(typingctx, x):
    """The sum of the lanes, by a fixed tree: ((lanes i and i + 8) and i + 4) and so on."""
    return x.dtype(x), _tree(lambda builder, low, high: builder.fadd(low, high))


@intrinsic
def max_lanes(typingctx, x):
    """The largest lane (lanes that are NaN may be passed over)."""
    return x.dtype(x), _tree(lambda builder, low, high: builder.select(builder.fcmp_ordered(">", low, high), low, high))
