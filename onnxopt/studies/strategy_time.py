"""What `--for` and `--activations` take besides the search, roughly: races of whole models, and a search after each."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from onnxopt.build.workspace import Workspace
from onnxopt.calibration.chunks import one_sample
from onnxopt.measure.benchmark import time_ratio
from onnxopt.measure.benchmark.latency import PROCESSES
from onnxopt.measure.clock import RACE_SECONDS
from onnxopt.search.original import Original
from onnxopt.spec.goal import Goal
from onnxopt.strategies import strategies_for
from onnxopt.strategies.int8 import is_spread

_FORMS = 2
"""Forms of the model that run against it in a race, as a rule."""
_SHORT = 1e-3
"""Seconds of the race that is run here: it ends after two turns."""


def strategy_time(work: Workspace, original: Original, search: float, moments: float) -> float:
    """Seconds, taken from two turns of a race of the model against itself.

    Every strategy counts as one race, which it may save if it finds nothing to propose, or need twice. INT8 alone
    counts where the time is spread over many layers, as it then leaves the others nothing.

    Arguments:
        original: with all of the data.
        search: seconds of the search without strategies, which each accepted race is followed by.
        moments: seconds of running the model on the data, which the noise of rounding takes again.
    """
    request = work.request
    rounding = moments if request.int8 else 0.0
    if request.activations is not None:
        return rounding + search
    count = len(strategies_for(request, exact=False))
    if request.wanted is Goal.SIZE:  # nothing is timed
        return count * (moments + search)
    sample = one_sample(work.graph.model, original.parts.calibration).feeds
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        work.write_plain(file)
        began = time.monotonic()
        time_ratio(file, file, [sample], _SHORT, lambda _: None)
        turn = (time.monotonic() - began) / 2
        if request.wanted is Goal.SPEED and is_spread(list(request.clock.profile(file.read_bytes(), sample).values())):
            count = 1
    return rounding + count * (min(RACE_SECONDS, PROCESSES * turn * (1 + _FORMS) / 2) + search)
