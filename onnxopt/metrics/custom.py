"""A metric that is a function of the user's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from onnxopt.data import Array, blamed
from onnxopt.errors import OnnxoptError
from onnxopt.metrics.base import Metric, Outputs, Score, at_least_one


class Custom(Score):
    """The value of a user's function of all outputs and labels, which are kept in memory until it is called."""

    def __init__(self, name: str, function: Callable[..., float]) -> None:
        self._name, self._function = name, function
        self._outputs: list[list[Array]] = []
        self._labels: list[Array] = []

    def add(self, outputs: Outputs, reference: Outputs, labels: Array | None) -> None:
        """See `Score`."""
        self._outputs.append([np.atleast_1d(np.asarray(output)) for output in outputs])
        if labels is not None:
            self._labels.append(labels)

    def value(self) -> float:
        """What the function returns. Raises OnnxoptError where that is not a number, or the function raises."""
        at_least_one(len(self._outputs))
        outputs = [np.concatenate(parts) for parts in zip(*self._outputs, strict=True)]
        labels = np.concatenate(self._labels) if self._labels else None
        with blamed(self._name):
            value = float(self._function(outputs, labels))
        if np.isnan(value):
            raise OnnxoptError(f"{self._name}: returned NaN, expected a number, higher being better")
        return value


def of_function(name: str, function: Callable[..., float]) -> Metric:
    """The metric of a function ``(outputs, labels) -> float``, higher being better; it needs all samples at once."""
    return Metric(name, partial(Custom, name, function), higher_is_better=True, in_folds=False)
