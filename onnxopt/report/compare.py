"""What `compare` found: terminal tables, 80 columns, plain text when piped; and one HTML page with the curves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console

from onnxopt.report.pages import page
from onnxopt.report.table import columns
from onnxopt.report.text import size
from onnxopt.studies.compare import ENGINE, System, Systems, loss

_SHARES = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Losses in the table of the curves, relative to the bound."""


def print_systems(console: Console, found: Systems) -> None:
    """A row for each system, then its ratios at smaller and larger losses."""
    head = f"{found.source}: {size(found.bytes_before)}; asked for: {found.contract}"
    console.print(head, style="bold", highlight=False, markup=False, soft_wrap=True)
    _print_table(console, _headings(found), [_row(system, found) for system in found.systems])
    for line in _notes(found):
        console.print(line, highlight=False, markup=False)
    bound = _bound(found)
    if bound is not None:
        console.print(f"\ntimes smaller, by {_lost(found)} where it was searched:", highlight=False)
        levels = [share * bound for share in _SHARES]
        rows = [[system.name, *(_reached(system, level, found) for level in levels)] for system in found.systems]
        _print_table(console, ("system", *(f"{level:.3g}" for level in levels)), rows)


def render(found: Systems) -> str:
    """The page."""
    from onnxopt.report import plots  # noqa: PLC0415 (matplotlib is slow to import)

    curves = {
        system.name: [(found.bytes_before / trial.size, loss(trial) or 0.0) for trial in system.curve]
        for system in found.systems
        if system.curve
    }
    return page("compare.html", {
        "found": found,
        "headings": _headings(found),
        "rows": [(system.name == ENGINE, _row(system, found)) for system in found.systems],
        "notes": list(_notes(found)),
        "figure": plots.curves(curves, _lost(found), _bound(found)) if curves else "",
    })  # fmt: skip


def _print_table(console: Console, headings: tuple[str, ...], rows: Iterable[Sequence[str]]) -> None:
    table = columns(*headings)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _headings(found: Systems) -> tuple[str, ...]:
    metric = () if found.bounds.max_drop is None else (found.bounds.metric.rpartition(":")[2], "drop")
    return ("system", "size", "ratio", *metric, "noise", "zeros", "MACs", "nonzero", "s")


def _row(system: System, found: Systems) -> list[str]:
    """The cells of a system; a star marks one that misses the contract."""
    cells = [system.name + "*" * (not system.met), size(system.size), f"{found.bytes_before / system.size:.2f}x"]
    c = system.found
    if found.bounds.max_drop is not None:
        cells += ["", ""] if c is None or c.after is None else [f"{c.after:.4g}", f"{c.drop:.2g}"]
    cells += ["" if c is None or c.error is None else f"{c.error:.3f}", f"{100 * system.zeros:.0f}%"]
    return [*cells, _short(system.macs), _short(system.nonzero_macs), f"{system.seconds:.0f}"]


def _notes(found: Systems) -> Iterator[str]:
    """What the table does not show."""
    first = found.systems[0].found
    before = (
        "" if first is None or first.before is None else f"; the original: {found.bounds.metric} {first.before:.4g}"
    )
    if found.data:
        yield f"measured on {found.data}{before}"
    if found.macs_before is not None:
        yield f"multiply-accumulates of one input; the original: {_short(found.macs_before)}"
    if not all(system.met for system in found.systems):
        yield "* misses the contract: the file that comes nearest"
    for name, why in found.failed.items():
        yield f"{name}: {why}"


def _bound(found: Systems) -> float | None:
    """The bound on the loss; None where the contract bounds the size, or allows no loss."""
    return (found.bounds.error if found.bounds.max_drop is None else found.bounds.max_drop) or None


def _lost(found: Systems) -> str:
    return "noise over signal" if found.bounds.max_drop is None else f"drop of {found.bounds.metric}"


def _reached(system: System, level: float, found: Systems) -> str:
    """The ratio of the smallest of its files that loses no more."""
    sizes = [trial.size for trial in system.curve if (loss(trial) or 0.0) <= level]
    return f"{found.bytes_before / min(sizes):.2f}x" if sizes else ""


def _short(value: int | None) -> str:
    """Three digits and a unit."""
    if value is None:
        return ""
    scale, unit = next(((s, u) for s, u in ((10**9, "G"), (10**6, "M"), (10**3, "k")) if value >= s), (1, ""))
    return f"{value / scale:.3g}{unit}"
