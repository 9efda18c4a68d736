"""Which nodes run in integers, in a terminal: 80 columns, plain text when piped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table

from onnxopt.results.result import Integers, Placed

_SHOWN = 10
"""Layers that stay floats, the longest first."""


def print_integers(console: Console, integers: Integers) -> None:
    """How many nodes run in integers, which layers with weights do not, and what that does to the model's time."""
    if integers.kept:
        counted = Counter(one.op for one in integers.layers if one.integers)
        text = ", ".join(f"{count} {op}" for op, count in counted.most_common())
        console.print(f"in integers for {integers.target}, {integers.type} between them: {text}", highlight=False)
        floats = [one for one in integers.layers if one.weight is not None and not one.integers]
        if floats:
            console.print(_table(floats), markup=False)
        if len(floats) > _SHOWN:
            console.print(f"and {len(floats) - _SHOWN} more in floats", highlight=False)
    for line in _whole(integers):
        console.print(line, highlight=False, markup=False, style="bold" if integers.kept else "yellow")


def _table(floats: Sequence[Placed]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("in floats", overflow="ellipsis", no_wrap=True, max_width=32)
    for name in ("node", "ms", "in integers", "noise/signal"):
        table.add_column(name, justify="left" if name == "node" else "right", no_wrap=True)
    for one in sorted(floats, key=lambda one: -(one.ms_floats or 0.0))[:_SHOWN]:
        numbers = (one.ms_floats, one.ms_integers, one.noise)
        table.add_row(one.path, one.op, *("" if number is None else f"{number:.3g}" for number in numbers))
    return table


def _whole(integers: Integers) -> Iterator[str]:
    time = integers.time
    if time is not None:
        yield f"in integers the model takes {time}"
    if not integers.kept:
        yield f"nothing in integers: {integers.reason}"
