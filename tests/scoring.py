"""What tests of `evaluate` share: a classification is what scikit-learn finds."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    precision_recall_fscore_support,
    top_k_accuracy_score,
)

from onnxopt.data import Array
from onnxopt.measure.evaluation import Classification


def check_against_sklearn(found: Classification, scores: Array, labels: Array) -> None:
    predicted, classes = scores.argmax(1), np.arange(scores.shape[1])
    assert (found.samples, found.classes) == scores.shape
    assert found.top1.value == pytest.approx(accuracy_score(labels, predicted))
    if found.classes > 5:
        assert found.top5 == pytest.approx(top_k_accuracy_score(labels, scores, k=5, labels=classes))
    else:
        assert found.top5 is None
    macro = precision_recall_fscore_support(labels, predicted, average="macro", zero_division=0)[:3]
    assert (found.precision, found.recall, found.f1) == pytest.approx(macro)
    occurring = np.union1d(labels, predicted)
    each = zip(*precision_recall_fscore_support(labels, predicted, labels=occurring, zero_division=0), strict=True)
    assert [c.index for c in found.by_class] == occurring.tolist()
    for c, wanted in zip(found.by_class, each, strict=True):
        assert (c.precision, c.recall, c.f1, c.samples) == pytest.approx(wanted)
        assert c.predicted == (predicted == c.index).sum()
    matrix = np.zeros((len(classes), len(classes)), int)
    for label, answer, count in found.confusion:
        assert count > 0
        matrix[label, answer] = count
    np.testing.assert_array_equal(matrix, confusion_matrix(labels, predicted, labels=classes))
    assert found.unanswered == 0
