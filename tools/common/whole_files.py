"""Whole model files, nothing lost: their sizes, and how fast the weights are decoded."""

from __future__ import annotations

import io
import tempfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import zstandard

import onnxopt
from common import codec_sizes, generated, realdata
from onnxopt import native
from onnxopt.encoding import matrix_view
from onnxopt.graph import payload

REPEATS = 15
SECONDS = 0.3
"""Of each decoding, at least so many and so long; the fastest counts."""


@dataclass(frozen=True, slots=True)
class Whole:
    """One file's bytes, losslessly compressed."""

    source: int
    zip: int
    """`zip -9`."""
    zstd: int
    """`zstd -19`."""
    lossless: int
    """`onnxopt optimize --lossless`."""
    speed: float
    """Bytes of weights that one core decodes in a second; NaN where the file has no entries."""

    @property
    def share(self) -> float:
        """Of the better of both others."""
        return self.lossless / min(self.zip, self.zstd)


@dataclass(frozen=True, slots=True)
class Halves:
    """A model's weights with elements of two bytes, as shares of these bytes."""

    zstd: float
    lossless: float


def sizes(path: Path) -> Whole:
    """Compresses one model file in each way."""
    content, archive = path.read_bytes(), io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        file.writestr(path.name, content)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / path.name
        onnxopt.optimize(path, output, lossless=True)
        size, speed = output.stat().st_size, _speed(payload(onnx.load(output)))
    zstd = zstandard.ZstdCompressor(level=19).compress(content)
    return Whole(len(content), archive.tell(), len(zstd), size, speed)


def generated_sizes(name: str, n: int) -> Whole:
    """The same of a model that is made for it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(generated.model(name, n), path)
        return sizes(path)


def halves(path: Path, dtype: str) -> Halves:
    """A model's weights of two or more dimensions, rounded to `dtype`, each compressed by itself."""
    whole = zstd = lossless = 0
    for weight, _ in codec_sizes.weights(path):
        rounded: realdata.Array = weight.astype(generated.numpy_dtype(dtype))
        values = rounded.reshape(matrix_view(weight.shape, 0))
        whole += values.nbytes
        zstd += len(zstandard.ZstdCompressor(level=19).compress(values.tobytes()))
        lossless += sum(len(native.encode_lossless(part)) for part in codec_sizes.chunks(values))
    return Halves(zstd / whole, lossless / whole)


def _speed(data: bytes) -> float:
    best, size = np.inf, 0
    with native.Container(data) as stored:
        begun, repeats = time.process_time(), 0
        while repeats < REPEATS or time.process_time() < begun + SECONDS:
            started = time.process_time()
            weights = stored.decode(threads=1)
            best = min(best, time.process_time() - started)
            repeats += 1
        size = sum(values.nbytes for values in weights.values())
    return size / best if size else np.nan
