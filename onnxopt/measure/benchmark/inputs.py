"""Inputs that models run on: the user's data or noise, in batches of any size that the model takes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime

from onnxopt.data import Array, Batch, CannotRun, Data, input_scale
from onnxopt.data.random import random_feeds, runnable_sizes, unknown_dimensions
from onnxopt.errors import OnnxoptError

_SIZES = (224, 640, 512, 32, 1)
"""Candidates for unknown dimensions, the most common first."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """Samples that a model runs on."""

    name: str
    """Name of the user's data, or "noise"."""
    _samples: list[dict[str, Array]]
    _batch_axes: list[tuple[str, int]]
    """Input and axis of the batch, for each input that takes any number of samples."""

    @property
    def fixed(self) -> int | None:
        """Samples that the model takes at once; None if any number."""
        return None if self._batch_axes else Batch(self._samples[0]).size

    def batches(self, size: int, count: int) -> list[dict[str, Array]]:
        """`count` batches of `size` samples, all different if there are enough samples.

        If the model takes a fixed number of samples, `size` is ignored.
        """
        return [self._batch(size, i) for i in range(count)]

    def _batch(self, size: int, i: int) -> dict[str, Array]:
        feeds = dict(self._samples[i % len(self._samples)])
        for name, axis in self._batch_axes:
            chosen = (np.arange(size) + i * size) % feeds[name].shape[axis]
            feeds[name] = np.ascontiguousarray(np.take(feeds[name], chosen, axis))
        return feeds


def inputs_for(session: onnxruntime.InferenceSession, model: onnx.ModelProto, data: Data | None, count: int) -> Inputs:
    """The first batch of `data`, or `count` samples of noise.

    Raises OnnxoptError if the data is empty, or the model runs on no noise.
    """
    unknown = list(unknown_dimensions(session))
    batch = {key for _, axis, key in unknown if axis == 0}
    axes = [(name, axis) for name, axis, key in unknown if key in batch]
    if data is not None:
        first = next(iter(data), None)
        if first is None:
            raise OnnxoptError(f"{data.name}: holds no batch; give at least one sample")
        return Inputs(data.name, [first.feeds], axes)
    scale = input_scale(model)
    try:
        sizes = runnable_sizes(session, scale, _SIZES)
    except CannotRun as error:
        raise OnnxoptError(f"{error}; give inputs with --data") from error
    return Inputs("noise", [random_feeds(session, sizes, seed, scale) for seed in range(count)], axes)
