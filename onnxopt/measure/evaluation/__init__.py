"""Models on the same data: the accuracy of each, and whether differences are significant."""

from onnxopt.measure.evaluation.classification import NO_ANSWER, Classification, ClassScores
from onnxopt.measure.evaluation.intervals import Estimate, McNemar
from onnxopt.measure.evaluation.run import Deviation, Evaluated, Evaluation, evaluate

__all__ = [
    "NO_ANSWER",
    "ClassScores",
    "Classification",
    "Deviation",
    "Estimate",
    "Evaluated",
    "Evaluation",
    "McNemar",
    "evaluate",
]
