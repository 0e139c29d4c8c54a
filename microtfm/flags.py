"""Settings as command-line flags: `Settings().train.batch_tokens` becomes --train.batch-tokens, unset unless given."""
from __future__ import annotations

import dataclasses
import typing
from typing import Annotated, Any

from cyclopts import Parameter

from microtfm import field_docs
from microtfm.settings import Settings


def flags(*wanted: str, defaults: Settings | None = None, **helps: str) -> Any:
    """A dataclass of flags for some of the settings, every one of them unset by default.

    wanted: settings (`seed`) and groups (`train`). defaults: what the help shows as defaults, if anything. helps: help
    that differs from the setting's own.
    """
    return _flags(Settings, wanted, defaults, helps)


def given(values: Any) -> dict[str, Any]:
    """The flags that were given, nested as in a settings file."""
    table: dict[str, Any] = {}
    for each in dataclasses.fields(values):
        value = getattr(values, each.name)
        if dataclasses.is_dataclass(value):
            if inner := given(value):
                table[each.name] = inner
        elif value is not None:
            table[each.name] = value
    return table


def _flags(cls: Any, wanted: tuple[str, ...], defaults: Any, others: dict[str, str]) -> Any:
    helps, hints, fields = field_docs.of(cls) | others, typing.get_type_hints(cls), []
    for each in dataclasses.fields(cls):
        if wanted and each.name not in wanted:
            continue
        kind, default = hints[each.name], getattr(defaults, each.name, None)
        if dataclasses.is_dataclass(kind):
            inner = _flags(kind, (), default, {})
            fields.append((each.name, inner, dataclasses.field(default_factory=inner)))
            continue
        text = helps[each.name] + ("" if default is None or default is False else f" [default: {_shown(default)}]")
        negative = () if each.default is False else None
        whole = _whole if kind in (int, int | None) else None
        shown = Parameter(help=text, show_default=False, negative=negative, converter=whole)
        fields.append((each.name, Annotated[kind | None, shown], dataclasses.field(default=None)))
    made = dataclasses.make_dataclass(cls.__name__.replace("Settings", "Flags"), fields, kw_only=True)
    made.__module__ = __name__           # cyclopts takes what comes from the standard library for a plain value
    return made


def _whole(kind: Any, tokens: Any) -> int:
    """A whole number as it was typed; cyclopts' own reading rounds 1.5."""
    try:
        return int(tokens[0].value)
    except ValueError:
        raise ValueError(f"{tokens[0].value!r} is not a whole number.") from None


def _shown(default: Any) -> str:
    return "on" if default is True else f"{default:g}" if isinstance(default, float) else str(default)
