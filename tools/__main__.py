"""Measures tables and figures, and writes them into their pages.

    python tools                               # lists them, with their minutes
    python tools ratios docs/study.md          # one table; all tables of a page
    python tools ratios --only resnet20 --limit 500     # a part is printed and not written

Measurements are kept in build/measured/, by what was asked of which version of onnxopt; to repeat one, delete its file.
"""

from __future__ import annotations

import argparse
import sys

from common import pages, realdata
from tables import CannotMeasureError, Scope, Table, tables

MOST_NAMES = 4
"""Of models, in a line of the list."""


def listing(every: dict[str, Table]) -> str:
    """A line for each table: its page, its name, minutes, and what it is of."""
    lines = []
    for table in every.values():
        models = (*table.models, *table.synthetic)
        of = ", ".join(models) if len(models) <= MOST_NAMES else f"{len(models)} models"
        lines.append(f"{table.page:<18} {table.name:<27} {table.minutes:>3g} min  {of}".rstrip())
    return "\n".join([*lines, "", "Minutes where nothing is kept yet; tables of a page share most measurements."])


def chosen(names: list[str], every: dict[str, Table]) -> list[Table]:
    """The tables that are named, or that stand in a page that is. Raises CannotMeasureError where a name is neither."""
    found = []
    for name in names:
        here = [table for table in every.values() if name in (table.name, table.page)]
        if not here:
            raise CannotMeasureError(f"no table or page is called {name}; `python tools` lists them")
        found += here
    return found


def scope(table: Table, only: list[str] | None, limit: int | None) -> Scope:
    """What of a table is measured. Raises CannotMeasureError where a model has no file."""
    models = table.models + table.synthetic
    if only:
        models = tuple(model for model in models if model in only)
    missing = [m for m in models if m not in table.synthetic and not realdata.path_of(m).is_file()]
    if missing:
        where = f"{realdata.MODELS}; ONNXOPT_DATA names the folder above"
        raise CannotMeasureError(f"{table.name}: no {', '.join(missing)} in {where}")
    return Scope(models, limit)


def main() -> int:
    """The command line."""
    every = tables()
    parser = argparse.ArgumentParser(prog="python tools", description="Measures tables and writes them into pages.")
    parser.add_argument("names", nargs="*", metavar="table|page", help="what to measure (default: list all)")
    models = sorted({model for table in every.values() for model in table.models + table.synthetic})
    parser.add_argument("--only", nargs="+", choices=models, metavar="MODEL", help="these models; prints")
    parser.add_argument("--limit", type=int, metavar="N", help="N test images of each model, at most; prints")
    parser.add_argument("--print", action="store_true", help="print tables, leave pages alone")
    arguments = parser.parse_args()
    if not arguments.names:
        print(listing(every))
        return 0
    try:
        asked = [(t, scope(t, arguments.only, arguments.limit)) for t in chosen(arguments.names, every)]
        for table, part in asked:
            rows = table.measure(part)
            text = table.render(rows)
            print(f"{text}\n", flush=True)
            if not (arguments.print or arguments.only or arguments.limit):
                write(table, rows, text)
    except CannotMeasureError as error:
        parser.error(str(error))
    return 0


def write(table: Table, rows: object, text: str) -> None:
    """Puts a table, and its figure, into the page."""
    pages.rewrite(pages.ROOT / table.page, text, *table.markers)
    if table.figure:
        (pages.ROOT / table.figure.path).write_text(table.figure.draw(rows), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
