"""Fine-tuning without labels: trains the integers of a plan until the model's outputs are those of the original."""

from onnxopt.tuning.stage import tuned

__all__ = ["tuned"]
