"""Relative latency of models, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from onnxopt.measure.benchmark.latency import (
    PAIRED_WITHIN,
    Advance,
    Blocks,
    SpeedRatio,
    interval,
    log_ratios,
    paired,
    take_turns,
)
from onnxopt.measure.benchmark.worker import LOADED, Feeds, workers

_FAR = 4.0
"""Distance of a ratio from one, in half intervals, at which it is certain enough."""


def time_ratios(
    models: Sequence[Path], against: Path, feeds: Sequence[Feeds], seconds: float, advance: Advance
) -> list[SpeedRatio]:
    """Latency of each of `models` over that of `against`, in fresh processes that take turns; see `latency.py`.

    Arguments:
        feeds: for all models, in turns.
        seconds: most time, if a ratio stays uncertain.
        advance: told the share of the work that is done, 0 to 1.

    Raises OnnxoptError if a model does not load or run.
    """
    every = [(path, feeds, LOADED) for path in (*models, against)]
    *times, others = take_turns(lambda process: workers(every, None, process), seconds, advance, _decided)
    return [paired(str(path), str(against), log_ratios(one, others)) for path, one in zip(models, times, strict=True)]


def time_ratio(model: Path, against: Path, feeds: Sequence[Feeds], seconds: float, advance: Advance) -> SpeedRatio:
    """`time_ratios` of one model."""
    return time_ratios([model], against, feeds, seconds, advance)[0]


def _decided(times: Sequence[Sequence[Blocks]]) -> bool:
    """Whether each ratio to the last model is settled, or certainly far from one."""
    for model in times[:-1]:
        low, high = interval(log_ratios(model, times[-1]), 0.95)
        if (high - low) / 2 > max(PAIRED_WITHIN, abs(high + low) / 2 / _FAR):
            return False
    return True
