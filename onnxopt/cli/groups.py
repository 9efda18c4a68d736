"""Commands take options in groups: a parameter whose type is a dataclass is one option for each field."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import wraps
from typing import Any, get_type_hints

from onnxopt.cli.app import app


def command(run: Callable[..., None]) -> Callable[..., None]:
    """Registers a function as a command of its name."""
    hints = get_type_hints(run, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if isinstance(hint, type) and is_dataclass(hint)}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(run).parameters.items():
        parameters += _options(groups[name]) if name in groups else [parameter.replace(annotation=hints[name])]

    @wraps(run)
    def flat(**values: Any) -> None:
        grouped = {
            name: group(**{one.name: values.pop(one.name) for one in fields(group)}) for name, group in groups.items()
        }
        run(**grouped, **values)

    flat.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    flat.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app.command(run.__name__)(flat)
    return run


def _options(group: type) -> list[inspect.Parameter]:
    """Of the fields of a group."""
    hints = get_type_hints(group, include_extras=True)

    def default(one: Field[Any]) -> Any:
        return inspect.Parameter.empty if one.default is MISSING else one.default

    kind = inspect.Parameter.KEYWORD_ONLY
    return [
        inspect.Parameter(one.name, kind, default=default(one), annotation=hints[one.name]) for one in fields(group)
    ]
