"""Compressed models in ONNX Runtime: loading them, registering the library, inspecting files."""

from onnxopt.runtime.session import load, load_checked, register, sessions

__all__ = ["load", "load_checked", "register", "sessions"]
