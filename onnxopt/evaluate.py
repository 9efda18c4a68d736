"""Runs models side by side on random inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from onnxopt.leaf import relative_error

Array = npt.NDArray[Any]

_TYPES = {
    "float": "float32", "float16": "float16", "double": "float64", "int8": "int8", "uint8": "uint8", "int16": "int16",
    "uint16": "uint16", "int32": "int32", "uint32": "uint32", "int64": "int64", "uint64": "uint64", "bool": "bool",
}  # fmt: skip
_GUESSES = (1, 32, 224, 640)
"""What an unknown dimension may be, tried in this order until the model runs."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Of one output of two models."""

    identical: bool
    """Bit for bit."""
    error: float
    """Root mean square of the difference over root mean square of the original's."""


class NotComparable(Exception):
    """The model could not be run on random inputs; the text says why."""


def random_feeds(session: onnxruntime.InferenceSession, size: int, seed: int = 0) -> dict[str, Array]:
    """Normal noise for float inputs, zeros and ones for the rest; unknown dimensions: first 1, others `size`."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for value in session.get_inputs():
        kind = value.type.removeprefix("tensor(").removesuffix(")")
        if kind not in _TYPES:
            raise NotComparable(f"input {value.name!r} is a {value.type}")
        dims = [d if isinstance(d, int) and d > 0 else 1 if i == 0 else size for i, d in enumerate(value.shape)]
        dtype = np.dtype(_TYPES[kind])
        if dtype.kind == "f":
            feeds[value.name] = rng.standard_normal(dims).astype(dtype)
        else:
            feeds[value.name] = rng.integers(0, 2, dims).astype(dtype)
    return feeds


def compare(
    original: onnxruntime.InferenceSession, compressed: onnxruntime.InferenceSession
) -> dict[str, Difference]:
    """How each numeric output of `compressed` differs from the original's on the same random input.

    Raises NotComparable where no random input makes the original run.
    """
    reason = ""
    for size in _GUESSES:
        feeds = random_feeds(original, size)
        try:
            wanted = original.run(None, feeds)
        except Exception as error:  # the runtime raises classes of its own, and what it raises is what we report
            reason = reason or str(error).splitlines()[0]
            continue
        got = compressed.run(None, feeds)
        names = [value.name for value in original.get_outputs()]
        return {n: _difference(a, b) for n, a, b in zip(names, wanted, got, strict=True) if _is_numeric(a)}
    raise NotComparable(reason)


def _is_numeric(value: object) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "fiub"


def _difference(wanted: Array, got: Array) -> Difference:
    if wanted.shape != got.shape or wanted.dtype != got.dtype:
        return Difference(identical=False, error=float("inf"))
    same = wanted.tobytes() == got.tobytes()
    return Difference(same, 0.0 if same else relative_error(wanted, got))
