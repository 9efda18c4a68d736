"""The command that shows results: report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from onnxopt.cli.app import app, show_written, write
from onnxopt.cli.options import Json, Output, argument
from onnxopt.report import html


@app.command()
def report(
    result: Annotated[Path, argument(metavar="RESULT", help="What `onnxopt optimize --json` printed, in a file.")],
    output: Output,
    as_json: Json = False,
) -> None:
    """Make one HTML page of a result, to read and to hand on; it opens from disk and needs nothing else."""
    write(output, html.render(html.read(result)))
    show_written(output, as_json)
