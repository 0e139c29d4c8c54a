"""What an instruction computes, as a Python expression.

Registers hold NumPy arrays of a number for each thread, or numbers that all threads share: `pred` bool, `b16`, `b32`,
`b64` signed whole numbers, `f32` and `f64` floats. An instruction sees them in its own types, which are other views of
the same bits.
"""
from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from .parsing import Instruction, Unknown

HELD: dict[str, Any] = {"pred": np.bool_, "b8": np.int8, "b16": np.int16, "b32": np.int32, "b64": np.int64,
                        "f32": np.float32, "f64": np.float64}  # fmt: skip
TYPES: dict[str, Any] = {f"{kind}{bits}": getattr(np, f"{name}{bits}")
         for kind, name in (("s", "int"), ("b", "int"), ("u", "uint")) for bits in (8, 16, 32, 64)}  # fmt: skip
TYPES |= {"f32": np.float32, "f64": np.float64, "pred": np.bool_}


class Writer:
    """Writes expressions; constants go to `names`, which the written code sees."""

    def __init__(self, registers: dict[str, str], symbols: dict[str, int]) -> None:
        self.registers, self.symbols = registers, symbols
        self.names: dict[str, Any] = {**{f"T_{name}": kind for name, kind in TYPES.items()}, **_FUNCTIONS}
        self._constants: dict[Any, str] = {}

    def constant(self, value: Any) -> str:
        """A name for a NumPy number."""
        key = value.dtype.str, value.tobytes()
        if key not in self._constants:
            self._constants[key] = name = f"k{len(self._constants)}"
            self.names[name] = value
        return self._constants[key]

    def read(self, operand: str, kind: str) -> str:
        """An operand as a type of the instruction's: `u32`, `f64`, `pred` …"""
        wanted = TYPES[kind]
        if operand.startswith("%"):
            name = operand[1:]
            if name not in self.registers:
                return f"special({name.replace('.', '_')!r}, X).view(T_{kind})"
            held = HELD[self.registers[name]]
            text = variable(name)
            if held is wanted:
                return text
            if np.dtype(held).itemsize == np.dtype(wanted).itemsize:
                return f"{text}.view(T_{kind})"
            if np.dtype(held).itemsize > np.dtype(wanted).itemsize and held not in (np.float32, np.float64):
                return f"{text}.astype(T_{kind})"
            raise Unknown(f"{operand} of type {self.registers[name]} as {kind}")
        if operand in self.symbols:
            return self.constant(wanted(self.symbols[operand]))
        return self.constant(number(operand, kind))

    def result(self, register: str, expression: str, kind: str) -> str:
        """The statement that puts a number of a type of the instruction's into a register."""
        name = register.removeprefix("%")
        held, made = HELD[self.registers[name]], TYPES[kind]
        if held is made:
            return f"{variable(name)} = {expression}"
        if np.dtype(held).itemsize == np.dtype(made).itemsize:
            return f"{variable(name)} = view({expression}, T_{kind_of(held)})"
        if np.dtype(held).itemsize > np.dtype(made).itemsize and held not in (np.float32, np.float64):
            return f"{variable(name)} = {expression}.astype(T_{kind_of(held)})"
        raise Unknown(f"a {kind} into {register} of type {self.registers[name]}")


def kind_of(held: Any) -> str:
    """The type of an instruction that sees a register as it is held."""
    return next(name for name, kind in TYPES.items() if kind is held)


def variable(register: str) -> str:
    """A register as a Python variable."""
    return "v_" + re.sub(r"\W", "_", register)


def number(text: str, kind: str) -> Any:
    """An immediate operand. Raises Unknown."""
    wanted = TYPES[kind]
    if re.fullmatch(r"0[fF][0-9a-fA-F]{8}", text):
        return wanted(struct.unpack(">f", bytes.fromhex(text[2:]))[0])
    if re.fullmatch(r"0[dD][0-9a-fA-F]{16}", text):
        return wanted(struct.unpack(">d", bytes.fromhex(text[2:]))[0])
    try:
        whole = int(text, 0)
    except ValueError:
        raise Unknown(f"the operand {text}") from None
    if kind == "pred":
        return np.bool_(whole != 0)
    size = np.dtype(wanted).itemsize
    return np.frombuffer((whole % (1 << 8 * size)).to_bytes(size, "little"), wanted)[0]


def write(w: Writer, i: Instruction) -> list[str] | None:
    """The statements of an instruction that computes; None for one that does something else. Raises Unknown."""
    code, kind = i.code.split(".")[0], i.code.rsplit(".", 1)[-1]
    maker = _MAKERS.get(code)
    return None if maker is None else maker(w, i, kind)


_Maker = Callable[[Writer, Instruction, str], list[str]]


def _plain(pattern: str) -> _Maker:
    """An instruction of one type, whose operands are {0}, {1}, {2} and {T} its type."""

    def make(w: Writer, i: Instruction, kind: str) -> list[str]:
        read = [w.read(operand, kind) for operand in i.operands[1:]]
        return [w.result(i.operands[0], pattern.format(*read, T=f"T_{kind}"), kind)]

    return make


def _multiply(w: Writer, i: Instruction, kind: str) -> list[str]:
    if kind[0] == "f":
        return _plain("{0} * {1}")(w, i, kind)
    return [_whole_product(w, i, kind, "")]


def _multiply_and_add(w: Writer, i: Instruction, kind: str) -> list[str]:
    if kind[0] == "f":
        return _plain("fma({0}, {1}, {2})")(w, i, kind)
    wide = f"{kind[0]}{2 * int(kind[1:])}" if ".wide" in i.code else kind
    return [_whole_product(w, i, kind, f" + {w.read(i.operands[3], wide)}")]


def _whole_product(w: Writer, i: Instruction, kind: str, more: str) -> str:
    a, b = w.read(i.operands[1], kind), w.read(i.operands[2], kind)
    if ".wide" in i.code:
        wide = f"{kind[0]}{2 * int(kind[1:])}"
        return w.result(i.operands[0], f"{a}.astype(T_{wide}) * {b}.astype(T_{wide}){more}", wide)
    if ".hi" in i.code and kind.endswith("64"):
        raise Unknown(i.code)
    if ".hi" in i.code:
        return w.result(i.operands[0], f"high({a}, {b}){more}", kind)
    return w.result(i.operands[0], f"{a} * {b}{more}", kind)


def _divide(w: Writer, i: Instruction, kind: str) -> list[str]:
    return _plain("{0} / {1}" if kind[0] == "f" else "quotient({0}, {1})")(w, i, kind)


def _compare(w: Writer, i: Instruction, kind: str) -> list[str]:
    parts = i.code.split(".")[1:-1]
    how = parts[0]
    a, b = w.read(i.operands[1], kind), w.read(i.operands[2], kind)
    if how in ("nan", "num"):
        text = f"unordered({a}, {b})" if how == "nan" else f"~unordered({a}, {b})"
    else:
        unordered = kind[0] == "f" and how.endswith("u") and how != "u"
        sign = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "lo": "<", "ls": "<=",
                "hi": ">", "hs": ">="}[how[:2]]  # fmt: skip
        text = f"({a} {sign} {b})"
        if unordered:
            text = f"({text} | unordered({a}, {b}))"
        elif kind[0] == "f" and how == "ne":
            text = f"({text} & ~unordered({a}, {b}))"
    if len(parts) > 1 and parts[1] in ("and", "or", "xor"):
        text = f"({text} {dict(zip(('and', 'or', 'xor'), '&|^', strict=True))[parts[1]]} "\
               f"{w.read(i.operands[3], 'pred')})"
    if "|" in i.operands[0]:
        raise Unknown(i.code)
    return [w.result(i.operands[0], text, "pred")]


def _select(w: Writer, i: Instruction, kind: str) -> list[str]:
    a, b, p = w.read(i.operands[1], kind), w.read(i.operands[2], kind), w.read(i.operands[3], "pred")
    return [w.result(i.operands[0], f"choose({p}, {a}, {b})", kind)]


def _shift(direction: str) -> _Maker:
    def make(w: Writer, i: Instruction, kind: str) -> list[str]:
        bits = int(kind[1:])
        by = i.operands[2]
        x = w.read(i.operands[1], kind)
        if by.startswith("%"):
            text = f"shifted_{direction}({x}, {w.read(by, 'u32')})"
        elif int(by, 0) >= bits:
            text = f"shifted_{direction}({x}, {w.constant(np.uint32(int(by, 0)))})"
        else:
            text = f"({x} {'<<' if direction == 'left' else '>>'} {w.constant(TYPES[kind](int(by, 0)))})"
        return [w.result(i.operands[0], text, kind)]

    return make


def _move(w: Writer, i: Instruction, kind: str) -> list[str]:
    to, of = i.operands
    half = {"b64": "b32", "b32": "b16"}.get(kind.replace("u", "b").replace("s", "b"))
    if of.startswith("{"):
        low, high = (w.read(part.strip(), str(half)) for part in of[1:-1].split(","))
        return [w.result(to, f"joined({low}, {high})", kind)]
    if to.startswith("{"):
        parts = [part.strip() for part in to[1:-1].split(",")]
        return [w.result(part, f"halves({w.read(of, kind)})[{n}]", str(half))
                for n, part in enumerate(parts) if part != "_"]  # fmt: skip
    return [w.result(to, w.read(of, kind), kind)]


def _convert(w: Writer, i: Instruction, kind: str) -> list[str]:
    parts = i.code.split(".")[1:]
    to, of = parts[-2], parts[-1]
    if to == "bf16x2":
        high, low = w.read(i.operands[1], "f32"), w.read(i.operands[2], "f32")
        return [w.result(i.operands[0], f"two_bfloat16({low}, {high})", "b32")]
    x = w.read(i.operands[1], of)
    how = parts[0]
    if "sat" in parts:
        raise Unknown(i.code)
    if to[0] == "f" and of[0] == "f":
        text = {"rzi": f"np.trunc({x})", "rni": f"np.rint({x})", "rmi": f"np.floor({x})",
                "rpi": f"np.ceil({x})"}.get(how, x)  # fmt: skip
        return [w.result(i.operands[0], f"{text}.astype(T_{to})", to)]
    if of[0] == "f":
        rounding = {"rzi": "np.trunc", "rni": "np.rint", "rmi": "np.floor", "rpi": "np.ceil"}[how]
        return [w.result(i.operands[0], f"whole({rounding}({x}), T_{to})", to)]
    return [w.result(i.operands[0], f"{x}.astype(T_{to})", to)]


def _insert(w: Writer, i: Instruction, kind: str) -> list[str]:
    f, onto = w.read(i.operands[1], kind), w.read(i.operands[2], kind)
    start, length = (int(operand, 0) for operand in i.operands[3:])
    mask = ((1 << length) - 1) << start
    m = w.constant(number(str(mask), kind))
    rest = w.constant(number(str(~mask), kind))
    by = w.constant(TYPES[kind](start))
    return [w.result(i.operands[0], f"(({f} << {by}) & {m}) | ({onto} & {rest})", kind)]


def _count_bits(w: Writer, i: Instruction, kind: str) -> list[str]:
    unsigned = "u" + kind[1:]
    return [w.result(i.operands[0], f"np.bitwise_count({w.read(i.operands[1], unsigned)}).astype(T_u32)", "u32")]


def _global_address(w: Writer, i: Instruction, kind: str) -> list[str]:
    if ".to.global" not in i.code:
        raise Unknown(i.code)
    return [w.result(i.operands[0], w.read(i.operands[1], kind), kind)]


def _extreme(name: str) -> _Maker:
    def make(w: Writer, i: Instruction, kind: str) -> list[str]:
        if "NaN" in i.code:
            raise Unknown(i.code)
        over = f"np.f{name}" if kind[0] == "f" else f"np.{name}imum"
        return _plain(over + "({0}, {1})")(w, i, kind)

    return make


def _not(w: Writer, i: Instruction, kind: str) -> list[str]:
    return _plain("~{0}")(w, i, kind)


_MAKERS: dict[str, _Maker] = {
    "add": _plain("{0} + {1}"), "sub": _plain("{0} - {1}"), "mul": _multiply, "mad": _multiply_and_add,
    "fma": _multiply_and_add, "div": _divide, "rem": _plain("remainder({0}, {1})"), "setp": _compare, "selp": _select,
    "shl": _shift("left"), "shr": _shift("right"), "and": _plain("{0} & {1}"), "or": _plain("{0} | {1}"),
    "xor": _plain("{0} ^ {1}"), "not": _not, "mov": _move, "cvt": _convert, "bfi": _insert, "popc": _count_bits,
    "cvta": _global_address, "min": _extreme("min"), "max": _extreme("max"), "abs": _plain("np.abs({0})"),
    "neg": _plain("-{0}"), "rcp": _plain("{T}(1) / {0}"), "sqrt": _plain("np.sqrt({0})"),
}  # fmt: skip


# --- what expressions call ------------------------------------------------------------------------
def view(x: Any, kind: Any) -> Any:
    """The same bits as another type."""
    return np.asarray(x).view(kind)[()] if not isinstance(x, np.ndarray) else x.view(kind)


def fma(a: Any, b: Any, c: Any) -> Any:
    """a b + c, rounded once (float64: but for ties that only a third float64 would show)."""
    if a.dtype == np.float32:
        return (np.multiply(a, b, dtype=np.float64) + c).astype(np.float32)
    product, rest = _exact_product(a, b)
    total = product + c
    part = total - product
    lost = (product - (total - part)) + (c - part)
    return np.where(np.isfinite(total), total + (lost + rest), a * b + c)[()]


def _exact_product(a: Any, b: Any) -> tuple[Any, Any]:
    """a b in two float64 (Dekker, "A floating-point technique for extending the available precision", 1971, §5)."""
    def split(x: Any) -> tuple[Any, Any]:
        scaled = x * np.float64(2**27 + 1)
        high = scaled - (scaled - x)
        return high, x - high

    product, (a1, a2), (b1, b2) = a * b, split(a), split(b)
    return product, ((a1 * b1 - product) + a1 * b2 + a2 * b1) + a2 * b2


def choose(p: Any, a: Any, b: Any) -> Any:
    """a where p holds, else b."""
    return np.where(p, a, b) if isinstance(p, np.ndarray) and p.ndim else a if p else b


def unordered(a: Any, b: Any) -> Any:
    """Whether one of both is not a number."""
    return np.isnan(a) | np.isnan(b)


def quotient(a: Any, b: Any) -> Any:
    """Towards zero, as C divides."""
    if a.dtype.kind == "u":
        return a // b
    magnitude = np.abs(a) // np.abs(b)
    return np.where((a < 0) != (b < 0), -magnitude, magnitude)[()]


def remainder(a: Any, b: Any) -> Any:
    """With the sign of the dividend."""
    return a - quotient(a, b) * b


def high(a: Any, b: Any) -> Any:
    """The upper half of a product of two numbers of 32 bits."""
    wide = np.int64 if a.dtype.kind == "i" else np.uint64
    return ((a.astype(wide) * b.astype(wide)) >> wide(32)).astype(a.dtype)


def shifted_left(x: Any, by: Any) -> Any:
    """x << by, where more than all bits leave none."""
    bits = 8 * x.dtype.itemsize
    inside = np.minimum(by, bits - 1).astype(x.dtype)
    return np.where(by < bits, x << inside, x.dtype.type(0))[()]


def shifted_right(x: Any, by: Any) -> Any:
    """x >> by, where more than all bits leave the sign's."""
    bits = 8 * x.dtype.itemsize
    inside = np.minimum(by, bits - 1).astype(x.dtype)
    over = x >> x.dtype.type(bits - 1) if x.dtype.kind == "i" else x.dtype.type(0)
    return np.where(by < bits, x >> inside, over)[()]


def joined(low: Any, high: Any) -> Any:
    """Two numbers as the halves of one."""
    narrow, wide = (np.uint16, np.int32) if low.dtype.itemsize == 2 else (np.uint32, np.int64)
    bits = 8 * np.dtype(narrow).itemsize
    return (view(low, narrow).astype(wide) | (high.astype(wide) << wide(bits)))[()]


def halves(x: Any) -> tuple[Any, Any]:
    """The low and the high half of a number."""
    x = view(x, np.int64 if x.dtype.itemsize == 8 else np.int32)
    narrow = np.int32 if x.dtype.itemsize == 8 else np.int16
    return x.astype(narrow), (x >> x.dtype.type(4 * x.dtype.itemsize)).astype(narrow)


def two_bfloat16(low: Any, high: Any) -> Any:
    """Two float32 rounded to bfloat16, to the nearest and then even, as the halves of a word (PTX ISA, "cvt")."""
    def rounded(x: Any) -> Any:
        bits = view(x, np.uint32).astype(np.int64)
        near = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        return np.where(np.isnan(x), 0x7FFF, near & 0xFFFF)

    return (rounded(low) | (rounded(high) << 16)).astype(np.int32)


def whole(x: Any, kind: Any) -> Any:
    """A float without a fraction as a whole number: the nearest there is, and 0 for NaN (PTX ISA, "cvt")."""
    limits = np.iinfo(kind)
    low, high = float(limits.min), float(limits.max)
    inside = np.where(np.isnan(x), 0, np.clip(x.astype(np.float64), low, np.nextafter(high, 0) if high > 2**53
                                              else high))  # fmt: skip
    return np.where(x >= high, limits.max, inside.astype(kind))[()].astype(kind)


_FUNCTIONS: dict[str, Any] = {"np": np} | {f.__name__: f for f in (
    view, fma, choose, unordered, quotient, remainder, high, shifted_left, shifted_right, joined, halves, two_bfloat16,
    whole)}  # fmt: skip
