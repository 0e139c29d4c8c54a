"""Instructions that move numbers between threads and memory, as Python statements: calls of `run.Run`, which is X."""
from __future__ import annotations

import re

import numpy as np

from .arithmetic import TYPES, Writer, number, write
from .parsing import Instruction, Unknown


def statements(w: Writer, i: Instruction) -> list[str]:
    """An instruction in Python."""
    if i.predicate:
        raise Unknown("a predicate before something other than a branch")
    made = write(w, i)
    return _others(w, i) if made is None else made


def _others(w: Writer, i: Instruction) -> list[str]:
    """Instructions that move numbers between threads and memory."""
    code, parts = i.code, i.code.split(".")
    if code.startswith(("ld.", "st.")):
        return _access(w, i, parts)
    if code.startswith("cp.async.wait_group"):
        return [f"X.wait({int(i.operands[0], 0)})"]
    if code == "cp.async.commit_group":
        return ["X.commit()"]
    if code.startswith("cp.async."):
        size = int(i.operands[2], 0)
        there = w.read(i.operands[3], "b32") if len(i.operands) > 3 else w.constant(np.int32(size))
        return [f"X.ask({_address(w, i.operands[0], 'b32')}, {_address(w, i.operands[1], 'b64')}, {size}, {there})"]
    if code == "bar.sync" and i.operands == ["0"]:
        return ["X.barrier()"]
    if code == "bar.red.or.pred" and i.operands[1] == "0":
        return [w.result(i.operands[0], f"X.any_of_block({w.read(i.operands[2], 'pred')})", "pred")]
    if code == "bar.warp.sync":
        return [f"X.warp_barrier({w.read(i.operands[0], 'b32')})"]
    if code.startswith("shfl.sync") and parts[2] in ("idx", "up", "down", "bfly"):
        return _shuffle(w, i, parts)
    if code.startswith("vote.sync") and parts[2] in ("any", "all", "ballot"):
        kind = "b32" if parts[2] == "ballot" else "pred"
        p, members = w.read(i.operands[1], "pred"), w.read(i.operands[2], "b32")
        return [w.result(i.operands[0], f"X.vote({parts[2]!r}, {p}, {members})", kind)]
    if code.startswith("mma.sync.aligned."):
        return _mma(w, i, parts)
    if code.startswith("ldmatrix.sync.aligned.m8n8.x") and code.endswith("shared.b16") and ".trans" not in code:
        return _matrices(w, i, parts)
    raise Unknown("an instruction that this machine does not have")


def names(operand: str) -> list[str]:
    """The registers in an operand."""
    return re.findall(r"%([\w$]+(?:\.[xyz])?)", operand)


def _address(w: Writer, operand: str, kind: str) -> str:
    """[register + number] or [variable + number]."""
    base, _, offset = operand.strip("[]").partition("+")
    text = w.read(base.strip(), kind)
    return f"({text} + {w.constant(number(offset.strip(), kind))})" if offset else text


def _access(w: Writer, i: Instruction, parts: list[str]) -> list[str]:
    known = {"global", "shared", "volatile", "nc", "v2", "v4", "relaxed", "weak"}
    if set(parts[1:-1]) - known or not {"global", "shared"} & set(parts):
        raise Unknown("a kind of memory")
    space, kind = "global" if "global" in parts else "shared", parts[-1]
    count = 4 if "v4" in parts else 2 if "v2" in parts else 1
    width = np.dtype(TYPES[kind]).itemsize
    place = _address(w, i.operands[0 if parts[0] == "st" else 1], "b64" if space == "global" else _width(w, i, parts))
    numbers = [x.strip() for x in i.operands[1 if parts[0] == "st" else 0].strip("{}").split(",")]
    if parts[0] == "st":
        given = ", ".join(w.read(x, kind) for x in numbers)
        return [f"X.store({space!r}, {place}, {width}, ({given},))"]
    lines = [f"words = X.load({space!r}, {place}, {width}, {count})"]
    return lines + [w.result(x, f"words[{n}].view(T_{kind})", kind) for n, x in enumerate(numbers)]


def _width(w: Writer, i: Instruction, parts: list[str]) -> str:
    """The type of the register with an address in shared memory."""
    registers = names(i.operands[0 if parts[0] == "st" else 1])
    return w.registers.get(registers[0], "b32") if registers else "b32"


def _shuffle(w: Writer, i: Instruction, parts: list[str]) -> list[str]:
    to, _, inside = i.operands[0].partition("|")
    x, by, clamp, members = (w.read(operand, "b32") for operand in i.operands[1:])
    lines = [f"both = X.shuffle({parts[2]!r}, {x}, {by}, {clamp}, {members})", w.result(to.strip(), "both[0]", "b32")]
    return [*lines, w.result(inside.strip(), "both[1]", "pred")] if inside.strip("% _") else lines


def _listed(w: Writer, operand: str, kind: str) -> str:
    return "[" + ", ".join(w.read(x.strip(), kind) for x in operand.strip("{}").split(",")) + "]"


def _mma(w: Writer, i: Instruction, parts: list[str]) -> list[str]:
    shape, kind = parts[3], parts[7]
    if (shape, kind) not in (("m16n8k8", "tf32"), ("m16n8k16", "bf16")) or parts[4:7] != ["row", "col", "f32"]:
        raise Unknown("a shape of mma")
    a, b, c = _listed(w, i.operands[1], "b32"), _listed(w, i.operands[2], "b32"), _listed(w, i.operands[3], "f32")
    to = [x.strip() for x in i.operands[0].strip("{}").split(",")]
    return [f"tile = X.mma({kind!r}, {a}, {b}, {c})", *(w.result(x, f"tile[{n}]", "f32") for n, x in enumerate(to))]


def _matrices(w: Writer, i: Instruction, parts: list[str]) -> list[str]:
    to = [x.strip() for x in i.operands[0].strip("{}").split(",")]
    lines = [f"words = X.matrices({_address(w, i.operands[1], 'b32')}, {len(to)})"]
    return lines + [w.result(x, f"words[{n}]", "b32") for n, x in enumerate(to)]
