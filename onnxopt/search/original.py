"""The original model and the parts of its data: the reference for every comparison."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import onnxruntime

from onnxopt.data import Data, Hints, Spec, by_law, marked, open_data, split, synthetic
from onnxopt.data.inputs import inputs_of
from onnxopt.metrics import Metric
from onnxopt.metrics.observed import Observed
from onnxopt.pool import Pool, Threads
from onnxopt.search.evaluator import Evaluator
from onnxopt.search.worst_law import evaluator_of
from onnxopt.spec.effort import Effort

HELD_BACK = 0.25
"""Share of the samples that calibration does not see. They alone show the noise of new samples; a metric is measured
on all samples, with that noise."""
_CALIBRATION, VALIDATION, _NOISE = 1024, 4096, 256
"""Sufficient numbers of samples for calibration, for a metric, and for noise."""
_FAST_VALIDATION, _FAST_NOISE = 2048, 32
"""The last two where little time shall be spent."""
_SYNTHETIC = 320
"""Number of synthetic samples if there is no data."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of the data, by use."""

    calibration: Data
    validation: Data
    """Data for measurements during the search: for a metric all of it, else what is not in `calibration`."""
    check: Data
    """Data for the single measurement at the end; the same as `validation` unless the user gives some."""

    def first(self, samples: int, cut: bool) -> Parts:
        """The first so many of each, of the first law.

        Arguments:
            cut: see `Data.take`.
        """
        calibration, validation = (one.by_law[0].take(samples, cut) for one in (self.calibration, self.validation))
        return Parts(calibration, validation, validation)


def open_parts(
    session: onnxruntime.InferenceSession,
    hints: Hints,
    data: Spec | None,
    evaluation: Spec | None,
    has_metric: bool,
    effort: Effort = Effort.DEFAULT,
) -> Parts:
    """Opens the data, or generates synthetic inputs, and splits it.

    Arguments:
        hints: tell what synthetic inputs should be.
        evaluation: separate data for the check; by default, what the search uses.
        has_metric: whether a metric is measured, which needs more samples than noise.

    Raises OnnxoptError if the data does not fit the model, and the runtime's error if the model does not run.
    """
    whole = synthetic(session, hints, _SYNTHETIC) if data is None else open_data(data, session)
    calibration = by_law(whole, lambda law: split(law, HELD_BACK)[0].take(_CALIBRATION))
    fast = effort is Effort.FAST
    cut = fast and all(one.batch is None for one in inputs_of(session))
    labelled, noise = (_FAST_VALIDATION, _FAST_NOISE) if fast else (VALIDATION, _NOISE)
    if has_metric:
        validation = by_law(whole, lambda law: marked(law, HELD_BACK, _CALIBRATION).take(labelled, cut))
    else:
        validation = by_law(whole, lambda law: split(law, HELD_BACK)[1].take(noise, cut))
    return Parts(calibration, validation, validation if evaluation is None else open_data(evaluation, session))


@dataclass(frozen=True, eq=False)
class Original:
    """The original model. Sessions and outputs are large, so each is created on first use."""

    session: onnxruntime.InferenceSession
    """Of the original model."""
    parts: Parts
    metric: Metric | None
    observed: Observed
    """The values of the original at which differences are measured."""
    open_observing: Callable[[], onnxruntime.InferenceSession]
    """Opens a session that gives the hidden ones of them behind the outputs; called if there are any."""
    counted: bool = False
    """Whether drops are expected as they are counted; see `Evaluator`."""
    pool: Pool = field(default_factory=Threads)
    """Where it runs."""

    @cached_property
    def observing(self) -> onnxruntime.InferenceSession:
        """The session that gives the hidden observed values as well."""
        return self.open_observing() if self.observed.hidden else self.session

    @cached_property
    def validation(self) -> Evaluator:
        """Compares files during the search."""
        return evaluator_of(self.observing, self.parts.validation, self.metric, self.observed, self.counted, self.pool)

    @cached_property
    def noise(self) -> Evaluator:
        """Compares outputs only, without the metric, on the same part."""
        if self.metric is None:
            return self.validation
        return evaluator_of(self.observing, self.parts.validation, None, self.observed, pool=self.pool)

    @cached_property
    def check(self) -> Evaluator:
        """Compares the finished file, once."""
        if self.parts.check is self.parts.validation:
            return self.validation
        return evaluator_of(self.observing, self.parts.check, self.metric, self.observed, self.counted, self.pool)
