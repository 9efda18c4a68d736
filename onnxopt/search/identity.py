"""Whether two models have the same interface, and whether their outputs are equal bit for bit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnxruntime


def interface_fault(original: onnxruntime.InferenceSession, other: onnxruntime.InferenceSession) -> str:
    """How inputs or outputs of `other` differ from the original in name, type or order; empty if they do not."""
    pairs = {
        "inputs": (original.get_inputs(), other.get_inputs()),
        "outputs": (original.get_outputs(), other.get_outputs()),
    }
    for what, (wanted, found) in pairs.items():
        if _ports(wanted) != _ports(found):
            return f"its {what} are {_named(found)}, expected {_named(wanted)}"
    return ""


def first_difference(names: Sequence[str], wanted: Sequence[Any], got: Sequence[Any]) -> str:
    """Name of the first output that is not equal bit for bit; empty if there is none."""
    return next((name for name, a, b in zip(names, wanted, got, strict=True) if not same(a, b)), "")


def same(a: Any, b: Any) -> bool:
    """Whether two values that a session returned are equal bit for bit.

    Sequences and maps are compared element by element, strings by their text.
    """
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        return bool(a.tolist() == b.tolist() if a.dtype.hasobject else a.tobytes() == b.tobytes())
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(value, b[key]) for key, value in a.items())
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return np.float64(a).tobytes() == np.float64(b).tobytes()  # NaN, and the sign of zero
    return type(a) is type(b) and bool(a == b)


def _ports(values: Iterable[Any]) -> list[tuple[str, str]]:
    return [(value.name, value.type) for value in values]


def _named(values: Iterable[Any]) -> str:
    return ", ".join(f"{name!r} {kind}" for name, kind in _ports(values)) or "none"
