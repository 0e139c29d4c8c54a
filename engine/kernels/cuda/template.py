"""Kernels with constants filled in: loops unrolled, arrays of registers made into local variables.

    @template
    def scale(x, out, n, *, PARTS, FACTOR, CLIPPED):
        y = registers(PARTS)
        for i in unroll(PARTS):
            y[i] = x[thread() * PARTS + i] * FACTOR
        if CLIPPED:
            ...

    scale("scale_4", PARTS=4, FACTOR=..., CLIPPED=False)      # a plain function of that name, for `kernel`

The constants are a template's keyword-only parameters, and whole numbers of its module. Its source is rewritten for
them: their names become numbers, arithmetic on numbers is done, `for i in unroll(…)` (the arguments of `range`) becomes
its body once for each i, an `if` whose condition is known keeps only the branch that is taken, and
`y = registers(n, m)` makes y[i, j] the variable y_i_j. A compiler then sees single numbers, which it keeps in
registers, where an array in local memory could end up in slow memory.
"""

import ast
import copy
import inspect
import linecache
import textwrap
from collections.abc import Callable, Iterator
from typing import Any


class template:
    """A function whose constants are yet to be chosen: call it with them to get a plain function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.__name__, self.__doc__ = function.__name__, function.__doc__
        self._tree: ast.FunctionDef | None = None

    def __call__(self, name: str, **constants: Any) -> Any:
        """The function, under a name, for these constants: numbers, truth values, or functions to call.

        Raises ValueError where the bounds of a loop or the index of a register are not known.
        """
        if self._tree is None:
            source = textwrap.dedent(inspect.getsource(self._function))
            self._tree = ast.parse(source).body[0]  # type: ignore[assignment]
        tree: Any = copy.deepcopy(self._tree)
        tree.name, tree.decorator_list, tree.args.kwonlyargs, tree.args.kw_defaults = name, [], [], []
        local = self._function.__code__.co_varnames
        known = {k: v for k, v in self._function.__globals__.items() if k not in local} | constants
        plain = {k: v for k, v in known.items() if isinstance(v, (bool, int))}
        tree.body = list(_Expansion(plain).block(tree.body))
        text = ast.unparse(ast.fix_missing_locations(tree)) + "\n"
        file = f"<{self._function.__module__}.{name}>"
        linecache.cache[file] = (len(text), None, text.splitlines(True), file)
        names = {**self._function.__globals__, **constants}
        exec(compile(text, file, "exec"), names)
        made = names[name]
        made.__doc__, made.__module__ = self.__doc__, self._function.__module__
        return made


class _Expansion(ast.NodeTransformer):
    """Rewrites statements for given constants."""

    def __init__(self, constants: dict[str, Any]) -> None:
        self.constants = dict(constants)
        self.registers: set[str] = set()

    def block(self, body: list[ast.stmt]) -> Iterator[ast.stmt]:
        for statement in body:
            yield from self._statement(statement)

    def _statement(self, s: ast.stmt) -> Iterator[ast.stmt]:
        if isinstance(s, ast.For) and _calls(s.iter, "unroll"):
            yield from self._unrolled(s)
        elif isinstance(s, (ast.For, ast.While)):
            for field in ("iter", "test", "target"):
                if hasattr(s, field):
                    setattr(s, field, self.visit(getattr(s, field)))
            s.body = list(self.block(s.body)) or [ast.Pass()]
            yield s
        elif isinstance(s, ast.If):
            yield from self._branch(s)
        elif isinstance(s, ast.Assign) and any(_calls(value, "registers") for value in _parts(s.value)):
            for target, value in zip(_parts(s.targets[0]), _parts(s.value), strict=True):
                if _calls(value, "registers"):
                    self.registers.add(target.id)  # type: ignore[attr-defined]
                else:
                    yield self.visit(ast.Assign([target], value, lineno=s.lineno))
        elif isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant):
            return  # a docstring
        else:
            yield self.visit(s)

    def _unrolled(self, s: ast.For) -> Iterator[ast.stmt]:
        bounds: list[Any] = [self.visit(a) for a in s.iter.args]  # type: ignore[attr-defined]
        if not all(isinstance(b, ast.Constant) for b in bounds):
            raise ValueError(f"unroll({', '.join(map(ast.unparse, bounds))}): its bounds are not known")
        for i in range(*(b.value for b in bounds)):
            self.constants[s.target.id] = i  # type: ignore[attr-defined]
            yield from self.block(copy.deepcopy(s.body))
        self.constants.pop(s.target.id, None)  # type: ignore[attr-defined]

    def _branch(self, s: ast.If) -> Iterator[ast.stmt]:
        test = self.visit(s.test)
        if isinstance(test, ast.Constant):
            yield from self.block(s.body if test.value else s.orelse)
            return
        s.test, s.body, s.orelse = test, list(self.block(s.body)) or [ast.Pass()], list(self.block(s.orelse))
        yield s

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if isinstance(node.ctx, ast.Load) and node.id in self.constants:
            return ast.Constant(self.constants[node.id])
        return node

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        if isinstance(node.value, ast.Name) and node.value.id in self.registers:
            index = self.visit(node.slice)
            parts: list[Any] = _parts(index)
            if not all(isinstance(p, ast.Constant) for p in parts):
                raise ValueError(f"{ast.unparse(node)}: the index of a register is not known")
            return ast.Name("_".join([node.value.id, *(str(p.value) for p in parts)]), node.ctx)
        return self.generic_visit(node)  # type: ignore[return-value]

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        return _folded(self.generic_visit(node), "left", "right")

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        return _folded(self.generic_visit(node), "operand")

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        node = self.generic_visit(node)  # type: ignore[assignment]
        known = isinstance(node.left, ast.Constant) and all(isinstance(c, ast.Constant) for c in node.comparators)
        return _value(node) if known else node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        values, stop = [self.visit(v) for v in node.values], isinstance(node.op, ast.Or)
        kept: list[ast.expr] = []
        for v in values:
            if isinstance(v, ast.Constant):
                if bool(v.value) == stop:
                    return ast.Constant(stop) if not kept else ast.BoolOp(node.op, [*kept, v])
                continue
            kept.append(v)
        if not kept:
            return ast.Constant(not stop)
        return kept[0] if len(kept) == 1 else ast.BoolOp(node.op, kept)

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        test = self.visit(node.test)
        if isinstance(test, ast.Constant):
            return self.visit(node.body if test.value else node.orelse)
        node.test, node.body, node.orelse = test, self.visit(node.body), self.visit(node.orelse)
        return node


def _parts(node: ast.expr) -> list[ast.expr]:
    return node.elts if isinstance(node, ast.Tuple) else [node]


def _calls(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name


def _folded(node: Any, *operands: str) -> ast.expr:
    known = all(isinstance(getattr(node, o), ast.Constant) for o in operands)
    return _value(node) if known else node


def _value(node: ast.expr) -> ast.Constant:
    return ast.Constant(eval(compile(ast.fix_missing_locations(ast.Expression(node)), "<constant>", "eval"), {}))


def unroll(*bounds: int) -> range:
    """`range`, whose loop a template writes out."""
    return range(*bounds)


def registers(*shape: int) -> Any:
    """Local variables that a template reads and writes as an array of this shape."""
    raise NotImplementedError("registers exist in templates alone")
