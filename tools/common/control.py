"""The control that onnxopt is compared with: integers for each output channel, and zstd.

Batch normalizations are folded, then every weight of two or more dimensions is rounded to 2^(b - 1) - 1 levels a side,
up to its output channel's largest magnitude. Integers are stored one in a byte, with a float32 scale for each channel
and all else as it was, in an .onnx file, and that is compressed by zstd -19. Accuracy is that of the same values in
float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
import zstandard
from onnx import numpy_helper

from common import realdata
from common.kept import ONNXOPT
from onnxopt.graph import Graph, normalise
from onnxopt.graph.cleanup import clean

BITS = (8, 7, 6, 5, 4, 3, 2)


@dataclass(frozen=True, slots=True)
class Control:
    """A model under the control."""

    bits: int
    bytes_before: int
    bytes_after: int
    metric: float
    """Percent, on the test part."""

    @property
    def ratio(self) -> float:
        """How many times smaller the file is."""
        return self.bytes_before / self.bytes_after


def quantized(model: onnx.ModelProto, bits: int) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The model with dequantized weights, to be run, and with integers and scales, to be stored."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    normalise(copy)
    running, *_ = clean(copy)
    graph = Graph(running)  # which may add weights
    stored = onnx.ModelProto()
    stored.CopyFrom(running)
    axes = {site.path: site.axis for site in graph.sites() if site.axis is not None and len(site.shape) > 1}
    for here, there in zip(list(running.graph.initializer), list(stored.graph.initializer), strict=True):
        if here.name not in axes:
            continue
        values = numpy_helper.to_array(here).astype(np.float32)
        others = tuple(i for i in range(values.ndim) if i != axes[here.name])
        scale = np.abs(values).max(others, keepdims=True) / np.float32(2 ** (bits - 1) - 1)
        q = np.rint(values / np.where(scale, scale, 1)).astype(np.int8)
        here.CopyFrom(numpy_helper.from_array(q * scale, here.name))
        there.CopyFrom(numpy_helper.from_array(q, here.name))
        stored.graph.initializer.append(numpy_helper.from_array(scale.ravel(), f"{here.name}/scale"))
    return running, stored


def control(model: str, bits: int, limit: int | None = None) -> Control:
    """A model at one width, measured in a process of its own; kept."""
    return ONNXOPT.once(_control, model, bits, limit)


def _control(model: str, bits: int, limit: int | None) -> Control:
    path = realdata.path_of(model)
    running, stored = quantized(onnx.load(path), bits)
    session = onnxruntime.InferenceSession(
        running.SerializeToString(), realdata.options(), providers=["CPUExecutionProvider"]
    )
    size = len(zstandard.ZstdCompressor(level=19).compress(stored.SerializeToString()))
    return Control(bits, path.stat().st_size, size, realdata.evaluate(model, session, limit=limit).metric)


def as_good(model: str, metric: float, limit: int | None = None) -> Control | None:
    """The fewest bits with which the control has at least this metric; None where it never has.

    Bits are counted down from 8 until the metric is more than a point lower.
    """
    best = None
    for bits in BITS:
        found = control(model, bits, limit)
        if found.metric >= metric:
            best = found
        elif found.metric < metric - 1:
            break
    return best
