"""Quick latencies of small models, to choose among hundreds of them, each in a fraction of a second.

They run in this process in turns, so that drift of the machine affects all of them; memory layout still changes them by
some percent. Measure the model that results from the choices by `time_ratio`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from statistics import median

import onnxruntime

from onnxopt import runtime
from onnxopt.data import Array
from onnxopt.measure.benchmark.worker import rest

_WARM_UP, _ROUNDS = 3, 6
_BLOCK = 4.0
"""Milliseconds of a block of runs, which has at least one run."""


def milliseconds(models: Sequence[bytes], feeds: Mapping[str, Array]) -> list[float]:
    """Milliseconds of a run of each model on the same inputs: medians over alternating blocks (AB BA AB BA).

    Raises what the runtime raises if a model does not run.
    """
    sessions = [runtime.load(model) for model in models]
    runs = [max(1, round(_BLOCK / _block(session, feeds, _WARM_UP))) for session in sessions]
    found: list[list[float]] = [[] for _ in sessions]
    for turn in range(_ROUNDS):
        for i in range(len(sessions)) if turn % 2 == 0 else reversed(range(len(sessions))):
            found[i].append(_block(sessions[i], feeds, runs[i]))
    return [median(blocks) for blocks in found]


def _block(session: onnxruntime.InferenceSession, feeds: Mapping[str, Array], runs: int) -> float:
    """Median milliseconds of `runs` runs, after one that finds another model's data in the caches."""
    times = []
    for _ in range(runs + 1):
        started = time.perf_counter()
        session.run(None, dict(feeds))
        times.append((time.perf_counter() - started) * 1e3)
    rest()
    return median(times[1:])
