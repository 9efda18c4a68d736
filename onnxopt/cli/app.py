"""Shared parts of all commands: the application, the console and the progress bar."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text

import onnxopt
from onnxopt.cli.event_log import EventLog
from onnxopt.cli.time_left import Even, text
from onnxopt.files import write_atomically
from onnxopt.report.json import to_json
from onnxopt.report.text import size

app = typer.Typer(
    help="Makes ONNX models small: compressed weights that run in stock ONNX Runtime.",
    pretty_exceptions_enable=False,
)
_WIDTH = 80


_START = """\
onnxopt makes ONNX models small. Three commands to start with:

  onnxopt optimize model.onnx -o small.onnx --data train.npz
      writes the smallest file; --max-drop 0.5 bounds what it loses
  onnxopt evaluate model.onnx small.onnx --data test.npz
      says what it cost, and whether that is significant
  onnxopt benchmark model.onnx small.onnx
      latency, load time and memory, side by side

DATA is arrays, images, texts or audio like those in use; optimize works without
it. `onnxopt --help` lists all commands, `onnxopt optimize --help` all options."""


@app.callback(invoke_without_command=True)
def _alone(
    ctx: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    if version or ctx.invoked_subcommand is None:
        print(onnxopt.__version__ if version else _START)
        raise typer.Exit


def console() -> Console:
    """Standard output, as wide as the terminal, or 80 columns of plain text without one."""
    width = None if sys.stdout.isatty() else _WIDTH
    return Console(width=width, markup=False, emoji=False)  # names of files and weights are texts like any other


def write(path: Path, content: str | bytes) -> None:
    """Writes a file, completely or not at all. Raises OnnxoptError if it cannot be written."""
    with write_atomically(path) as temporary:
        temporary.write_bytes(content if isinstance(content, bytes) else content.encode(errors="backslashreplace"))


def print_json(result: Any) -> None:
    """Prints a result as JSON, which is ASCII where standard output cannot hold every character."""
    unicode = (sys.stdout.encoding or "utf-8").lower().replace("-", "") == "utf8"
    print(to_json(result, ascii_only=not unicode))


def show_written(path: Path, as_json: bool) -> None:
    """Prints the path and size of a written file."""
    count = path.stat().st_size
    if as_json:
        print_json({"output": path, "bytes": count})
    else:
        print(f"{path}: {size(count)}")


@contextmanager
def progress(verbose: bool = False, log: Path | None = None, even: bool = True) -> Iterator[Shown]:
    """A progress bar on standard error if it is a terminal. With `verbose`, also prints a line for each step; with
    `log`, appends an event for each step to that file, or to standard error if it is ``-``. The bar tells the time left
    where every share takes as long, as `even` says.

    What hooks print meanwhile goes to standard error. Raises OnnxoptError if the log cannot be written.
    """
    columns: tuple[Any, ...] = (BarColumn(30), _Left(), TextColumn("{task.description}", markup=False))
    errors = Console(stderr=True)
    with (
        redirect_stdout(sys.stderr),
        Bar(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bar,
        EventLog.opened(log) as events,
    ):
        yield Shown(bar, errors if verbose else None, events, Even() if even else None)


class _Left(ProgressColumn):
    """The time left, which counts down between steps."""

    def render(self, task: Task) -> Text:
        """See `ProgressColumn`."""
        ends = task.fields["ends"]
        return Text(text(None if ends is None else max(0.0, ends - time.monotonic())))


class Shown:
    """A `Progress` that people and programs see."""

    def __init__(self, bar: Bar, lines: Console | None, events: EventLog, left: Even | None) -> None:
        self._bar, self._lines, self._events, self._left = bar, lines, events, left
        self._task, self._last = bar.add_task("reading", total=1.0, ends=None), ""

    def __call__(self, what: str, share: float) -> None:
        """See `Progress`."""
        now = time.monotonic()
        rest = self._left(share, now) if self._left else None
        self._bar.update(self._task, description=what, completed=share, ends=None if rest is None else now + rest)
        if self._lines and what != self._last:
            self._lines.print(what, highlight=False, markup=False, soft_wrap=True)
        self._events.step(what, share)
        self._last = what

    def written(self, size: int) -> None:
        """Ends the log with the bytes of the output."""
        self._events.end(size)
