"""Compressed models in ONNX Runtime: loading, registering the library, looking inside a file."""

from onnxopt.runtime.session import load, load_checked, register

__all__ = ["load", "load_checked", "register"]
