"""The reference of the command line, from the functions that are its commands."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from enum import Enum
from typing import Any, get_args, get_type_hints

from typer.models import ArgumentInfo, OptionInfo

from onnxopt.cli.command import app
from tables import Scope, Table

_KINDS = {"Path": "path", "str": "text", "int": "integer", "float": "number"}


def measure(scope: Scope) -> list[str]:
    """The page, by lines."""
    commands = {str(one.name or getattr(one.callback, "__name__", "")): one.callback for one in app.registered_commands}
    return [line for name, run in sorted(commands.items()) for line in _command(name, run)]


def _command(name: str, run: Any) -> Iterator[str]:
    hints = get_type_hints(run, include_extras=True)
    parameters = inspect.signature(run).parameters
    hints = {key: get_args(hint)[:2] for key, hint in get_type_hints(run, include_extras=True).items()}
    every = [(key, one.default, *hints[key]) for key, one in parameters.items() if len(hints[key]) > 1]
    arguments = [one for one in every if isinstance(one[3], ArgumentInfo)]
    options = [one for one in every if isinstance(one[3], OptionInfo) and not one[3].hidden]
    several = {key: str(kind).startswith("list") for key, _, kind, _ in arguments}
    words = "".join(f" {_name(key, info).rstrip('.')}{'...' * several[key]}" for key, _, _, info in arguments)
    yield from (f"## onnxopt {name}", "", f"`onnxopt {name}{words}`", "", _plain(run.__doc__), "")
    if every:
        yield from ("| option | value | |", "| --- | --- | --- |")
    yield from (f"| `{_name(key, info)}` | | {_plain(info.help)} |" for key, _, _, info in arguments)
    yield from (_option(*one) for one in options)
    yield ""


def _name(key: str, info: ArgumentInfo) -> str:
    return str(info.metavar or key.upper())


def _option(key: str, default: Any, kind: Any, info: OptionInfo) -> str:
    first = [info.default] if isinstance(info.default, str) else []  # where the names are in `Annotated`
    words = [*first, *(info.param_decls or ())] or [f"--{key.replace('_', '-')}"]
    names = ", ".join(f"`{word}`" for word in words)
    required = " Required." if default is inspect.Parameter.empty else ""
    given = getattr(default, "value", default)
    kept = "" if required or given in (None, False, ()) else f" Default: `{given}`."
    return f"| {names} | {_value(kind, info)} | {_plain(info.help)}{required}{kept} |"


def _value(kind: Any, info: OptionInfo) -> str:
    """What stands behind the option; nothing where it is a switch."""
    types = [one for one in (get_args(kind) or (kind,)) if one is not type(None)]
    flat = [inner for one in types for inner in (get_args(one) or (one,))]
    if isinstance(flat[0], type) and issubclass(flat[0], Enum):
        return ", ".join(f"`{one.value}`" for one in flat[0])
    if flat[0] is bool:
        return ""
    return f"`{info.metavar}`" if info.metavar else _KINDS.get(flat[0].__name__, flat[0].__name__)


def _plain(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


def render(lines: list[str]) -> str:
    """As Markdown."""
    return "\n".join(["", *lines]).rstrip() + "\n"


TABLES = (Table("commands", "docs/reference/cli.md", 0.1, measure, render),)
