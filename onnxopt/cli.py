"""The command line. Exit codes: 0 done, 1 an error that the message names, 2 wrong usage, 3 the contract cannot be met,
130 interrupted.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import onnxruntime
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

import onnxopt
from onnxopt import api, archive, engine, native
from onnxopt.contract import DEFAULT_ERROR, MADE_UP_ERROR, Contract
from onnxopt.data import PRESETS, Data, open_data, quiet_session
from onnxopt.errors import Missed, OnnxoptError, first_line
from onnxopt.graph import write_atomically
from onnxopt.overrides import Overrides
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
_MISSED, _INTERRUPTED = 3, 130
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


class Prefer(StrEnum):
    """What the choice of codecs favours."""

    SMALLEST = "smallest"
    BALANCED = "balanced"
    FASTEST = "fastest"


_argument, _option = (partial(kind, show_default=False) for kind in (typer.Argument, typer.Option))

Model = Annotated[Path, _argument(help="An ONNX model.")]
Compressed = Annotated[Path, _argument(help="A model that onnxopt wrote.")]
Output = Annotated[Path, _option("--output", "-o", help="The file to write.")]
DataOption = Annotated[str | None, _option("--data", metavar="DATA", help="Inputs to calibrate on: .npz, .npy, a "
                                           "folder of images, or package.module:function.")]  # fmt: skip
Preprocess = Annotated[str | None, _option(help=f"For images: {', '.join(PRESETS)}, or package.module:function.")]
Mean = Annotated[str | None, _option(help="For images, of pixels in 0..1: one number or one a channel.")]
Std = Annotated[str | None, _option(help="Likewise.")]
Layout = Annotated[str | None, _option(help="For images: NCHW or NHWC.")]
Size = Annotated[int | None, _option(help="For images: the side.")]
Evaluation = Annotated[str | None, _option("--eval", metavar="DATA", help="What the result is checked on, once.")]
MetricOption = Annotated[str, typer.Option("--metric", help="top1, top5, mse, kl, or package.module:function.")]
MaxDrop = Annotated[float | None, _option(help="What the metric may lose; points for top1 and top5.")]
TargetSize = Annotated[str | None, _option(help="Bytes of the file, as in 2MB.")]
TargetRatio = Annotated[float | None, _option(help="How many times smaller the file shall be.")]
Error = Annotated[float | None, _option(help="Noise over signal allowed in the outputs. Where nothing is asked for, "
                                        f"{DEFAULT_ERROR}, or {MADE_UP_ERROR} on made-up inputs.")]  # fmt: skip
OverridesFile = Annotated[Path | None, _option("--overrides", help="TOML: what is decided for single weights.")]
AllowMiss = Annotated[bool, typer.Option("--allow-miss", help="Write what comes nearest where the contract is missed.")]
MaxRam = Annotated[str, typer.Option(help="Memory for statistics.")]
PlanOut = Annotated[Path | None, _option(help="Write the plan here too.")]
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
    data: DataOption = None,
    preprocess: Preprocess = None,
    mean: Mean = None,
    std: Std = None,
    layout: Layout = None,
    size: Size = None,
    evaluation: Evaluation = None,
    metric: MetricOption = "top1",
    max_drop: MaxDrop = None,
    target_size: TargetSize = None,
    target_ratio: TargetRatio = None,
    error: Error = None,
    lossless: Lossless = False,
    overrides: OverridesFile = None,
    allow_miss: AllowMiss = False,
    plan_out: PlanOut = None,
    prefer: Favour = Prefer.BALANCED,
    max_ram: MaxRam = "512MiB",
    as_json: Json = False,
) -> None:
    """Compress a model: the smallest file inside a contract."""
    contract = Contract(max_drop, _bytes("--target-size", target_size), target_ratio, error, metric)
    with _progress() as progress:
        images = (preprocess, _numbers("--mean", mean), _numbers("--std", std), layout, size)
        result = api.optimize(
            model, output, contract, _data(model, data, *images), _data(model, evaluation, *images), lossless,
            _overrides(overrides), allow_miss, prefer.value, _bytes("--max-ram", max_ram) or api.MAX_RAM, progress,
        )  # fmt: skip
    if plan_out:
        _write(plan_out, result.plan.to_json())
    _show(result, as_json)
    if not result.met:
        raise typer.Exit(_MISSED)


@app.command()
def plan(
    model: Model,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The plan file; standard output if not given.")]
    = None,
    data: DataOption = None,
    preprocess: Preprocess = None,
    mean: Mean = None,
    std: Std = None,
    layout: Layout = None,
    size: Size = None,
    metric: MetricOption = "top1",
    max_drop: MaxDrop = None,
    target_size: TargetSize = None,
    target_ratio: TargetRatio = None,
    error: Error = None,
    lossless: Lossless = False,
    overrides: OverridesFile = None,
    max_ram: MaxRam = "512MiB",
) -> None:  # fmt: skip
    """Write down what optimize would do, to be read, edited and applied."""
    contract = Contract(max_drop, _bytes("--target-size", target_size), target_ratio, error, metric)
    with _progress() as progress:
        images = (preprocess, _numbers("--mean", mean), _numbers("--std", std), layout, size)
        text = api.plan(
            model, contract, _data(model, data, *images), lossless, _overrides(overrides),
            _bytes("--max-ram", max_ram) or api.MAX_RAM, progress,
        ).to_json()  # fmt: skip
    if output is None:
        print(text, end="")
    else:
        _write(output, text)


@app.command()
def apply(
    model: Model,
    plan_file: Annotated[Path, typer.Argument(metavar="PLAN", help="What `onnxopt plan` wrote.", show_default=False)],
    output: Output,
    data: DataOption = None,
    preprocess: Preprocess = None,
    mean: Mean = None,
    std: Std = None,
    layout: Layout = None,
    size: Size = None,
    prefer: Favour = Prefer.BALANCED,
    max_ram: MaxRam = "512MiB",
    as_json: Json = False,
) -> None:
    """Compress a model as a plan says; one that was made on data needs the same data."""
    try:
        text = plan_file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OnnxoptError(f"{plan_file}: cannot be read: {error}") from error
    with _progress() as progress:
        images = (preprocess, _numbers("--mean", mean), _numbers("--std", std), layout, size)
        result = api.apply(
            model, Plan.from_json(text), output, _data(model, data, *images), prefer.value,
            _bytes("--max-ram", max_ram) or api.MAX_RAM, progress,
        )  # fmt: skip
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


def _data(
    model: Path,
    spec: str | None,
    preprocess: str | None,
    mean: list[float] | None,
    std: list[float] | None,
    layout: str | None,
    size: int | None,
) -> Data | None:
    """What an option names, for this model."""
    if spec is None:
        return None
    try:
        session = quiet_session(str(model))
    except Exception as error:
        raise OnnxoptError(f"{model}: does not run: {first_line(error)}") from error
    return open_data(spec, session, preprocess, mean, std, layout, size)


def _overrides(path: Path | None) -> Overrides:
    return Overrides() if path is None else Overrides.read(path)


def _numbers(option: str, text: str | None) -> list[float] | None:
    """``0.5,0.5,0.5``"""
    try:
        return None if text is None else [float(word) for word in text.split(",")]
    except ValueError as error:
        raise OnnxoptError(f"{option} is {text!r}, expected numbers, as in 0.485,0.456,0.406") from error


def _bytes(option: str, text: str | None) -> int | None:
    """``2MB``, ``512 KiB``, ``100000``"""
    if text is None:
        return None
    match = re.fullmatch(r"([0-9.]+)\s*([a-z]*)", text.strip(), re.IGNORECASE)
    try:
        count = int(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
    except (KeyError, ValueError):
        count = 0
    if count < 1:
        raise OnnxoptError(f"{option} is {text!r}, expected bytes, as in 2MB, 500kB or 1GiB")
    return count


def _write(path: Path, text: str) -> None:
    with write_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _show(result: api.Result, as_json: bool) -> None:
    if as_json:
        print(to_json(result))
    else:
        table.print_result(_console(), result)


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else _WIDTH)


@contextmanager
def _progress() -> Iterator[engine.Progress]:
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
        sys.exit(_MISSED if isinstance(error, Missed) else 1)
    except (KeyboardInterrupt, SystemExit) as end:  # typer turns the former into the latter with code 130
        if isinstance(end, SystemExit) and end.code != _INTERRUPTED:
            raise
        print("onnxopt: interrupted; no half-written file is left", file=sys.stderr)
        sys.exit(_INTERRUPTED)
