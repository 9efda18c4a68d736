"""The report command: shows results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from onnxopt.cli.app import app, show_written, write
from onnxopt.cli.options import Json, Output, argument
from onnxopt.files import writing
from onnxopt.report import html


@app.command()
def report(
    result: Annotated[Path, argument(metavar="RESULT", help="A file with the output of `onnxopt optimize --json`.")],
    output: Output,
    as_json: Json = False,
) -> None:
    """Make a self-contained HTML page of a result."""
    with writing({"--output": output}):
        write(output, html.render(html.read(result)))
    show_written(output, as_json)
