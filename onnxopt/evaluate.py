"""Runs models side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime

from onnxopt.data import runnable_feeds
from onnxopt.stats import PROBES, output_error


@dataclass(frozen=True, slots=True)
class Difference:
    """Of the outputs of two models on the same random inputs."""

    identical: bool
    """Every output, bit for bit."""
    error: float
    """Noise over signal; see `onnxopt.stats.output_error`."""


def compare(
    original: onnxruntime.InferenceSession,
    compressed: onnxruntime.InferenceSession,
    scale: dict[str, tuple[float, float]] | None = None,
) -> Difference:
    """How the outputs of `compressed` differ from the original's.

    Raises CannotRun where no random input makes the original run.
    """
    names = [value.name for value in original.get_outputs()]
    identical, errors = True, []
    for feeds in runnable_feeds(original, PROBES, scale):
        wanted, got = original.run(names, feeds), compressed.run(names, feeds)
        identical &= all(map(_same, wanted, got))
        errors.append(output_error(wanted, got))
    return Difference(identical, float(np.sqrt(np.mean(np.square(errors)))))


def _same(a: Any, b: Any) -> bool:
    if not isinstance(a, np.ndarray) or a.dtype.kind not in "fiub":
        return bool(np.all(a == b))
    return bool(a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes())
