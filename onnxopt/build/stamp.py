"""What a file says of its origin: digests of the request and of its inputs, by which pipelines tell what is stale."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from onnxopt import runtime
from onnxopt.data import Data, Spec, file_digest, open_data
from onnxopt.errors import OnnxoptError
from onnxopt.files import reading
from onnxopt.graph import STAMP, Source
from onnxopt.request import Request

_DIGITS = 12
"""Hex digits of each digest: differences are accidents, and each digit is a byte of the file."""
NOT_OPTIONS = frozenset({"data", "evaluation", "custom_ops", "stamp", "progress", "clock", "pool", "started"})
"""Fields of a request that change no file, or are in another digest."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """Digests of all that a file depends on. As text: joined by hyphens, in the order of the fields."""

    model: str
    """Of the source and its external data."""
    data: str
    """Of the data, that of the final check included; without any, the same for all files."""
    options: str
    """Of the contract, of all options that change the file, and of libraries of custom operators."""
    versions: str
    """Of the versions of onnxopt, onnxruntime and numpy."""

    @classmethod
    def of(cls, source: Source, request: Request) -> Stamp:
        """The digests of a request. Reads all of the data. Raises OnnxoptError if it cannot be read."""
        used = (getattr(request, one.name) for one in fields(request) if one.name not in NOT_OPTIONS)
        libraries = (file_digest(Path(path)).hex() for path in request.custom_ops)
        data = (_digest_of(spec, source) for spec in (request.data, request.evaluation))
        versions = (version("onnxopt"), onnxruntime.__version__, np.__version__)
        options = (*map(repr, used), *libraries, *runtime.providers_in_use())
        return cls(source.sha256[:_DIGITS], _digest(data), _digest(options), _digest(versions))

    @classmethod
    def read(cls, path: Path) -> Stamp:
        """The stamp of a file. Raises OnnxoptError if there is no file, or it has none."""
        reading([path])
        try:
            model = onnx.load(path, load_external_data=False)
        except Exception as error:  # of onnx, protobuf and the system
            raise OnnxoptError(f"{path}: cannot be read: {error}") from error
        text = next((entry.value for entry in model.metadata_props if entry.key == STAMP), "")
        if len(words := text.split("-")) != len(fields(cls)):
            raise OnnxoptError(f"{path}: does not say which request made it; `onnxopt optimize` writes that into files "
                               "that are not copies of their source")  # fmt: skip
        return cls(*words)

    def __str__(self) -> str:
        return "-".join(astuple(self))

    def changed(self, other: Stamp) -> list[str]:
        """Names of the fields in which two stamps differ."""
        return [one.name for one in fields(self) if getattr(self, one.name) != getattr(other, one.name)]


def _digest_of(spec: Spec | None, source: Source) -> str:
    if spec is None:
        return ""
    data = spec if isinstance(spec, Data) else open_data(spec, runtime.load_checked(source.path))
    return data.digest()


def _digest(parts: Iterable[str]) -> str:
    """Of texts, with their lengths."""
    return hashlib.sha256(repr(tuple(parts)).encode()).hexdigest()[:_DIGITS]
