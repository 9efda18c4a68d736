"""What became of the wish for chains of layers, in a terminal: 80 columns, plain text when piped."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from rich.console import Console, RenderableType
from rich.table import Table

from onnxopt.results.result import Factoring
from onnxopt.search.allocation import LayerDecision

_NAMED = 3
"""Layers of which no chain is known are named up to so many."""


def print_factoring(console: Console, factoring: Factoring) -> None:
    """The chains that the file has, why there are no others, and what all of them do to the model's time."""
    accepted = [one for one in factoring.layers if one.accepted]
    if accepted:
        console.print(_table(factoring, accepted), markup=False)
    for line in _refused(factoring):
        console.print(line, highlight=False, markup=False)
    for line in _whole(factoring):
        console.print(line, highlight=False, markup=False, style="bold" if factoring.kept else "yellow")


def _table(factoring: Factoring, accepted: list[LayerDecision]) -> RenderableType:
    """M and E as in Kim et al. 2016: how many times fewer weights and multiply-accumulates."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(f"for {factoring.goal}", overflow="ellipsis", no_wrap=True, max_width=16)
    timed = all(one.ms_after is not None for one in accepted)
    for name in ("chain", "M", "E", *(["ms"] if timed else []), "bytes"):
        table.add_column(name, justify="left" if name == "chain" else "right", no_wrap=True)
    for one in accepted:
        fewer = one.weights_before / one.weights_after, one.macs_before / one.macs_after
        ms = [f"{one.ms_before:.3g} -> {one.ms_after:.3g}"] if timed else []
        size = f"{one.bytes_before / 1e3:.1f} -> {one.bytes_after / 1e3:.1f} kB"
        table.add_row(one.path, one.step, *(f"{times:.2f}" for times in fewer), *ms, size)
    return table


def _refused(factoring: Factoring) -> Iterator[str]:
    """A line for each layer; one for all of which no chain is known, by the reason."""
    nameless: defaultdict[str, list[str]] = defaultdict(list)
    for one in factoring.layers:
        if not one.step:
            nameless[one.reason].append(one.path)
        elif not one.accepted:
            yield f"{one.path}, {one.step}: {one.reason}"
    for reason, paths in nameless.items():
        more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
        yield f"{', '.join(paths[:_NAMED])}{more}: {reason}"


def _whole(factoring: Factoring) -> Iterator[str]:
    time = factoring.time
    if time is not None:
        yield f"with chains the model takes {time}"
    if not factoring.kept:
        yield f"no chains for {factoring.goal}: {factoring.reason}"
