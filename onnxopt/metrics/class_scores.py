"""Finds the class scores among a model's outputs, and reads them."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxopt.data import Array
from onnxopt.errors import OnnxoptError
from onnxopt.metrics.base import Outputs


def is_float(output: Any) -> bool:
    """Whether an output is an array of floats."""
    return isinstance(output, np.ndarray) and output.dtype.kind == "f"


def rows(output: Any) -> Array:
    """An output of scores as ``[n, classes]``, without dimensions of 1."""
    return np.asarray(output).reshape(len(output), -1)


def ranks(scores: Array, wanted: Array) -> Array:
    """How many classes come before the wanted one, ``[n]``; all of them where a score is NaN.

    Arguments:
        scores: ``[n, classes]``; among equal scores the first class comes first, as with argmax.
        wanted: ``[n]``, one class for each sample.
    """
    own = np.take_along_axis(scores, wanted[:, None], 1)
    ahead = (scores > own) | ((scores == own) & (np.arange(scores.shape[1]) < wanted[:, None]))
    return np.asarray(np.where(np.isnan(scores).any(1), scores.shape[1], ahead.sum(1)))


def find_scores(outputs: Outputs) -> int | None:
    """Index of the scores: the first float output ``[n, classes]``, dimensions of 1 aside, else the first of integers.

    None where there is none.
    """

    def is_scores(output: Any) -> bool:
        if not isinstance(output, np.ndarray) or output.ndim not in (2, 4) or output.dtype.kind not in "fiu":
            return False
        return bool(max(output.shape[1:]) == np.prod(output.shape[1:]) > 1)

    found = [i for i, output in enumerate(outputs) if is_scores(output)]
    return next((i for i in found if is_float(outputs[i])), next(iter(found), None))


def require_scores(outputs: Outputs, metric: str) -> int:
    """Index of the scores. Raises OnnxoptError, which names the `metric`, where there are none."""
    found = find_scores(outputs)
    if found is None:
        raise OnnxoptError(f"{metric}: needs an output of scores [samples, classes], the model has {shapes(outputs)}; "
                           "--metric mse or mypackage.mydata:score takes any")  # fmt: skip
    return found


def shapes(outputs: Outputs) -> str:
    """Types and shapes of the outputs, for error messages."""
    return " and ".join(
        f"{o.dtype} {list(o.shape)}" if isinstance(o, np.ndarray) else type(o).__name__ for o in outputs
    )


def class_labels(labels: Array, shape: tuple[int, ...], metric: str) -> Array:
    """The labels as class numbers ``[n]`` for scores of this shape ``[n, classes]``.

    Raises OnnxoptError, which names the `metric`, where they are not class numbers.
    """
    samples, classes = shape
    if labels.dtype.kind not in "iu" or labels.size != samples or len(labels) != samples:
        raise OnnxoptError(f"{metric}: the labels are {labels.dtype} {list(labels.shape)}, expected whole numbers, one "
                           f"for each of {samples} samples")  # fmt: skip
    if labels.min() < 0 or labels.max() >= classes:
        wrong = labels.min() if labels.min() < 0 else labels.max()
        raise OnnxoptError(f"{metric}: there is a label {wrong}, and the model's {classes} classes are 0 to "
                           f"{classes - 1}; number the labels as its outputs")  # fmt: skip
    return labels.reshape(-1).astype(np.intp)
