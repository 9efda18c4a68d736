"""A session of a rewritten model, whose failures are the rewriting's."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime

from onnxopt import runtime
from onnxopt.encoding import Array
from onnxopt.errors import Unsound, first_line


@dataclass(frozen=True, slots=True)
class Running:
    """Runs a rewritten model on inputs on which the source runs."""

    source: Path
    session: onnxruntime.InferenceSession
    file: Path | None = None
    """The compressed file that the session is of; None if it is of a plain model."""

    def __reduce__(self) -> tuple[Any, ...]:
        if self.file is None:
            return Running, (self.source, self.session)
        return _loaded, (self.source, self.file.read_bytes())

    def run(self, names: Sequence[str], feeds: Mapping[str, Array]) -> list[Any]:
        """The named outputs. Raises Unsound if the model does not run."""
        try:
            return list(self.session.run(list(names), dict(feeds)))
        except Exception as error:  # the runtime's own types, which share no base class
            raise Unsound(self.source, f"it does not run: {first_line(error)}") from error


def identity(file: Path) -> str:
    """Tells a compressed file, with its data, and what runs it from all others."""
    digest = hashlib.sha256(" ".join(runtime.providers_in_use()).encode())
    for part in (file, file.with_name(f"{file.name}.data")):
        if os.path.isfile(part):  # noqa: PTH113 - `Path.is_file` raises an error where the name is too long
            with part.open("rb") as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()


def _loaded(source: Path, content: bytes) -> Running:
    """The model of a compressed file in another process."""
    return Running(source, runtime.load_to_compare(content))
