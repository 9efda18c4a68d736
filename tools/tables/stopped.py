"""What runs that were stopped, or had no room to write, left of their outputs."""

from __future__ import annotations

from break_writing import Count, disturbed
from common.pages import markdown
from tables import Scope, Table

TIMES = 200


def measure(scope: Scope) -> list[Count]:
    """A count for each kind of disturbance."""
    return disturbed(scope.limit or TIMES)


def render(counts: list[Count]) -> str:
    """The counts in Markdown."""
    columns = ["what happened", "runs", "all outputs new", "all as before", "new and old", "half-written", "litter"]
    rows = [[c.what, *map(str, (c.runs, c.new, c.old, c.mixed, c.half, c.litter))] for c in counts]
    return markdown(columns, "lrrrrrr", rows)


TABLES = (Table("stopped-runs", "docs/reliability.md", 10, measure, render),)
