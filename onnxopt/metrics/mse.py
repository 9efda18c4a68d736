"""Relative mean squared error."""

from __future__ import annotations

import numpy as np

from onnxopt.data import Batch
from onnxopt.errors import OnnxoptError
from onnxopt.metrics.base import Metric, Outputs, Score, at_least_one
from onnxopt.metrics.class_scores import is_float, shapes


class MeanSquaredError(Score):
    """Mean squared error of the float outputs over the mean square of the original's: 0.01 is a tenth of the signal.

    It is relative, so that a value means the same for every model. With several outputs it is the mean over them. It is
    infinite where an output is NaN or infinite and the original's is not.
    """

    def __init__(self) -> None:
        self._noise: dict[int, float] = {}
        self._signal: dict[int, float] = {}

    def add(self, outputs: Outputs, reference: Outputs, batch: Batch) -> None:
        """See `Score`. Raises OnnxoptError where the model has no float output."""
        for i in _floats(reference):
            wanted, got = np.asarray(reference[i], np.float64), np.asarray(outputs[i], np.float64)
            if wanted.shape != got.shape:
                self._noise[i] = np.inf
                continue
            finite = np.isfinite(wanted)
            same = (wanted == got) | (np.isnan(wanted) & np.isnan(got))
            with np.errstate(invalid="ignore"):
                noise = float(np.square(np.where(same, 0.0, wanted - got)).sum())
            self._noise[i] = self._noise.get(i, 0.0) + (np.inf if np.isnan(noise) else noise)
            self._signal[i] = self._signal.get(i, 0.0) + float(np.square(wanted[finite]).sum())

    def value(self) -> float:
        """Noise power over signal power; 0 for outputs equal to the original's."""
        at_least_one(len(self._noise))
        ratios = []
        for i, noise in self._noise.items():
            signal = self._signal.get(i, 0.0)
            ratios.append(noise / signal if signal > 0 else 0.0 if noise == 0 else np.inf)
        return float(np.mean(ratios))


def _floats(outputs: Outputs) -> list[int]:
    found = [i for i, output in enumerate(outputs) if is_float(output)]
    if not found:
        raise OnnxoptError(f"mse: needs an output of floats, the model has {shapes(outputs)}")
    return found


METRICS = (Metric("mse", MeanSquaredError, higher_is_better=False),)
