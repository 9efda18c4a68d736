"""What is checked before a file is read."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from onnxopt.errors import OnnxoptError, meant
from onnxopt.files.writing import announced, kind_of


def reading(files: Iterable[Path]) -> None:
    """Raises OnnxoptError if one of these is no regular file, or an open `writing` block would overwrite it."""
    outputs = [(output, output.path.stat()) for output in announced.get() if output.path.exists()]
    for file in files:
        try:
            found = file.stat()
        except OSError as error:
            reason = error.strerror or str(error)
            if file.is_symlink():
                reason = f"it is a link to {file.readlink()}: {reason}"
            raise OnnxoptError(f"{file}: cannot be read: {reason}{near(file)}") from error
        if kind := kind_of(found.st_mode):
            raise OnnxoptError(f"{file}: is {kind}, expected a file")
        for output, place in outputs:
            if os.path.samestat(found, place):
                raise OnnxoptError(f"{output.path}: {output.name} would overwrite {file}, which is read; name another "
                                   "file")  # fmt: skip


def near(path: Path) -> str:
    """What a path that does not exist may have meant, as the end of a sentence; empty if nothing is near."""
    try:
        return "" if path.exists() else meant(path.name, (other.name for other in path.parent.iterdir()))
    except OSError:
        return ""


def read_text(path: Path) -> str:
    """The text of a UTF-8 file. Raises OnnxoptError if it cannot be read, or an open `writing` block would overwrite
    it."""
    try:
        if path.is_file():  # a pipe is read only once, and may give a text
            reading([path])
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise OnnxoptError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise OnnxoptError(f"{path}: cannot be read: it is no UTF-8 text") from error
