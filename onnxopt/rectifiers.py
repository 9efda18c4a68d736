"""PRelu as convolutions, where the whole model is faster so; weights and outputs stay what they are."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from onnxopt.benchmark import time_ratio
from onnxopt.calibration import one_sample
from onnxopt.engine import LARGEST_INLINE, Progress
from onnxopt.plan import Plan
from onnxopt.result import Rectifiers
from onnxopt.tuner import Tuner

_SECONDS = 60.0
"""That two models are compared for at most; some 20 do where nothing else runs on the machine."""


def hasten(tuner: Tuner, progress: Progress) -> Rectifiers | None:
    """From now on the tuner's plans have depthwise convolutions for PRelu, where that saves time; None without any.

    Raises OnnxoptError where the model with them does not run.
    """
    engine = tuner.engine
    values = engine.rectifiers
    if not values or tuner.calibration is None or engine.source.size > LARGEST_INLINE:
        return None
    sample = one_sample(engine.graph.model, tuner.calibration).feeds
    with tempfile.TemporaryDirectory() as folder:
        paths = Path(folder) / "convolutions.onnx", Path(folder) / "rectifiers.onnx"
        for path, chosen in zip(paths, (values, []), strict=True):
            engine.spread(chosen)
            path.write_bytes(engine.plain(Plan(engine.source.sha256)))
        found = time_ratio(*paths, [dict(sample)], _SECONDS, lambda share: progress(
            "running in turns, with convolutions for PRelu and without", 0.4 * share))  # fmt: skip
    time = replace(found, path="with convolutions for PRelu", against="without")
    kept = time.significant and time.ratio < 1
    engine.spread(values if kept else ())
    return Rectifiers(kept, len(values), time)
