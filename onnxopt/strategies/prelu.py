"""PRelu as convolutions, where the whole model is faster so; weights and outputs stay what they are."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from onnxopt.build.workspace import LARGEST_INLINE, Workspace
from onnxopt.calibration.chunks import one_sample
from onnxopt.data import Array
from onnxopt.errors import OnnxoptError
from onnxopt.graph import step_of_value
from onnxopt.measure.benchmark import SpeedRatio, time_ratio
from onnxopt.results.result import Rectifiers
from onnxopt.search.contract_search import ContractSearch
from onnxopt.spec.plan import Plan
from onnxopt.spec.progress import Progress

_SECONDS = 60.0
"""That two models are compared for at most; some 20 do where nothing else runs on the machine."""


def hasten(tuner: ContractSearch, progress: Progress) -> Rectifiers | None:
    """From now on the tuner's plans have depthwise convolutions for PRelu, where that saves time; None without any."""
    engine = tuner.engine
    values = engine.graph.prelus
    if not values or tuner.calibration is None or engine.source.size > LARGEST_INLINE:
        return None
    try:
        time = _compared(engine, values, one_sample(engine.graph.model, tuner.calibration).feeds, progress)
    except OnnxoptError as error:
        return Rectifiers(False, len(values), str(error), None)
    if not (time.significant and time.ratio < 1):
        reason = f"the model takes {time.ratio:.3f}x the time with convolutions ({time.low:.3f} to {time.high:.3f})"
        return Rectifiers(False, len(values), reason, time)
    engine.prelu_as_convs(values)
    return Rectifiers(True, len(values), "", time)


def _compared(engine: Workspace, values: Sequence[str], sample: Mapping[str, Array], progress: Progress) -> SpeedRatio:
    """The time of the whole model with convolutions against without."""

    def advance(share: float) -> None:
        progress("running in turns, with convolutions for PRelu and without", 0.4 * share)

    with tempfile.TemporaryDirectory() as folder:
        paths = Path(folder) / "convolutions.onnx", Path(folder) / "rectifiers.onnx"
        for path, chosen in zip(paths, (values, ()), strict=True):
            path.write_bytes(
                engine.to_plain_model(Plan(engine.source.sha256, dict.fromkeys(chosen, step_of_value(depthwise=True))))
            )
        found = time_ratio(*paths, [dict(sample)], _SECONDS, advance)
    return replace(found, path="with convolutions for PRelu", against="without")
