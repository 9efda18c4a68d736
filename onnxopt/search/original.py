"""The model as it came, on the parts of its data: what every file is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import onnxruntime

from onnxopt.data import Data, Spec, open_data, quiet_session, split, synthetic
from onnxopt.metrics import Metric
from onnxopt.search.evaluator import Evaluator

_HELD_BACK = 0.25
"""Share of the samples that is used for the search; the rest is for calibration."""
_CALIBRATION, _VALIDATION, _NOISE = 1024, 4096, 256
"""Samples that are enough: to calibrate on, to measure a metric on, to measure noise on."""
_SYNTHETIC = 320
"""Samples that are made where there is no data."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What data is for. The parts have no batch in common."""

    calibration: Data
    validation: Data
    """Measured while searching."""
    check: Data
    """Measured once, at the end."""


def open_parts(
    session: onnxruntime.InferenceSession,
    scale: dict[str, tuple[float, float]] | None,
    data: Spec | None,
    evaluation: Spec | None,
    has_metric: bool,
) -> Parts:
    """Opens the data, or makes synthetic inputs, and divides it.

    Arguments:
        scale: by input, factor and offset of synthetic noise (`input_scale`).
        evaluation: data of its own for the check; without it, what the search leaves over.
        has_metric: whether a metric is measured, which takes more samples than noise.

    Raises OnnxoptError where the data is none for this model, and what the runtime raises where it does not run.
    """
    whole = synthetic(session, scale, _SYNTHETIC) if data is None else open_data(data, session)
    calibration, held_back = split(whole, _HELD_BACK)
    enough = _VALIDATION if has_metric else _NOISE
    if evaluation is not None:
        validation, check = held_back, open_data(evaluation, session)
    elif has_metric:
        validation, check = split(held_back, 0.5)
    else:
        validation = check = held_back.take(enough)
    return Parts(calibration.take(_CALIBRATION), validation.take(enough), check)


@dataclass(frozen=True, eq=False)
class Original:
    """The original model. Sessions and outputs are large, so each is there only once it is needed."""

    path: Path
    parts: Parts
    metric: Metric | None

    @cached_property
    def session(self) -> onnxruntime.InferenceSession:
        """Runs it."""
        return quiet_session(str(self.path))

    @cached_property
    def validation(self) -> Evaluator:
        """Compares files while searching."""
        return Evaluator(self.session, self.parts.validation, self.metric)

    @cached_property
    def noise(self) -> Evaluator:
        """Compares outputs alone, on the same part."""
        return Evaluator(self.session, self.parts.validation) if self.metric else self.validation

    @cached_property
    def check(self) -> Evaluator:
        """Compares the finished file, once."""
        return Evaluator(self.session, self.parts.check, self.metric)

    def difference(self, model: Path, against: Path) -> float:
        """Noise over signal of a model's outputs on the validation part, against another's."""
        evaluator = Evaluator(quiet_session(str(against)), self.parts.validation)
        return evaluator.compare(quiet_session(str(model))).error
