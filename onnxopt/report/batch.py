"""What became of many models: a table for the terminal, 80 columns, plain text when piped."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from onnxopt.pool.cluster import Cluster
from onnxopt.report.table import columns
from onnxopt.report.text import shortened, size
from onnxopt.studies.batch import Outcome

_NAME = 32
"""Characters of a model's name."""


def print_outcomes(console: Console, outcomes: Sequence[Outcome]) -> None:
    """A row for each model, then why some failed."""
    table = columns("model", "before", "after", "ratio", "seconds", "status")
    for one in outcomes:
        before, after = one.bytes_before, one.bytes_after
        ratio = f"{before / after:.2f}x" if before and after else ""
        sizes = ("" if count is None else size(count) for count in (before, after))
        table.add_row(shortened(one.model.name, _NAME), *sizes, ratio, f"{one.seconds:.1f}", one.status)
    console.print(table, markup=False)
    for one in outcomes:
        if one.reason:
            console.print(f"{one.model}: {one.reason}", style="yellow", markup=False, highlight=False, soft_wrap=True)


def moved(cluster: Cluster) -> str:
    """What the parts of one model cost on a cluster, in a sentence."""
    found = cluster.moved
    return f"{found.tasks} tasks on {cluster}: {size(found.there)} to the workers, {size(found.back)} back"
