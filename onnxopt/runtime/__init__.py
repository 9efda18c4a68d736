"""Compressed models in ONNX Runtime: loading them, registering the library, inspecting files."""

from onnxopt.data import providers, providers_in_use
from onnxopt.runtime.session import RESIDENCE, check_custom_ops, load, load_checked, load_to_compare, register, sessions

__all__ = [
    "RESIDENCE",
    "check_custom_ops",
    "load",
    "load_checked",
    "load_to_compare",
    "providers",
    "providers_in_use",
    "register",
    "sessions",
]
