"""How much a model's outputs differ from another's: noise over signal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def output_error(wanted: Sequence[Any], got: Sequence[Any]) -> float:
    """Noise over signal (root mean square) of a model's float outputs, the mean over outputs.

    For scores ``[n, classes]`` what shifts all classes alike changes no decision and does not count.
    """
    powers = []
    for a, b in zip(wanted, got, strict=True):
        if not isinstance(a, np.ndarray) or a.dtype.kind != "f" or not a.size:
            continue
        if a.shape != b.shape:
            return float("inf")
        signal = a.astype(np.float64)
        noise = b.astype(np.float64) - signal
        if a.ndim == 2 and a.shape[1] > 1:
            noise, signal = noise - noise.mean(1, keepdims=True), signal - signal.mean(1, keepdims=True)
        power = float(np.square(signal).sum())
        if power > 0 and np.isfinite(power):
            powers.append(float(np.square(noise).sum()) / power)
    return float(np.sqrt(np.mean(powers))) if powers else 0.0
