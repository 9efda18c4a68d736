"""What optimize would do and take: `optimize --dry-run`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from onnxopt.cli.app import console, print_json
from onnxopt.cli.check import Made
from onnxopt.report.forecast import print_forecast
from onnxopt.studies.dry_run import dry_run


def show_forecasts(models: Sequence[Path], made: Made, as_json: bool) -> None:
    """Prints the forecast of each model."""
    for model in models:
        contract, data, options = made(model)
        found = dry_run(model, contract, data, **options)
        if as_json:
            print_json(found)
        else:
            print_forecast(console(), found)
