"""How strongly noise on each element of a weight reaches the model's outputs: one backward pass, in ONNX Runtime."""

from onnxopt.graph.autodiff.gradient import Gradient

__all__ = ["Gradient"]
