"""Models as programs hold them: a path, or an object in memory, which is written to a temporary file."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Union

import onnx

from onnxopt.errors import OnnxoptError, first_line
from onnxopt.files import Folder

if TYPE_CHECKING:
    import onnx_ir

Model = Union[str, os.PathLike[str], onnx.ModelProto, "onnx_ir.Model"]
"""A path, an `onnx.ModelProto` or an `onnx_ir.Model`."""
_LARGEST = 2**31 - 2**24
"""Bytes of a protobuf; the weights of a larger model go to a file beside it."""


def on_disk(model: Model) -> tuple[Path, Folder | None]:
    """The path of a model, and the temporary folder that holds it if it was in memory.

    Raises OnnxoptError if it is neither a path nor a model, or cannot be written.
    """
    if isinstance(model, str | os.PathLike):
        return Path(model), None
    folder = Folder()
    path = folder.path / "model.onnx"
    ir = sys.modules.get("onnx_ir")  # whoever has such a model has imported it
    try:
        if ir is not None and isinstance(model, ir.Model):
            ir.save(model, path, external_data=f"{path.name}.data" if _large(model) else None)
        elif isinstance(model, onnx.ModelProto):
            onnx.save(model, path, save_as_external_data=model.ByteSize() > _LARGEST, convert_attribute=True)
        else:
            raise OnnxoptError(f"the model is a {type(model).__name__}, expected a path, an onnx.ModelProto or an "
                               "onnx_ir.Model")  # fmt: skip
    except (OSError, ValueError) as error:
        raise OnnxoptError(f"the model in memory cannot be written to {folder.path}: {first_line(error)}") from error
    return path, folder


def _large(model: onnx_ir.Model) -> bool:
    """Whether some of its weights lie in files, or they are too many bytes for one protobuf."""
    weights = [value.const_value for value in model.graph.initializers.values() if value.const_value is not None]
    lies_in_file = any(type(weight).__name__ == "ExternalTensor" for weight in weights)
    return lies_in_file or sum(weight.nbytes for weight in weights) > _LARGEST
