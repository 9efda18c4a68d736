"""Matrix products on integers in blocks, in a terminal: 80 columns, plain text when piped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table

from onnxopt.results.result import Blocks, Product


def print_blocks(console: Console, blocks: Blocks) -> None:
    """The products that were looked at, and what those that were taken do to the model's time."""
    if blocks.layers:
        console.print(_table(blocks.layers), markup=False)
    for line in _whole(blocks):
        console.print(line, highlight=False, markup=False, style="bold" if blocks.kept else "yellow")


def _table(products: Sequence[Product]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("in blocks", overflow="ellipsis", no_wrap=True, max_width=24)
    for name in ("step", "ms", "noise/signal", "taken"):
        table.add_column(name, justify="right" if name in ("ms", "noise/signal") else "left", no_wrap=True)
    for one in products:
        noise = "" if one.noise is None else f"{one.noise:.2g}"
        ms = f"{one.ms_before:.3g} -> {one.ms_after:.3g}"
        table.add_row(one.path, one.step, ms, noise, "yes" if one.accepted else "no")
    return table


def _whole(blocks: Blocks) -> Iterator[str]:
    time = blocks.time
    if time is not None:
        yield f"with them the model takes {time}"
    if not blocks.kept:
        yield f"no products on integers in blocks: {blocks.reason}"
