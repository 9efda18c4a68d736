"""What strategies did, in a terminal: 80 columns, plain text when piped.

It shows records as JSON has them (`results.strategy.StrategyReport`), and so does the HTML page.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from onnxopt.report.text import many, shortened

Record = Mapping[str, Any]

_WIDTH, _GAP, _NAME = 80, 2, 20
"""Columns of a terminal; those between two columns of a table; the most for the name of a row."""
_ROWS, _NAMED = 10, 3
"""The most rows of a table, and the most rejected rows with the same reason that are named."""


def cell(row: Mapping[str, Any], key: str) -> Any:
    """A row's value: a number, a text, None, or a pair of what the keys ``*_before`` and ``*_after`` hold."""
    if key in row:
        return row[key]
    pair = row.get(f"{key}_before"), row.get(f"{key}_after")
    return None if pair == (None, None) else pair


def filled_columns(record: Record) -> list[tuple[str, str, str]]:
    """Key, heading and explanation of the columns in which some row has a value."""
    columns = [(one["key"], one["heading"], one["explanation"]) for one in record["columns"]]
    return [column for column in columns if any(cell(row, column[0]) is not None for row in record["layers"])]


def print_strategies(console: Console, strategies: Sequence[Record]) -> None:
    """For each strategy what it looked at, what the file has of that, and why the rest was rejected."""
    for strategy in strategies:
        console.print(f"{strategy['title']}: {strategy['about']}", highlight=False, markup=False)
        accepted = [row for row in strategy["layers"] if row["accepted"]]
        if accepted:
            console.print(_table(filled_columns(strategy), accepted[:_ROWS]), markup=False)
        if len(accepted) > _ROWS:
            console.print(f"and {len(accepted) - _ROWS} more", highlight=False)
        for line in _rejected(strategy):
            console.print(line, highlight=False, markup=False)
        for line in _verdict(strategy):
            console.print(line, highlight=False, markup=False, style="bold" if strategy["kept"] else "yellow")
        console.print()


def _table(columns: Sequence[Sequence[str]], rows: Sequence[Mapping[str, Any]]) -> Table:
    """As many of the columns as fit."""
    cells = [[shortened(_text(cell(row, columns[0][0])), _NAME) for row in rows]]
    cells += [[_text(cell(row, key)) for row in rows] for key, _, _ in columns[1:]]
    table, left = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold"), _WIDTH
    shown = []
    for (key, heading, _), texts in zip(columns, cells, strict=True):
        left -= max(map(len, (heading, *texts))) + _GAP
        if left < -_GAP:
            break
        are_words = all(isinstance(cell(row, key), str) for row in rows)
        table.add_column(heading, justify="left" if are_words else "right", no_wrap=True)
        shown.append(texts)
    for row in zip(*shown, strict=True):
        table.add_row(*row)
    return table


def _rejected(strategy: Record) -> Iterator[str]:
    """A line for each reason, with the first rows that were rejected for it."""
    names: defaultdict[str, list[str]] = defaultdict(list)
    for row in strategy["layers"]:
        if not row["accepted"]:
            names[row["reason"]].append(row[strategy["columns"][0]["key"]])
    for reason, paths in names.items():
        more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
        yield f"rejected: {', '.join(paths[:_NAMED])}{more}{': ' if reason else ''}{reason}"


def _verdict(strategy: Record) -> Iterator[str]:
    """What it does to the time of the whole model, and why the file does not have it."""
    time = strategy["time"]
    if time:
        sure = "" if time["significant"] else ": no significant difference"
        yield f"with it the model takes {time['ratio']:.3f}x the time ({time['low']:.3f} to {time['high']:.3f}){sure}"
    if not strategy["kept"]:
        yield f"not used: {strategy['reason']}"


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " -> ".join(map(_text, value))
    if isinstance(value, int):
        return many(value)
    return f"{value:.3g}" if isinstance(value, float) else value or ""
