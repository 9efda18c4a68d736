"""The command line. Exit codes: 0 done, 1 an error that the message names, 2 wrong usage, 130 interrupted."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import onnxruntime
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

import onnxopt
from onnxopt import api, archive, native
from onnxopt.errors import OnnxoptError
from onnxopt.graph import write_atomically
from onnxopt.plan import Plan
from onnxopt.report import table
from onnxopt.report.json import to_json

app = typer.Typer(
    help="Makes ONNX models small: compressed weights that run in stock ONNX Runtime.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_WIDTH = 80
_INTERRUPTED = 130


class Prefer(StrEnum):
    """What the choice of codecs favours."""

    SMALLEST = "smallest"
    BALANCED = "balanced"
    FASTEST = "fastest"


Model = Annotated[Path, typer.Argument(help="An ONNX model.", show_default=False)]
Compressed = Annotated[Path, typer.Argument(help="A model that onnxopt wrote.", show_default=False)]
Output = Annotated[Path, typer.Option("--output", "-o", help="The file to write.", show_default=False)]
Error = Annotated[float, typer.Option(help="Noise over signal allowed in the outputs, measured on random inputs.")]
Lossless = Annotated[bool, typer.Option("--lossless", help="Keep every weight bit for bit.")]
Favour = Annotated[Prefer, typer.Option(help="What the choice of codecs favours when decoding.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@app.callback(invoke_without_command=True)
def _version(
    ctx: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    if version:
        print(onnxopt.__version__)
        raise typer.Exit


@app.command()
def optimize(
    model: Model,
    output: Output,
    error: Error = api.DEFAULT_ERROR,
    lossless: Lossless = False,
    prefer: Favour = Prefer.BALANCED,
    as_json: Json = False,
) -> None:
    """Compress a model: plan and apply in one go."""
    with _progress() as progress:
        result = api.optimize(model, output, error, lossless, prefer.value, progress)
    _show(result, as_json)


@app.command()
def plan(
    model: Model,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The plan file; standard output if not given.")]
    = None,
    error: Error = api.DEFAULT_ERROR,
    lossless: Lossless = False,
) -> None:  # fmt: skip
    """Write down what optimize would do, to be read, edited and applied."""
    with _progress() as progress:
        text = api.plan(model, error, lossless, progress).to_json()
    if output is None:
        print(text, end="")
        return
    with write_atomically(output) as temporary:
        temporary.write_text(text, encoding="utf-8")


@app.command()
def apply(
    model: Model,
    plan_file: Annotated[Path, typer.Argument(metavar="PLAN", help="What `onnxopt plan` wrote.", show_default=False)],
    output: Output,
    prefer: Favour = Prefer.BALANCED,
    as_json: Json = False,
) -> None:
    """Compress a model as a plan says."""
    try:
        text = plan_file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OnnxoptError(f"{plan_file}: cannot be read: {error}") from error
    with _progress() as progress:
        result = api.apply(model, Plan.from_json(text), output, prefer.value, progress)
    _show(result, as_json)


@app.command()
def inspect(model: Compressed, as_json: Json = False) -> None:
    """Show what a compressed model holds."""
    info = archive.inspect(model)
    if as_json:
        print(to_json(info))
    else:
        table.print_inspection(_console(), info)


@app.command()
def verify(model: Compressed) -> None:
    """Check every checksum, decode everything, load and run."""
    seen = archive.verify(model)
    outputs = {
        True: "outputs identical to the plain model's",
        None: "no random input runs it, outputs not compared",
    }[seen.identical_outputs]
    print(f"{model}: ok: {seen.entries} entries, {table.size(seen.weights_size)} of weights, {outputs}")


@app.command()
def decompress(model: Compressed, output: Output) -> None:
    """Write the plain ONNX model, which needs nothing of onnxopt."""
    archive.decompress(model, output)
    print(f"{output}: {table.size(output.stat().st_size)}")


@app.command()
def library() -> None:
    """Print the path of the shared library to register with ONNX Runtime."""
    print(native.library_path())


def _show(result: api.Result, as_json: bool) -> None:
    if as_json:
        print(to_json(result))
    else:
        table.print_result(_console(), result)


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else _WIDTH)


@contextmanager
def _progress() -> Iterator[api.Progress]:
    """A bar on a terminal's standard error, nothing where there is no terminal."""
    columns = (BarColumn(30), TimeRemainingColumn(), TextColumn("{task.description}", markup=False))
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("reading", total=1.0)
        yield lambda what, share: bar.update(task, description=what, completed=share)


def main() -> None:
    """Entry point: every OnnxoptError becomes one line on standard error and exit code 1."""
    onnxruntime.set_default_logger_severity(4)  # what goes wrong comes as an exception, and as one line of ours
    try:
        app()
    except OnnxoptError as error:
        print(f"onnxopt: {error}", file=sys.stderr)
        sys.exit(1)
    except (KeyboardInterrupt, SystemExit) as end:  # typer turns the former into the latter with code 130
        if isinstance(end, SystemExit) and end.code != _INTERRUPTED:
            raise
        print("onnxopt: interrupted; no half-written file is left", file=sys.stderr)
        sys.exit(_INTERRUPTED)
