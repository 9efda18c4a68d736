"""What a sensitivity scan found: a table for terminals, and one HTML page."""

from __future__ import annotations

import json

from rich.console import Console
from rich.table import Table

from onnxopt.metrics import METRICS
from onnxopt.report.json import to_json
from onnxopt.report.pages import page
from onnxopt.report.text import shortened
from onnxopt.studies.sensitivity import Point, Scan

_LONGEST = 20
"""Characters of a weight's name that a terminal has room for."""


def print_scan(console: Console, found: Scan) -> None:
    """A row for each weight, a column for each setting."""
    console.print(f"{found.source}: {_title(found)}", style="bold", highlight=False, markup=False)
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("weight", no_wrap=True)
    for setting in found.settings:
        table.add_column(f"{setting:g}", justify="right", no_wrap=True)
    for weight in found.weights:
        by_setting = {point.setting: point for point in weight.points}
        cells = (_cell(by_setting.get(setting), found) for setting in found.settings)
        table.add_row(shortened(weight.path, _LONGEST), *cells)
    console.print(table, markup=False)
    for weight in found.weights:
        if weight.reason:
            console.print(f"{weight.path}: not at every setting: {weight.reason}", style="yellow", markup=False)


def render(found: Scan) -> str:
    """The page."""
    from onnxopt.report import plots  # noqa: PLC0415 (matplotlib is slow to import)

    plain = json.loads(to_json(found))
    key, label = ("drop", f"drop of {found.metric}") if found.metric else ("error", "noise over signal of the outputs")
    values = {weight["path"]: [{point["setting"]: point[key] for point in weight["points"]}.get(setting)
                               for setting in plain["settings"]] for weight in plain["weights"]}  # fmt: skip
    return page("sensitivity.html", {
        "r": plain, "name": found.source.name, "label": label, "values": values,
        "most": max((value for row in values.values() for value in row if value is not None), default=0),
        "figure": plots.sensitivity(values, found.settings, found.step, label),
    })  # fmt: skip


def _title(found: Scan) -> str:
    what = f"drop of {found.metric} from {found.before:.4g}" if found.before is not None else "noise over signal"
    return f"{found.step} on one weight alone, {what}, {found.data} ({found.samples} samples)"


def _cell(point: Point | None, found: Scan) -> str:
    if point is None:
        return ""
    if point.drop is None:
        return "" if point.error is None else f"{point.error:.3f}"
    metric = METRICS.get(found.metric)
    return f"{point.drop:.2f}" if metric and metric.is_accuracy else f"{point.drop:.3g}"
