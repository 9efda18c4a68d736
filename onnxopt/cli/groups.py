"""Option groups of commands: a parameter whose type is a dataclass becomes one option per field."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import wraps
from typing import Any, get_type_hints

from onnxopt.cli.app import app


def command(run: Callable[..., None]) -> Callable[..., None]:
    """Registers a function as a command with the same name."""
    hints = get_type_hints(run, include_extras=True)
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(run).parameters.items():
        parameters += _parameters(name, hints[name], parameter.default)

    @wraps(run)
    def flat(**values: Any) -> None:
        run(**{name: _value(name, hints[name], values) for name in inspect.signature(run).parameters})

    flat.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    flat.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app.command(run.__name__)(flat)
    return run


def _parameters(name: str, hint: Any, default: Any) -> Iterator[inspect.Parameter]:
    """The parameter itself, or the fields of its group, which may contain groups."""
    if not (isinstance(hint, type) and is_dataclass(hint)):
        yield inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)
        return
    hints = get_type_hints(hint, include_extras=True)
    for one in fields(hint):
        yield from _parameters(one.name, hints[one.name], _default(one))


def _default(one: Field[Any]) -> Any:
    return inspect.Parameter.empty if one.default is MISSING else one.default


def _value(name: str, hint: Any, values: dict[str, Any]) -> Any:
    """The value of a parameter, built from the options' values."""
    if not (isinstance(hint, type) and is_dataclass(hint)):
        return values[name]
    hints = get_type_hints(hint, include_extras=True)
    return hint(**{one.name: _value(one.name, hints[one.name], values) for one in fields(hint)})
