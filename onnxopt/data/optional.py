"""Libraries that only some kinds of data need."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from onnxopt.errors import OnnxoptError


def optional(module: str, what: str) -> Any:
    """The module of an optional dependency.

    Arguments:
        what: the work that needs it, for the message: "to read Parquet files".

    Raises OnnxoptError, with the command that installs it, where it is missing.
    """
    package = module.partition(".")[0]
    try:
        return import_module(module)
    except ImportError as error:
        raise OnnxoptError(f"{package} is not installed, and is needed {what}: pip install {package}") from error
