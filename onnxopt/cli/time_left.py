"""How long a command still takes, from the share of its steps that is done."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Times = Sequence[tuple[float, float]]
"""Shares of the steps, ascending from 0 to 1, and the shares of the time that they take."""

EVEN: Times = ((0.0, 0.0), (1.0, 1.0))
"""Every step takes its share."""
SEARCH: Times = (
    (0.0, 0.10), (0.01, 0.32), (0.2, 0.51), (0.4, 0.53), (0.5, 0.58), (0.58, 0.64), (0.644, 0.71), (0.695, 0.78),
    (0.736, 0.84), (0.769, 0.88), (0.9, 0.90), (0.95, 0.96), (1.0, 1.0),
)  # fmt: skip
"""Of `optimize`, measured on models of speech, images and text in images: moments and gains up to 0.4, then tries, each
with a fifth of the rest up to 0.9, then the file and its check."""
UNKNOWN = "-:--"
_EARLIEST = 2.0
"""Seconds before which nothing is known."""


def passed(share: float, times: Times) -> float:
    """The share of the time that has passed."""
    return float(np.interp(share, *zip(*times, strict=True)))


def left(seconds: float, share: float, times: Times) -> str:
    """The time left after so many seconds, in minutes and seconds; unknown before the first weight is measured."""
    done = passed(share, times)
    if seconds < _EARLIEST or done < max(passed(0.01, times), 0.02):
        return UNKNOWN
    rest = round(seconds * (1 - done) / done)
    return f"{rest // 60}:{rest % 60:02}"
