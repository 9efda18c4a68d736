"""The command line. Exit codes: 0 success, 1 an error with a message, 2 wrong usage, 3 the contract cannot be met, 130
interrupted.
"""

from __future__ import annotations

import sys

import onnxruntime

from onnxopt.cli import benchmark, compare, evaluate, files, optimize, report, sensitivity
from onnxopt.cli.app import app
from onnxopt.errors import OnnxoptError

__all__ = ["app", "benchmark", "compare", "evaluate", "files", "main", "optimize", "report", "sensitivity"]

_INTERRUPTED = 130


def main() -> None:
    """Entry point: every OnnxoptError becomes one line on standard error and exit code 1."""
    onnxruntime.set_default_logger_severity(4)  # errors are raised and shown as one line
    try:
        app()
    except OnnxoptError as error:
        print(f"onnxopt: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, SystemExit) as end:  # typer converts the former to the latter, code 130
        if isinstance(end, SystemExit) and end.code != _INTERRUPTED:
            raise
        print("onnxopt: interrupted; no half-written file is left", file=sys.stderr)
        sys.exit(_INTERRUPTED)
