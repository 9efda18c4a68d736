"""Models against another one, in speed alone."""

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
from onnxopt.measure.benchmark.worker import Feeds, workers

_FAR = 4.0
"""Times half its interval that a ratio may be away from one: how far is then of no interest."""


def time_ratios(
    models: Sequence[Path], against: Path, feeds: Sequence[Feeds], seconds: float, advance: Advance
) -> list[SpeedRatio]:
    """How much slower each of `models` is, in fresh processes that take turns; see `onnxopt.measure.benchmark.latency`.

    Arguments:
        feeds: what all run on, in turns.
        seconds: that it takes at most, where a ratio stays uncertain before.
        advance: told of progress.

    Raises OnnxoptError where one does not load or run.
    """
    every = [(path, feeds) for path in (*models, against)]
    *times, others = take_turns(lambda process: workers(every, None, process), seconds, advance, _decided)
    return [paired(str(path), str(against), log_ratios(one, others)) for path, one in zip(models, times, strict=True)]


def time_ratio(model: Path, against: Path, feeds: Sequence[Feeds], seconds: float, advance: Advance) -> SpeedRatio:
    """The same of a single one."""
    return time_ratios([model], against, feeds, seconds, advance)[0]


def _decided(times: Sequence[Sequence[Blocks]]) -> bool:
    """Whether each ratio to the last model is known, or surely far from one."""
    for model in times[:-1]:
        low, high = interval(log_ratios(model, times[-1]), 0.95)
        if (high - low) / 2 > max(PAIRED_WITHIN, abs(high + low) / 2 / _FAR):
            return False
    return True
