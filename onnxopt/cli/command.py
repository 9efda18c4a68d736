"""All commands, and what their errors and interruptions become."""

from __future__ import annotations

import signal
import sys

import onnxruntime

from onnxopt.cli import INTERRUPTED, batch, benchmark, compare, evaluate, files, optimize, report, sensitivity
from onnxopt.cli.app import app
from onnxopt.cli.streams import results_alone, say, signals_interrupt
from onnxopt.errors import OnnxoptError

__all__ = ["app", "batch", "benchmark", "command", "compare", "evaluate", "files", "optimize", "report", "sensitivity"]

_SIGNAL = 128
"""Added to the number of a signal: the exit code of a process that the signal ended, as in shells."""


def command() -> None:
    """Runs the command line: every OnnxoptError becomes one line on standard error and exit code 1."""
    arrived: list[int] = []
    try:
        onnxruntime.set_default_logger_severity(4)  # errors are raised and shown as one line
        with signals_interrupt() as arrived, results_alone():
            _check_words(sys.argv[1:])
            app(prog_name="onnxopt")
    except OnnxoptError as error:
        say(f"onnxopt: {error}")
        sys.exit(error.exit_code)
    except MemoryError:
        say("onnxopt: there is not enough memory for this model; --max-ram limits what statistics take")
        sys.exit(OnnxoptError.exit_code)
    except (KeyboardInterrupt, SystemExit) as end:  # typer converts the former to the latter, code 130
        if isinstance(end, SystemExit) and end.code != _SIGNAL + signal.SIGINT:
            raise
        say(INTERRUPTED)
        sys.exit(_SIGNAL + (arrived[0] if arrived else signal.SIGINT))


def _check_words(words: list[str]) -> None:
    """Raises OnnxoptError for a word of the command line that is no text."""
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError as error:
            raise OnnxoptError(f"{word}: is no UTF-8, and ONNX Runtime opens files by such names alone; rename the "
                               "file or its folder") from error  # fmt: skip
