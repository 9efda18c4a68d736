"""A metric that is a function of the user's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from onnxopt.data import Array, Batch, blamed
from onnxopt.errors import OnnxoptError
from onnxopt.metrics.base import Metric, Outputs, Score, at_least_one


class Custom(Score):
    """The value of a user's function of all outputs and labels, which are kept in memory until it is called."""

    def __init__(self, name: str, function: Callable[..., float]) -> None:
        self._name, self._function = name, function
        self._outputs: list[list[Array]] = []
        self._labels: list[Array] = []
        self._each: Array | None = None

    def add(self, outputs: Outputs, reference: Outputs, batch: Batch) -> None:
        """See `Score`. Raises OnnxoptError where outputs differ in shape from batch to batch, as those of texts may."""
        self._outputs.append([np.atleast_1d(np.asarray(output)) for output in outputs])
        for first, last in zip(self._outputs[0], self._outputs[-1], strict=True):
            if first.shape[1:] != last.shape[1:]:
                raise OnnxoptError(f"{self._name}: takes an output of all samples as one array, and this one is "
                                   f"{list(first.shape)} in one batch and {list(last.shape)} in another; choose one of "
                                   "onnxopt's metrics")  # fmt: skip
        if batch.labels is not None:
            self._labels.append(batch.labels)

    def value(self) -> float:
        """What the function returns, or the mean of that if it is one number for each sample.

        Raises OnnxoptError where it is neither, or the function raises.
        """
        at_least_one(len(self._outputs))
        outputs = [np.concatenate(parts) for parts in zip(*self._outputs, strict=True)]
        labels = np.concatenate(self._labels) if self._labels else None
        with blamed(self._name):
            returned = np.asarray(self._function(outputs, labels), np.float64)
            self._each = returned if returned.ndim == 1 and len(returned) == max(map(len, outputs), default=0) else None
            value = float(returned if self._each is None else returned.mean())
        if np.isnan(value):
            raise OnnxoptError(f"{self._name}: returned NaN, expected a number, higher being better")
        return value

    def per_sample(self) -> Array | None:
        """See `Score`: what the function returned when `value` called it last, if that is one number for each."""
        return self._each


def of_function(name: str, function: Callable[..., float]) -> Metric:
    """The metric of a function ``(outputs, labels) -> float``, higher being better; it needs all samples at once."""
    return Metric(name, partial(Custom, name, function), higher_is_better=True)
