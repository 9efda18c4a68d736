"""Commands for compressed files: inspect, verify, decompress, library."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from onnxopt import native
from onnxopt.cli.app import app, console, print_json, show_written
from onnxopt.cli.options import CustomOps, Json, Output, argument
from onnxopt.report.table import print_inspection
from onnxopt.report.text import size
from onnxopt.runtime import archive

Compressed = Annotated[Path, argument(help="A model that onnxopt wrote.")]


@app.command()
def inspect(model: Compressed, as_json: Json = False) -> None:
    """Show the contents of a compressed model."""
    info = archive.inspect(model)
    if as_json:
        print_json(info)
    else:
        print_inspection(console(), info)


@app.command()
def verify(model: Compressed, as_json: Json = False, custom_ops: CustomOps = None) -> None:
    """Verify every checksum, decode all weights, load the model and run it."""
    seen = archive.verify(model)
    if as_json:
        print_json(seen)
        return
    outputs = {
        True: "outputs identical to the plain model's",
        None: "no random input runs it, outputs not compared",
    }[seen.identical_outputs]
    print(f"{model}: ok: {seen.entries} entries, {size(seen.weights_size)} of weights, {outputs}")


@app.command()
def decompress(model: Compressed, output: Output, as_json: Json = False) -> None:
    """Write the plain ONNX model, which runs without onnxopt."""
    archive.decompress(model, output)
    show_written(output, as_json)


@app.command()
def library(as_json: Json = False) -> None:
    """Print the path of the shared library to register with ONNX Runtime."""
    path = native.library_path()
    if as_json:
        print_json({"library": path})
    else:
        print(path)
