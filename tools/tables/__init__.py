"""The tables and figures of README.md and docs/. A module here declares them as `TABLES`; there is no other list.

    TABLES = (Table("ranks", "docs/lowrank.md", 1, measure, render, models=("lenet5",)),)

`measure` asks `common.kept` for what takes long, so that an interrupted run goes on where it was, and two tables that
need the same number measure it once.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


class CannotMeasureError(Exception):
    """Why a table cannot be measured; the text is shown to the user."""


@dataclass(frozen=True, slots=True)
class Scope:
    """How much of a table is measured."""

    models: tuple[str, ...]
    """Those of the table's models that are wanted."""
    limit: int | None = None
    """Test images for each model, at most; None for all."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing of a table's rows."""

    path: str
    """From the repository's root."""
    draw: Callable[[Any], str]
    """Rows to SVG."""


@dataclass(frozen=True, slots=True)
class Table:
    """What is measured, on what, and the page that shows it."""

    name: str
    """On the command line, and in the page's marker `<!-- KIND:NAME -->`."""
    page: str
    """From the repository's root."""
    minutes: float
    """On two cores, roughly, where nothing is kept from before."""
    measure: Callable[[Scope], Any]
    """The rows, in a form that only `render` knows."""
    render: Callable[[Any], str]
    """Rows to Markdown."""
    models: tuple[str, ...] = ()
    """Keys of `realdata.TASKS` or names of files; `--only` chooses among them."""
    synthetic: tuple[str, ...] = ()
    """Networks that are built for this table, and need no file."""
    figure: Figure | None = None
    kind: str = "table"

    @property
    def markers(self) -> tuple[str, str]:
        """The lines in the page that the text stands between."""
        return f"<!-- {self.kind}:{self.name} -->", f"<!-- /{self.kind} -->"


def tables() -> dict[str, Table]:
    """Every table of this folder by its name, pages together. Raises ValueError where a name is taken twice."""
    modules = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    every = sorted((table for module in modules for table in module.TABLES), key=lambda table: table.page)
    found = {table.name: table for table in every}
    if len(found) < len(every):
        raise ValueError(f"{len(every) - len(found)} tables have the name of another one")
    return found
