"""ONNX Runtime's own static quantization (PTQ, QDQ), with which INT8 models are compared."""

from __future__ import annotations

import contextlib
import io
import math
import tempfile
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import onnx
from onnx import version_converter
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

from onnxopt.data import quiet_session

Feeds = dict[str, Any]

METHODS = ("MinMax", "Entropy", "Percentile")
"""Ways to choose the range of an activation. The runtime's fourth, Distribution, is for floats of 8 bits: it leaves
INT8 ResNet-20 with 10 % top-1, and SqueezeNet 1.1 with none."""
IMAGES = 128
"""For calibration."""
_PER_CHANNEL = 13
"""The first opset with scales per channel."""
_STRIDE = 16
"""Images whose activations are held at a time; ranges and histograms are merged over these pieces."""


class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
    """Feeds for the runtime's quantizer, one sample each."""

    def __init__(self, samples: Sequence[Feeds]) -> None:
        self._samples = samples
        self.set_range(0, len(samples))

    def get_next(self) -> dict[str, Any] | None:
        """The next sample, or None."""
        return next(self._feeds, None)

    def __len__(self) -> int:
        return len(self._samples)

    def set_range(self, start_index: int, end_index: int) -> None:
        """What `get_next` gives from now on."""
        self._feeds = iter(self._samples[start_index:end_index])


def _samples(batch: Feeds | Any, name: str) -> Iterable[Feeds]:
    return [batch] if isinstance(batch, dict) else ({name: batch[i : i + 1]} for i in range(len(batch)))


def int8(source: Path, output: Path, data: Callable[[], Iterable[Feeds | Any]], method: str = "MinMax") -> None:
    """Weights and activations in 8 bits, as QDQ, weights per channel, with the runtime's pre-processing.

    Activations are unsigned: for signed ones, the default, most convolutions have no INT8 kernel on x86. Models of
    older opsets are converted to the first with scales per channel.

    Arguments:
        output: the file to write.
        data: gives batches of a model with one input, [n, ...], or feeds of one sample; the first `IMAGES` samples are
            used.
        method: one of METHODS.
    """
    model = onnx.load(source)
    if model.opset_import[0].version < _PER_CHANNEL:
        model = version_converter.convert_version(model, _PER_CHANNEL)
    entry = quiet_session(str(source)).get_inputs()[0].name
    samples = list(islice((feeds for batch in data() for feeds in _samples(batch, entry)), IMAGES))
    # The quantizer prints its progress, and no option turns that off.
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        prepared = str(Path(folder) / "prepared.onnx")
        onnx.save(model, prepared)
        quant_pre_process(prepared, prepared, skip_symbolic_shape=True)
        quantization.quantize_static(
            prepared, str(output), Reader(samples), per_channel=True,
            quant_format=quantization.QuantFormat.QDQ, activation_type=quantization.QuantType.QUInt8,
            calibrate_method=quantization.CalibrationMethod[method],
            extra_options={"CalibStridedMinMax": math.gcd(len(samples), _STRIDE)},
        )  # fmt: skip
