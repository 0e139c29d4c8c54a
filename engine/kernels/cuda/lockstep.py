"""A faster CUDA simulator: all threads of a block at once, in lockstep, every variable an array of a number a thread.

A kernel's source is rewritten so that each statement runs once for the whole block, under a mask of the threads that
take part: `if` narrows the mask, a loop goes on while any thread does, `return` takes threads out. What is the same for
all threads (arguments, blockIdx, loop counters) stays a plain number, and so does what follows from it. Python's float
literals are float64, as on a card.

It finds barriers and exchanges that not all threads of a block or warp reach, and indices outside an array, and names
them like `simulator.py`. It does not find a missing barrier, because no thread runs ahead here; the other simulator
does, and a test holds the two against each other. `compiled` raises `NotLockstep` for what it cannot rewrite; then that
one runs the kernel.
"""

import ast
import builtins
import inspect
import math
import textwrap
from collections.abc import Callable
from typing import Any

from . import stand_in
from .lockstep_cuda import LockstepCuda
from .lockstep_values import Lanes, NotLockstep

_RUN = "_lanes"  # the name of the runtime in rewritten code
_ALLOWED = (ast.Assign, ast.AugAssign, ast.Expr, ast.If, ast.For, ast.While, ast.Return, ast.Pass, ast.Break,
            ast.Continue, ast.AnnAssign)  # fmt: skip

_made: dict[Any, Callable[..., Any]] = {}


class Scope(dict):
    """The names that a function sees, as they are when it asks: its closure, its module, Python's own."""

    def __init__(self, function: Any) -> None:
        super().__init__({"__builtins__": {}, "_lanes": Lanes})
        cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        self._closure = dict(cells)
        self._names = function.__globals__

    def __missing__(self, name: str) -> Any:
        if name in self._closure:
            value = self._closure[name].cell_contents
        else:
            try:
                value = self._names[name]
            except KeyError:
                value = getattr(builtins, name)
        if value is stand_in.cuda:
            return _CUDA
        return math if value is stand_in.typed_math else value


_CUDA = LockstepCuda()


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function in lockstep: (mask, *arguments) -> its result. Raises NotLockstep."""
    key = function
    if key not in _made:
        _made[key] = _rewritten(function)
    return _made[key]


def _rewritten(function: Any) -> Callable[..., Any]:
    if any(name.startswith("async_") for name in function.__code__.co_names):
        raise NotLockstep("copies that arrive later are for the simulator of threads")
    try:
        source = textwrap.dedent(inspect.getsource(function))
        tree: Any = ast.parse(source).body[0]
    except (OSError, TypeError, SyntaxError) as e:
        raise NotLockstep(f"{getattr(function, '__name__', function)} has no source ({e})") from None
    if not isinstance(tree, ast.FunctionDef):
        raise NotLockstep(f"{function.__name__} is not a function with statements")
    ast.increment_lineno(tree, function.__code__.co_firstlineno - 1)
    tree = _Rewriter(tree).function()
    module = ast.fix_missing_locations(ast.Module([tree], []))
    names = Scope(function)
    exec(compile(module, function.__code__.co_filename, "exec"), names)
    return names.pop(tree.name)


class _Rewriter(ast.NodeTransformer):
    """Statements and expressions under masks. `mask` is the name of the mask that holds where it is."""

    def __init__(self, tree: ast.FunctionDef) -> None:
        self.tree, self.mask, self.count = tree, "_m0", 0
        self.loops: list[tuple[str, str]] = []           # (mask of who has broken out, of who goes to the next turn)

    def function(self) -> ast.FunctionDef:
        t = self.tree
        given = [a.arg for a in t.args.args]
        stored = {n.id for n in ast.walk(t) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        comprehended = {n.id for c in ast.walk(t) if isinstance(c, ast.comprehension)
                        for n in ast.walk(c.target) if isinstance(n, ast.Name)}  # fmt: skip
        local = sorted(stored - set(given) - comprehended)
        begin = [_code(f"{name} = {_RUN}.UNSET") for name in local]
        begin += [_code(f"_left = {_RUN}.NOBODY"), _code(f"_result = {_RUN}.UNSET")]
        body = self.block(t.body)
        t.args.args = [ast.arg("_m0"), *t.args.args]
        t.args.defaults, t.decorator_list, t.returns = [], [], None
        t.body = [*begin, *body, _code("return _result")]
        return t

    def fresh(self, what: str = "_m") -> str:
        self.count += 1
        return f"{what}{self.count}"

    # -- statements
    def block(self, body: list[ast.stmt]) -> list[ast.stmt]:
        """Statements under the present mask; after one that may take threads out, the rest under what is left."""
        out: list[ast.stmt] = []
        outer = self.mask
        for i, s in enumerate(body):
            out += self.statement(s)
            rest = body[i + 1:]
            if rest and _leaves(s):
                self.mask = self.fresh()
                gone = ["_left", *(name for loop in self.loops[-1:] for name in loop)]
                out.append(_code(f"{self.mask} = {_RUN}.without({outer}, {', '.join(gone)})", s))
                inner = self.block(rest)
                out.append(_under(self.mask, inner, s))
                break
        self.mask = outer
        return out or [ast.Pass()]

    def statement(self, s: ast.stmt) -> list[ast.stmt]:
        if not isinstance(s, _ALLOWED):
            raise NotLockstep(f"line {s.lineno}: {type(s).__name__}")
        return getattr(self, f"_{type(s).__name__.lower()}")(s)

    def _pass(self, s: ast.Pass) -> list[ast.stmt]:
        return []

    def _expr(self, s: ast.Expr) -> list[ast.stmt]:
        if isinstance(s.value, ast.Constant):
            return []
        return [ast.copy_location(ast.Expr(self.visit(s.value)), s)]

    def _annassign(self, s: ast.AnnAssign) -> list[ast.stmt]:
        return self._assign(ast.copy_location(ast.Assign([s.target], s.value), s)) if s.value is not None else []

    def _assign(self, s: ast.Assign) -> list[ast.stmt]:
        value = self.fresh("_v")
        out: list[ast.stmt] = [ast.copy_location(ast.Assign([_name(value, True)], self.visit(s.value)), s)]
        for target in s.targets:
            out += self.store(target, _name(value), s)
        return out

    def store(self, target: ast.expr, value: ast.expr, s: ast.stmt) -> list[ast.stmt]:
        if isinstance(target, ast.Name):
            new = self.runtime("choose", _name(self.mask), _name(target.id), value)
            return [ast.copy_location(ast.Assign([_name(target.id, True)], new), s)]
        if isinstance(target, ast.Subscript):
            call = self.runtime("store", _name(self.mask), self.visit(target.value), self.index(target.slice), value)
            return [ast.copy_location(ast.Expr(call), s)]
        if isinstance(target, (ast.Tuple, ast.List)):
            out: list[ast.stmt] = []
            for i, part in enumerate(target.elts):
                out += self.store(part, ast.Subscript(value, ast.Constant(i), ast.Load()), s)
            return out
        raise NotLockstep(f"line {s.lineno}: an assignment to {type(target).__name__}")

    def _augassign(self, s: ast.AugAssign) -> list[ast.stmt]:
        old = ast.copy_location(_loading(s.target), s)
        new = ast.copy_location(ast.BinOp(old, s.op, s.value), s)
        return self._assign(ast.copy_location(ast.Assign([s.target], new), s))

    def _return(self, s: ast.Return) -> list[ast.stmt]:
        value = self.visit(s.value) if s.value is not None else ast.Constant(None)
        new = self.runtime("choose", _name(self.mask), _name("_result"), value)
        return [ast.copy_location(ast.Assign([_name("_result", True)], new), s),
                _code(f"_left = {_RUN}.joined(_left, {self.mask})", s)]  # fmt: skip

    def _if(self, s: ast.If) -> list[ast.stmt]:
        test, yes, no, outer = self.fresh("_c"), self.fresh(), self.fresh(), self.mask
        out = [ast.copy_location(ast.Assign([_name(test, True)], self.visit(s.test)), s),
               _code(f"{yes}, {no} = {_RUN}.split({outer}, {test})", s)]  # fmt: skip
        self.mask = yes
        out.append(_under(yes, self.block(s.body), s))
        if s.orelse:
            self.mask = no
            out.append(_under(no, self.block(s.orelse), s))
        self.mask = outer
        return out

    def _break(self, s: ast.Break) -> list[ast.stmt]:
        name = self.loops[-1][0]
        return [_code(f"{name} = {_RUN}.joined({name}, {self.mask})", s)]

    def _continue(self, s: ast.Continue) -> list[ast.stmt]:
        name = self.loops[-1][1]
        return [_code(f"{name} = {_RUN}.joined({name}, {self.mask})", s)]

    def _loop(self, s: Any, head: Callable[[str, str], ast.stmt], first: list[ast.stmt]) -> list[ast.stmt]:
        """A loop: `head` makes it from the masks' names, `first` begins each turn."""
        if s.orelse:
            raise NotLockstep(f"line {s.lineno}: a loop with else")
        outer, turn, broken, skipped = self.mask, self.fresh(), self.fresh("_b"), self.fresh("_n")
        self.loops.append((broken, skipped))
        self.mask = turn
        body = self.block(s.body)
        self.mask = outer
        self.loops.pop()
        loop: Any = head(turn, broken)
        loop.body = [_code(f"{skipped} = {_RUN}.NOBODY", s), *first, *body]
        return [_code(f"{broken} = {skipped} = {_RUN}.NOBODY", s), loop]

    def _for(self, s: ast.For) -> list[ast.stmt]:
        item, turn_of = self.fresh("_i"), self.fresh("_t")
        begun: list[ast.stmt] = []

        def head(turn: str, broken: str) -> ast.stmt:
            turns = self.runtime("turns", _name(self.mask), _thunk(self.visit(s.iter)),
                                 _thunk(_parsed(f"{_RUN}.without({self.mask}, _left, {broken})")))  # fmt: skip
            target = ast.Tuple([_name(turn, True), _name(item, True)], ast.Store())
            return ast.copy_location(ast.For(target, turns, [], []), s)

        outer, probe = self.mask, self.count + 1
        self.mask = f"_m{probe}"                          # the name that `_loop` will give to the turn's mask
        begun = self.store(s.target, _name(item), s)
        self.mask = outer
        del turn_of
        return self._loop(s, head, begun)

    def _while(self, s: ast.While) -> list[ast.stmt]:
        def head(turn: str, broken: str) -> ast.stmt:
            before, self.mask = self.mask, turn
            test = self.visit(s.test)
            self.mask = before
            still = _parsed(f"{_RUN}.without({self.mask}, _left, {broken})")
            turns = self.runtime("while_turns", _thunk(still), ast.Lambda(
                ast.arguments([], [ast.arg(turn)], None, [], [], None, []), test))  # fmt: skip
            return ast.copy_location(ast.For(_name(turn, True), turns, [], []), s)

        return self._loop(s, head, [])

    # -- expressions
    def runtime(self, name: str, *arguments: ast.expr) -> ast.Call:
        return ast.Call(ast.Attribute(_name(_RUN), name, ast.Load()), list(arguments), [])

    def index(self, node: ast.expr) -> ast.expr:
        if isinstance(node, ast.Tuple):
            return ast.Tuple([self.visit(e) for e in node.elts], ast.Load())
        return self.visit(node)

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        if isinstance(node.value, float):
            return ast.copy_location(self.runtime("float64", node), node)
        return node

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        return ast.copy_location(
            self.runtime("load", _name(self.mask), self.visit(node.value), self.index(node.slice)), node)  # fmt: skip

    def visit_Call(self, node: ast.Call) -> ast.expr:
        if any(isinstance(a, ast.Starred) for a in node.args):
            raise NotLockstep(f"line {node.lineno}: a call with *")
        where = ast.Constant(f"{node.lineno}:{node.col_offset}")
        call = self.runtime("call", _name(self.mask), where, self.visit(node.func), *(self.visit(a) for a in node.args))
        call.keywords = [ast.keyword(k.arg, self.visit(k.value)) for k in node.keywords]
        return ast.copy_location(call, node)

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        found = self.visit(node.values[-1])
        name = "both" if isinstance(node.op, ast.And) else "either"
        for value in reversed(node.values[:-1]):
            found = self.runtime(name, _name(self.mask), self.visit(value), self._masked(found))
        return ast.copy_location(found, node)

    def _masked(self, node: ast.expr) -> ast.Lambda:
        """An expression as a function of the mask under which it is computed."""
        return ast.Lambda(ast.arguments([], [ast.arg(self.mask)], None, [], [], None, []), node)

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        test, yes, no = (self.visit(n) for n in (node.test, node.body, node.orelse))
        return ast.copy_location(
            self.runtime("one_of", _name(self.mask), test, self._masked(yes), self._masked(no)), node)  # fmt: skip

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        operand = self.visit(node.operand)
        if isinstance(node.op, ast.Not):
            return ast.copy_location(self.runtime("negated", operand), node)
        return ast.copy_location(ast.UnaryOp(node.op, operand), node)

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        if len(node.ops) == 1:
            return self.generic_visit(node)  # type: ignore[return-value]
        terms = [node.left, *node.comparators]
        parts: list[ast.expr] = [ast.copy_location(ast.Compare(a, [op], [b]), node)
                                 for a, op, b in zip(terms, node.ops, terms[1:], strict=False)]  # fmt: skip
        return self.visit_BoolOp(ast.copy_location(ast.BoolOp(ast.And(), parts), node))


def _name(name: str, store: bool = False) -> ast.Name:
    return ast.Name(name, ast.Store() if store else ast.Load())


def _loading(target: ast.expr) -> Any:
    """A target, to be read."""
    if isinstance(target, ast.Name):
        return _name(target.id)
    if isinstance(target, ast.Subscript):
        return ast.Subscript(target.value, target.slice, ast.Load())
    raise NotLockstep(f"line {target.lineno}: += on {type(target).__name__}")


def _code(text: str, at: ast.AST | None = None) -> Any:
    made = ast.parse(text).body[0] if not text.startswith("return") else ast.Return(_name(text.split()[1]))
    for node in ast.walk(made):
        if at is not None and hasattr(at, "lineno"):
            ast.copy_location(node, at)
    return made


def _parsed(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


def _thunk(node: ast.expr) -> ast.Lambda:
    return ast.Lambda(ast.arguments([], [], None, [], [], None, []), node)


def _under(mask: str, body: list[ast.stmt], at: ast.stmt) -> ast.If:
    """Statements for which somebody is there."""
    test = _parsed(f"{mask} is not {_RUN}.NOBODY")
    return ast.copy_location(ast.If(test, body, []), at)


def _leaves(s: ast.stmt) -> bool:
    """Whether a statement may take threads out of what follows it."""
    return any(isinstance(n, (ast.Return, ast.Break, ast.Continue)) for n in ast.walk(s))

