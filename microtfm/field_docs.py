"""What stands below each field of a dataclass, as text: for the help of the command, and for pydoc."""
from __future__ import annotations

import ast
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any


def of(cls: Any) -> dict[str, str]:
    """The string below each field of a class, by the field's name."""
    return _of_file(str(sys.modules[cls.__module__].__file__)).get(cls.__name__, {})


def described(*classes: Any) -> None:
    """Add the fields' strings to the docstrings of classes, where help() and pydoc find them."""
    for cls in classes:
        cls.__doc__ = "\n".join([f"{cls.__doc__}\n", *(f"{name}: {text}" for name, text in of(cls).items())])


@cache
def _of_file(path: str) -> dict[str, dict[str, str]]:
    module = ast.parse(Path(path).read_text(encoding="utf-8"))
    return {each.name: _fields(each) for each in module.body if isinstance(each, ast.ClassDef)}


def _fields(body: ast.ClassDef) -> dict[str, str]:
    found = {}
    for field, text in pairwise(body.body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            found[field.target.id] = " ".join(str(ast.literal_eval(text.value)).split())
    return found
