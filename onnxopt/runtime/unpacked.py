"""A compressed model as a plain one in temporary files, which ONNX Runtime or this process maps into memory."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx

from onnxopt import native

_SMALLEST = 16 << 20
"""Bytes of decoded weights that are worth writing files: less fits any memory twice."""
_WEIGHTS = "weights"


@contextmanager
def unpacked(data: memoryview) -> Iterator[Path | None]:
    """The inner model of a container as a file, whose weights lie in another one.

    The runtime maps the weights, and packs one after the other for its kernels. The files are deleted at the end; what
    is mapped stays readable.

    Gives None where that cannot be, as on Windows, which deletes no mapped file, and where it is not worth the files:
    for small weights, or without twice the room on the disk. Raises ContainerError.
    """
    with tempfile.TemporaryDirectory(prefix="onnxopt-", ignore_cleanup_errors=True) as name:
        yield _written(data, Path(name))


def _written(data: memoryview, folder: Path) -> Path | None:
    with native.Container(data) as container:
        size = sum(entry.size for entry in container.entries if not entry.hidden)
        if os.name != "posix" or size < _SMALLEST or shutil.disk_usage(folder).free < 2 * size:
            return None
        try:
            with (folder / _WEIGHTS).open("wb") as file:
                places = container.write(file)
        except OSError:
            return None
        model = onnx.load_model_from_string(container.model)
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL and tensor.name in places:
            offset, length = places[tensor.name]
            del tensor.external_data[:]
            for key, value in (("location", _WEIGHTS), ("offset", offset), ("length", length)):
                tensor.external_data.add(key=key, value=str(value))
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path
