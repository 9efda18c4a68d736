"""Reads models, with clear errors."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from math import prod
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from onnxopt.errors import ContainerError, OnnxoptError
from onnxopt.files import reading
from onnxopt.graph.normalise import tensors

DOMAIN, OP, PAYLOAD = "onnxopt", "CompressedModel", "onnxopt.container"
"""The single node of the outer model, and the initializer that holds the container."""


@dataclass(frozen=True, slots=True)
class Source:
    """A model as it was read from its file."""

    path: Path
    model: onnx.ModelProto
    size: int
    """Bytes of the file and its external data."""
    sha256: str
    """Of the file and its external data, in hex."""
    files: tuple[Path, ...] = ()
    """The file and its external data."""

    def copy(self) -> bytes:
        """The model as one file: the source's own bytes or, if it has external data, a model with that data inside."""
        data = self.path.read_bytes()
        return data if len(data) == self.size else self.model.SerializeToString(deterministic=True)

    @property
    def float_elements(self) -> int:
        """Elements of all float32 weights, in subgraphs too."""
        return sum(prod(t.dims) for t in tensors(self.model) if t.data_type == onnx.TensorProto.FLOAT)


def payload(model: onnx.ModelProto) -> bytes:
    """The container in a model that onnxopt wrote. Raises ContainerError if there is none."""
    for tensor in model.graph.initializer:
        if tensor.name == PAYLOAD and is_compressed(model):
            return bytes(tensor.raw_data)
    raise ContainerError(f"the model has no {DOMAIN}::{OP} node with an initializer {PAYLOAD!r}")


def is_compressed(model: onnx.ModelProto) -> bool:
    """Whether onnxopt wrote this model."""
    return any(node.domain == DOMAIN and node.op_type == OP for node in model.graph.node)


def read(path: str | os.PathLike[str]) -> Source:
    """Reads an ONNX file with its external data. Raises OnnxoptError if that is impossible, or an open
    `writing` block would overwrite one of these files."""
    path = Path(path)
    digest = hashlib.sha256()
    reading([path])
    try:
        data = path.read_bytes()
        digest.update(data)
        model = onnx.load_model_from_string(data)
        external = _external_files(path, model)
        reading(external)
        onnx.load_external_data_for_model(model, str(path.parent))
        for file in external:
            digest.update(file.read_bytes())
        size = len(data) + sum(file.stat().st_size for file in external)
    except DecodeError as error:
        raise OnnxoptError(f"{path}: not an ONNX model ({error}); expected a file that onnx.load can read") from error
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise OnnxoptError(f"{path}: cannot be read: {_reason(error)}") from error
    if not model.graph.node and not model.graph.output:
        raise OnnxoptError(f"{path}: holds no graph; expected an ONNX model")
    return Source(path, model, size, digest.hexdigest(), (path, *external))


def _reason(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


def _external_files(path: Path, model: onnx.ModelProto) -> list[Path]:
    """The external-data files of the model's tensors, in order of name."""
    names = {
        entry.value
        for tensor in tensors(model)
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return [path.parent / name for name in sorted(names)]
