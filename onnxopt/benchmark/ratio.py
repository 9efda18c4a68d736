"""Two models against each other, in speed alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from onnxopt.benchmark.latency import Advance, Paired, log_ratios, paired, take_turns
from onnxopt.benchmark.worker import Feeds, workers


def time_ratio(model: Path, against: Path, feeds: Sequence[Feeds], seconds: float, advance: Advance) -> Paired:
    """How much slower `model` is, in fresh processes that take turns; see `onnxopt.benchmark.latency`.

    Arguments:
        feeds: what both run on, in turns.
        seconds: that it takes at most, where the ratio stays uncertain before.
        advance: told of progress.

    Raises OnnxoptError where one does not load or run.
    """
    pair = [(model, feeds), (against, feeds)]
    times = take_turns(lambda process: workers(pair, None, process), seconds, advance)
    return paired(str(model), str(against), log_ratios(*times))
