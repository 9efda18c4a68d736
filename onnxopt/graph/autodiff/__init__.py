"""Reverse-mode differentiation of ONNX graphs, run in ONNX Runtime."""

from onnxopt.graph.autodiff.gradient import Gradient

__all__ = ["Gradient"]
