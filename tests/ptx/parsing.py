"""PTX as instructions, in basic blocks.

Read is what NVVM writes: one kernel, functions that it calls (they are put where they are called), variables in shared
memory, and inline assembly with registers of its own in braces.
"""
from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

TOGETHER = ("bar.warp.sync", "shfl.sync", "vote.sync", "mma.sync", "ldmatrix.sync")
"""How instructions begin for which a warp must be complete."""
ALL = ("bar.sync", "bar.red", "barrier.sync")
"""How instructions begin for which a block must be complete."""


class Unknown(Exception):
    """PTX that this machine does not know."""


@dataclass
class Instruction:
    """An instruction, and the predicate without which it does nothing."""

    code: str
    operands: list[str]
    predicate: str = ""
    negated: bool = False
    line: int = 0


@dataclass
class Block:
    """Instructions that run one after the other: none but the last branches, none but the first waits for others."""

    instructions: list[Instruction]
    waits: str = ""  # "warp" or "block": for whom, before the first instruction
    branch: str = ""  # where to, if at all
    condition: str = ""
    negated: bool = False
    ends: bool = False


@dataclass
class Program:
    """A kernel. Parameters are registers of their names."""

    name: str
    parameters: list[str]
    shared: dict[str, int]  # variable -> offset in the block's shared memory
    shared_bytes: int  # before the memory that a launch asks for
    registers: dict[str, str]  # name -> type: "pred", "b16", "b32", "b64", "f32", "f64"
    blocks: list[Block] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)


def parse(text: str) -> Program:
    """The kernel in a PTX text. Raises Unknown."""
    text = re.sub(r"//[^\n]*", "", text)
    functions = {name: _Body(inner, parameters) for name, parameters, inner, kernel in _bodies(text) if not kernel}
    kernels = [(name, parameters, inner) for name, parameters, inner, kernel in _bodies(text) if kernel]
    if len(kernels) != 1:
        raise Unknown(f"{len(kernels)} kernels in a text")
    name, parameters, inner = kernels[0]
    shared, taken = _shared(text)
    reader = _Reader(functions)
    reader.read(inner, "")
    registers = reader.registers | dict(parameters)
    program = Program(name, [p for p, _ in parameters], shared, taken, registers)
    _split(program, reader.found)
    return program


def _bodies(text: str) -> Iterator[tuple[str, list[tuple[str, str]], str, bool]]:
    """(name, parameters, body, whether it is a kernel) of every function that has a body."""
    for head in re.finditer(r"\.(entry|func)\s*(?:\(([^)]*)\))?\s*([\w$]+)\s*\(([^)]*)\)([^{;]*)\{", text):
        depth, at = 1, head.end()
        while depth:
            depth += {"{": 1, "}": -1}.get(text[at], 0)
            at += 1
        parameters = re.findall(r"\.param\s+\.(\w+)\s+([\w$]+)", head[4])
        kinds = [(name, _held(kind)) for kind, name in parameters]
        yield head[3], kinds, text[head.end() : at - 1], head[1] == "entry"


def _held(kind: str) -> str:
    """The type of the register that holds a type: u32 and s32 are both b32."""
    return "b" + kind[1:] if kind[0] in "us" else kind


def _shared(text: str) -> tuple[dict[str, int], int]:
    """Where variables lie in shared memory: those of known size one after the other, all others behind them."""
    places, at, open_ended = {}, 0, []
    for align, size, name, count in re.findall(
        r"\.shared\s+\.align\s+(\d+)\s+\.b(\d+)\s+([\w$]+)(?:\[(\d*)\])?", text
    ):
        if count == "" and f"{name}[" in text:
            open_ended.append(name)
            continue
        at = -(-at // int(align)) * int(align)
        places[name] = at
        at += int(size) // 8 * int(count or 1)
    behind = -(-at // 16) * 16
    return places | dict.fromkeys(open_ended, behind), behind if open_ended else at


@dataclass
class _Body:
    text: str
    parameters: list[tuple[str, str]]


@dataclass
class _Scope:
    """Registers declared between two braces: by name, and by the beginning of their names."""

    prefix: str  # of what they are called here
    singles: dict[str, str] = field(default_factory=dict)
    ranges: dict[str, str] = field(default_factory=dict)


class _Reader:
    """Statements as instructions, with registers that are nobody else's."""

    def __init__(self, functions: dict[str, _Body]) -> None:
        self.functions = functions
        self.found: list[Instruction | str] = []  # a text is a label
        self.registers: dict[str, str] = {}
        self._calls = self._scopes = 0

    def read(self, text: str, prefix: str, back: str = "") -> None:
        """Read a body. prefix: of its registers and labels; back: the label behind a function that was called."""
        scopes = [_Scope(prefix)]
        for line, statement in _statements(text):
            while head := re.match(r"([{}])\s*|(\$?[\w$]+):(?!:)\s*", statement):
                if head[2]:
                    self.found.append(prefix + head[2])
                elif head[1] == "{":
                    self._scopes += 1
                    scopes.append(_Scope(f"{prefix}s{self._scopes}_"))
                else:
                    scopes.pop()
                statement = statement[head.end() :]
            if statement:
                self._statement(statement, line, scopes, prefix, back)

    def _statement(self, statement: str, line: int, scopes: list[_Scope], prefix: str, back: str) -> None:
        if statement.startswith(".reg"):
            self._declare(statement, scopes[-1])
            return
        if statement.startswith((".param", ".pragma", ".loc", ".file")):
            return
        if statement.startswith("."):
            raise Unknown(statement)
        match = re.match(r"(?:@(!?)([%\w$]+)\s+)?([\w.:]+)\s*(.*)", statement, re.S)
        if match is None:
            raise Unknown(statement)
        negated, predicate, code, rest = match.groups()
        if code.startswith("call"):
            self._call(rest, line, prefix)
            return
        operands = [self._renamed(operand, scopes) for operand in _operands(rest)]
        if code in ("bra", "bra.uni"):
            operands = [prefix + operands[0]]
        elif code == "ret" and back:
            code, operands = "bra", [back]
        elif code.startswith("st.param"):
            code, operands = "mov." + code.rsplit(".", 1)[1], [self._slot(operands[0], code, prefix), operands[1]]
        elif code.startswith("ld.param"):
            code, operands = "mov." + code.rsplit(".", 1)[1], [operands[0], self._slot(operands[1], code, prefix)]
        named = self._renamed(predicate, scopes) if predicate else ""
        self.found.append(Instruction(code, operands, named, bool(negated), line))

    def _declare(self, statement: str, scope: _Scope) -> None:
        match = re.match(r"\.reg\s+\.(\w+)\s+(.*)", statement)
        if match is None:
            raise Unknown(statement)
        kind = _held(match[1])
        for name in re.split(r"\s*,\s*", match[2]):
            several = re.match(r"%?(\w+)<\d+>", name)
            if several:
                scope.ranges[several[1]] = kind
            else:
                scope.singles[name.lstrip("%")] = kind

    def _renamed(self, operand: str, scopes: list[_Scope]) -> str:
        """An operand with the registers of its scope: %r1 becomes r1, in a scope or function p_r1."""

        def one(match: re.Match[str]) -> str:
            name = match[1]
            stem = re.match(r"[A-Za-z_$]+", name)
            for scope in reversed(scopes):
                kind = scope.singles.get(name) or (scope.ranges.get(stem[0]) if stem else None)
                if kind:
                    self.registers[scope.prefix + name] = kind
                    return "%" + scope.prefix + name
            return match[0]

        return re.sub(r"%([\w$]+)(?!\.)\b", one, operand) if "%" in operand else operand

    def _slot(self, operand: str, code: str, prefix: str) -> str:
        """The parameter that [name + 0] stands for, as a register."""
        match = re.match(r"\[([\w$]+)(?:\+0)?\]$", operand)
        if match is None:
            raise Unknown(f"{code} of {operand}")
        name = match[1] if match[1].startswith("_Z") else prefix + match[1]
        kind = code.rsplit(".", 1)[1]
        self.registers.setdefault(name, _held(kind))
        return "%" + name

    def _call(self, rest: str, line: int, prefix: str) -> None:
        match = re.match(r"\(\s*([\w$]+)\s*\)\s*,\s*([\w$]+)\s*,\s*\(([^)]*)\)$", rest)
        if match is None or match[2] not in self.functions:
            raise Unknown(f"call {rest}")
        self._calls += 1
        inner, body = f"{prefix}c{self._calls}_", self.functions[match[2]]
        given = [g.strip() for g in match[3].split(",")]
        for (name, kind), argument in zip(body.parameters, given, strict=True):
            self.registers[inner + name] = self.registers[prefix + argument] = kind
            self.found.append(Instruction(f"mov.{kind}", ["%" + inner + name, "%" + prefix + argument], line=line))
        back = f"{inner}back"
        self.read(body.text, inner, back)
        self.found.append(back)
        kind = self.registers[inner + "func_retval0"]
        self.registers[prefix + match[1]] = kind
        to, of = "%" + prefix + match[1], "%" + inner + "func_retval0"
        self.found.append(Instruction(f"mov.{kind}", [to, of], line=line))


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Statements without their semicolons, braces and labels before them, and the lines of the body on which they
    begin."""
    line = 1
    for part in text.split(";"):
        stripped = part.strip()
        if stripped:
            yield line + part[: len(part) - len(part.lstrip())].count("\n"), stripped
        line += part.count("\n")


def _operands(text: str) -> list[str]:
    """Operands, between commas that are in no braces."""
    found, depth, last = [], 0, ""
    for character in text:
        depth += {"{": 1, "}": -1, "[": 1, "]": -1}.get(character, 0)
        if character == "," and not depth:
            found.append(last.strip())
            last = ""
        else:
            last += character
    return [*found, last.strip()] if last.strip() else found


def _split(program: Program, found: list[Instruction | str]) -> None:
    """Basic blocks: they begin at labels, behind branches and where threads wait for each other."""
    current: list[Instruction] = []
    waits, complete = "", False

    def end(**how: object) -> None:
        nonlocal current, waits, complete
        program.blocks.append(Block(current, waits, **how))  # type: ignore[arg-type]
        current, waits, complete = [], "", False

    for item in found:
        if isinstance(item, str):
            if current:
                end()
            program.labels[item] = len(program.blocks)
            continue
        if item.code in ("bra", "bra.uni"):
            end(branch=item.operands[0], condition=item.predicate, negated=item.negated)
            continue
        if item.code in ("ret", "exit"):
            if item.predicate:
                raise Unknown(f"@{item.predicate} {item.code}")
            end(ends=True)
            continue
        for_block, for_warp = item.code.startswith(ALL), item.code.startswith(TOGETHER)
        if for_block or (for_warp and not complete):
            if current:
                end()
            waits, complete = ("block" if for_block else "warp"), True
        current.append(item)
    end(ends=True)
