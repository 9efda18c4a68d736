"""The command that shows results: report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from onnxopt.cli.app import app, write
from onnxopt.cli.options import Output, argument
from onnxopt.report import html, table


@app.command()
def report(
    result: Annotated[Path, argument(metavar="RESULT", help="What `onnxopt optimize --json` printed, in a file.")],
    output: Output,
) -> None:
    """Make one HTML page of a result, to read and to hand on; it opens from disk and needs nothing else."""
    write(output, html.render(html.read(result)))
    print(f"{output}: {table.size(output.stat().st_size)}")
