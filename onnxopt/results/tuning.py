"""How a training went."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TunedPass:
    """The file after some passes over the training samples."""

    epoch: int
    """Passes so far, of all trainings."""
    round: int
    """Of the slopes or strengths that were tried, from 1."""
    distance: float
    """From the original's outputs, on the training samples: root of the loss without the price of bits."""
    size: int
    """Bytes of the file."""
    error: float | None
    """Noise over signal of the outputs on the validation part; None if not measured."""
    drop: float | None
    """Drop of the metric on the validation part; None without a metric."""
