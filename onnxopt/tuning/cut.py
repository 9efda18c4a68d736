"""Makes trained integers cheaper where a file is still too large, at the least harm."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnxopt.tuning.rate import Rate
from onnxopt.tuning.weights import Weights

_ROUNDS = 20
"""Cuts, at most: the size of a file is not quite what codes foretell."""
_MORE = 1.05
"""Bits that a cut saves, over those that are too many: changed integers need other codes."""


def cut_to(size: int, weights: Weights, measured: Callable[[], int]) -> None:
    """Moves integers to cheaper neighbours until the file is small enough, or nothing helps.

    A weight's gradients say what the loss makes of it: their mean square stands for its second derivative (Fisher's
    information, as in optimal brain damage: LeCun, Denker & Solla 1990). Integers go first that save most bits for it.

    Arguments:
        size: of the file in bytes, at most.
        measured: gives the size of the file that the integers make as they are.
    """
    rate = Rate(weights.matrices)
    for _ in range(_ROUNDS):
        excess = measured() - size
        if excess <= 0:
            return
        rate.learn(weights.rounded)
        moves, saved = rate.cheaper(weights.rounded)
        order = np.argsort(weights.squares[: len(saved)] / np.maximum(saved, np.float32(1e-6)))
        order = order[saved[order] > 0]
        enough = int(np.searchsorted(np.cumsum(saved[order], dtype=np.float64), 8 * _MORE * excess)) + 1
        chosen = order[:enough]
        if not chosen.size:
            return
        weights.rounded[chosen] = np.rint(weights.rounded[chosen]) + moves[chosen]
        weights.settle()
