"""The house rules: who may import whom, how long a file may be, and a README whose file tree is the tree."""
import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import engine

ROOT = Path(__file__).parent.parent
LONGEST = 400                            # lines of a source file
CORE = 700                               # lines of code of the engine's heart: core.py and autograd.py
SKIPPED = {".git", ".venv", "__pycache__", ".pytest_cache", ".ruff_cache", ".mypy_cache", ".hypothesis",
           "build", "dist", "runs"}


def _sources(*folders):
    return [p for folder in folders for p in sorted((ROOT / folder).rglob("*.py")) if not SKIPPED & set(p.parts)]


def _name(path):
    return str(path.relative_to(ROOT))


def _imports(path):
    """Full names of the modules that a file imports, on any level, but for type checkers only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = path.relative_to(ROOT).parent.parts
    blocks = [n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test)]
    typing = {id(n) for block in blocks for n in ast.walk(block)}
    for node in ast.walk(tree):
        if id(node) in typing:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[:len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *((node.module,) if node.module else ())))
            names = [f"{module}.{alias.name}" for alias in node.names]
            yield from (name if _is_module(name) else module for name in names)


def _is_module(name):
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def _ours(path):
    return {m for m in _imports(path) if m.split(".")[0] in ("engine", "microtfm", "tests", "examples")}


# Inside the engine: each part, and what it may import of the engine. Parts not named are checked by the rules below.
MAY_IMPORT = {
    "errors": set(),
    "shapes": {"errors"},
    "state": set(),
    "arrays": {"arena", "errors", "kernels", "state"},
    "device": {"arrays", "errors", "kernels", "state"},
    "methods": {"copying",               # in __deepcopy__ and __reduce__
                "core", "device", "record", "errors", "shapes"},
    "copying": {"core", "errors"},
    "record": {"core", "describe", "errors", "shapes", "state"},
    "describe": {"record", "shapes"},
    "promotion": {"core", "device", "errors", "record", "state"},
    "core": {"autograd",                 # in backward()
             "device", "errors", "methods", "promotion", "record", "shapes", "state"},
    "autograd": {"core", "device", "errors", "record", "shapes", "state"},
    "creation": {"core", "errors", "shapes", "state"},
    "random": {"core", "creation", "device", "errors", "kernels", "shapes", "state"},
    "inplace": {"core", "device", "errors", "state"},
    "ops": {"core", "describe", "device", "errors", "ops", "random", "record", "shapes", "state"},
    "check": {"autograd", "core", "device", "errors", "kernels", "record", "shapes", "state"},
    "own": {"errors", "kernels", "promotion", "record", "shapes"},
    "nans": {"core", "device", "errors", "record", "state"},
    "arena": set(),
    "recorder": {"core", "device", "errors", "kernels", "record", "shapes", "state"},
    "guards": {"device", "errors", "record", "recorder"},
    "program": {"arena", "core", "device", "errors", "guards", "kernels", "recorder"},
    "plan": {"arena", "core", "device", "errors", "program", "random", "recorder", "state"},
    "selftest": {"core", "device", "errors", "kernels", "record"},
    "kernels": {"kernels"},
    "diagram": {"autograd", "core", "device", "errors", "record", "shapes", "state",
                "draw"},                 # in save(), svg() and html() alone
    "draw": {"diagram", "errors"},
}


@pytest.mark.parametrize("path", _sources("engine"), ids=_name)
def test_imports_inside_the_engine(path):
    parts = path.relative_to(ROOT / "engine").with_suffix("").parts
    if parts == ("__init__",):
        return
    found = {m.split(".")[1] for m in _ours(path) if m.startswith("engine.")}
    assert not {m for m in _ours(path) if not m.startswith("engine")}
    assert "engine" not in _ours(path) or parts[0] in ("ops", "check"), "import the module, not the public face"
    assert parts[0] in MAY_IMPORT, f"say in MAY_IMPORT what {parts[0]} may import"
    assert found <= MAY_IMPORT[parts[0]] | ({parts[0]} if len(parts) > 1 else set()), found - MAY_IMPORT[parts[0]]


@pytest.mark.parametrize("path", _sources("microtfm", "examples"), ids=_name)
def test_nothing_outside_reaches_into_the_engine(path):
    """The Transformer uses the public face, and never a kernel, a graph node or a device array."""
    public = {"engine", "engine.check", "engine.check.strategies", "engine.random"}
    assert {m for m in _ours(path) if m.split(".")[0] == "engine"} <= public
    used = {n.attr for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Attribute)}
    assert not used & {"node", "_array", "wrap", "kernels"}


@pytest.mark.parametrize("path", _sources("microtfm"), ids=_name)
def test_nothing_imports_the_command(path):
    assert "microtfm.cli" not in _ours(path) or _name(path) == "microtfm/entry.py"
    if _name(path) != "microtfm/cli.py" and "commands" not in path.parts:
        assert not {m for m in _ours(path) if m.startswith("microtfm.commands")}
    assert not {m for m in _ours(path) if m.startswith(("examples", "tests"))}


@pytest.mark.parametrize("path", _sources("engine", "microtfm", "examples", "tests"), ids=_name)
def test_no_file_is_too_long(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= LONGEST


def test_the_core_stays_a_lecture_long():
    assert sum(_lines_of_code(ROOT / "engine" / name) for name in ("core.py", "autograd.py")) <= CORE


def _lines_of_code(path):
    """Lines without blank ones, comments and docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    prose = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            prose |= set(range(node.lineno, node.end_lineno + 1))
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return sum(1 for i, line in enumerate(lines, 1) if i not in prose and line and not line.startswith("#"))


def test_no_module_is_named_as_a_public_function():
    """`engine.exp` must never turn from a function into a module because somebody imported `engine.exp`."""
    modules = {p.stem for p in (ROOT / "engine").iterdir()}
    assert {n for n in modules & set(engine.__all__) if callable(getattr(engine, n))} == set()


def test_every_op_of_the_table_is_public():
    """An op is a function of the same name, but for the pullbacks that only rules call and types that are methods."""
    hidden = {name for name in engine.OPS if not hasattr(engine, name)}
    assert all(name.endswith("_vjp") for name in hidden), hidden
    assert sorted(engine.__all__) == sorted(set(engine.__all__)) and all(hasattr(engine, n) for n in engine.__all__)


@pytest.mark.parametrize("package", ["engine", "microtfm"])
def test_importing_is_light(package):
    """Numba takes a second to import: it waits for the first kernel that runs."""
    heavy = ("numba", "llvmlite", "hypothesis")
    code = f"import sys, {package}; print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.strip() == "[]"


def test_the_readme_tree_is_the_tree():
    """README.md has a ```text block with one line a file or folder; it names every source file, and no other."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = [b for b in re.findall(r"```text\n(.*?)```", readme, re.S) if re.search(r"^engine/", b, re.M)]
    assert len(blocks) == 1, "README.md needs one ```text block with the file tree"
    listed, stack = set(), []
    for line in blocks[0].splitlines():
        if not line.strip():
            continue
        indent, name = len(line) - len(line.lstrip()), line.split()[0]
        stack = [(i, n) for i, n in stack if i < indent] + [(indent, name)]
        if not name.endswith("/"):
            listed.add("".join(n for _, n in stack))
    sources = {_name(p) for p in _sources("engine", "microtfm", "examples", "tests")}
    assert {n for n in listed if n.endswith(".py")} == sources
    assert {n for n in listed if not (ROOT / n).exists()} == set()


def test_the_chinese_readme_says_the_same():
    """README.zh.md is README.md in Chinese: section by section, the same commands and code (but for comments and the
    file tree), the same tables row by row with the same numbers in each, and the same links and pictures."""
    english, chinese = (_sections((ROOT / name).read_text(encoding="utf-8")) for name in ("README.md", "README.zh.md"))
    assert len(english) == len(chinese) > 10
    for here, there in zip(english, chinese, strict=True):
        for part in (_code, _table_rows, _links):
            assert part(there) == part(here), f"{part.__name__} of README.md's section {here.splitlines()[0]}"


def _sections(readme):
    """The text before the first heading of level two, and of each such heading; without the file tree."""
    return re.split(r"^## ", re.sub(r"```text\n.*?```", "", readme, flags=re.S), flags=re.M)


def _code(section):
    """Lines of code without their comments, and the fences around them."""
    blocks = re.findall(r"^```\w*\n.*?^```", section, re.S | re.M)
    return [line.split(" #")[0].rstrip() for block in blocks for line in block.splitlines()]


def _table_rows(section):
    """The numbers in each cell of each row; the row of dashes, one in every table, is kept as it is."""
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [[sorted(re.findall(r"\d+(?:[.,]\d+)*|^:?-+:?$", cell)) for cell in row] for row in rows]


def _links(section):
    """Where links and pictures lead, but for those from one README to the other."""
    return sorted(to for to in re.findall(r"\]\(([^)\s]+)\)", section) if not to.startswith("README"))
