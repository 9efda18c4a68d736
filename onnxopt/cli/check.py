"""Whether outputs are still what a request would make: `optimize --check`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import typer

from onnxopt import api
from onnxopt.build.stamp import Stamp
from onnxopt.cli.app import print_json
from onnxopt.data import Data
from onnxopt.errors import OnnxoptError
from onnxopt.request import Options
from onnxopt.spec.contract import Contract

Made = Callable[[Path], tuple[Contract, Data | None, Options]]
"""Gives the arguments of `api.optimize` for a model."""


def show_current(pairs: Sequence[tuple[Path, Path]], made: Made, as_json: bool) -> None:
    """Prints for each model and its output whether it is current. Ends the command with exit code 1 if one is not."""
    stale = False
    for model, output in pairs:
        reason = _why_stale(model, output, made)
        stale |= bool(reason)
        if as_json:
            print_json({"output": output, "current": not reason, "reason": reason})
        else:
            print(f"{output}: {reason or 'is what this request makes'}")
    if stale:
        raise typer.Exit(OnnxoptError.exit_code)


def _why_stale(model: Path, output: Path, made: Made) -> str:
    """Why an output is to be made again; empty if it is current."""
    try:
        found = Stamp.read(output)
    except OnnxoptError as error:
        return str(error).removeprefix(f"{output}: ")
    contract, data, options = made(model)
    changed = found.changed(api.stamp(model, contract, data, **options))
    return f"is to be made again: different {' and '.join(changed)}" if changed else ""
