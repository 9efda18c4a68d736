"""How strongly noise on each channel of a value reaches the model's outputs: one backward pass, in ONNX Runtime."""

from onnxopt.graph.gradient.gradient import Gradient

__all__ = ["Gradient"]
