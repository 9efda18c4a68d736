"""What `optimize --dry-run` prints."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console

from onnxopt.report.text import size
from onnxopt.studies.dry_run import LOSSLESS, Decision, Forecast

_TIGHT = 10.0
"""Seconds below which tenths count."""


def print_forecast(console: Console, one: Forecast) -> None:
    """What would be done, what stays as it is and why, then time and memory."""
    for what, decisions in _groups(one.decisions):
        weights = "1 weight" if len(decisions) == 1 else f"{len(decisions)} weights"
        line = f"{weights}, {size(sum(each.bytes for each in decisions))}: {what}"
        console.print(line, highlight=False, markup=False)
    console.print()
    for line in _facts(one):
        console.print(line, highlight=False, markup=False)


def _groups(decisions: tuple[Decision, ...]) -> list[tuple[str, list[Decision]]]:
    """The decisions by what is done or why nothing is, most bytes first."""
    found: dict[str, list[Decision]] = {}
    for one in decisions:
        found.setdefault(f"{LOSSLESS}: {one.reason}" if one.reason else one.step, []).append(one)
    return sorted(found.items(), key=lambda group: -sum(one.bytes for one in group[1]))


def _facts(one: Forecast) -> Iterator[str]:
    phases = one.phases
    yield f"{one.source}: {size(one.bytes_before)}" + (f", for: {one.contract}" if one.contract else "")
    parts = [f"reading {_seconds(one.reading)}"]
    if one.samples:
        statistics = phases.moments + phases.fitting + phases.gains
        parts.append(f"statistics on {one.samples} samples of {one.data} {_seconds(statistics)}")
    if one.trials:
        tries = "try" if one.trials == 1 else "tries"
        parts.append(f"about {one.trials} {tries} of {_seconds(phases.search / one.trials)}")
    if one.strategies:
        parts.append(f"other forms of layers roughly {_seconds(one.strategies)}")
    if one.training:
        least = ", or more" if one.training.at_least else ""
        parts.append(f"tuning {_seconds(one.training.seconds)}{least}, at {_seconds(one.training.pass_seconds)} a pass")
    parts.append(f"writing and checking {_seconds(phases.writing + phases.checking)}")
    yield f"time: about {_seconds(one.seconds)}: {', '.join(parts)}"
    yield f"memory: about {size(one.peak_memory)} at the peak"
    yield "nothing was written"


def _seconds(value: float) -> str:
    if value >= 60:
        return f"{round(value) // 60} min {round(value) % 60} s"
    return f"{value:.1f} s" if value < _TIGHT else f"{value:.0f} s"
