"""Measures models at the observed values, which need not be outputs: what labels and selected rows were decided on."""

from __future__ import annotations

from math import inf
from pathlib import Path

import onnx
import onnxruntime

from onnxopt.build.running import Running
from onnxopt.data import Data, chosen_session
from onnxopt.graph import LARGEST_INLINE, Source, expose, inline, observe, read
from onnxopt.metrics.observed import Observed
from onnxopt.pool import Pool
from onnxopt.search.evaluator import Comparison, Evaluator
from onnxopt.search.worst_law import evaluator_of


def observed_in(source: Source) -> Observed:
    """The values of a source at which differences are measured. Of a model over 2 GB these are outputs alone."""
    found = observe(_inlined(source))
    return found if source.size <= LARGEST_INLINE else found.visible


def observing_session(source: Source, observed: Observed) -> onnxruntime.InferenceSession:
    """A session of the source that gives its hidden observed values behind the outputs."""
    return _observing(_inlined(source), observed)


def compare_observed(
    evaluator: Evaluator, model: onnx.ModelProto, source: Path, pool: Pool | None = None
) -> Comparison:
    """Compares a whole model, below 2 GB, with the original of the `evaluator`, hidden values included.

    Where rewriting has left another number of values to observe than the original has, or the model runs only while
    they are hidden, only outputs are compared. Raises Unsound if the model does not run on inputs on which the source,
    at this path, runs.
    """
    observed = observe(model)
    if observed.hidden and len(observed.hidden) == evaluator.hidden:
        try:
            return evaluator.compare(Running(source, _observing(model, observed)), observed.hidden, pool)
        except MemoryError:
            raise
        except Exception:  # the runtime's own types: it fuses other nodes where values are outputs, and may fail
            pass
    return evaluator.compare(Running(source, _observing(model, observed.visible)), pool=pool)


def difference(model: Path, against: Path, data: Data) -> float:
    """Noise over signal of a plain model's observed values relative to those of another; infinite if they show none."""
    models = read(against).model, read(model).model
    observed = [observe(one) for one in models]
    first, second = (_observing(*pair) for pair in zip(models, observed, strict=True))
    error = evaluator_of(first, data, None, observed[0]).compare(second, observed[1].hidden).error
    return inf if error is None else error


def _observing(model: onnx.ModelProto, observed: Observed) -> onnxruntime.InferenceSession:
    return chosen_session(expose(model, [*(value.name for value in model.graph.output), *observed.hidden]))


def _inlined(source: Source) -> onnx.ModelProto:
    """The model of a source without functions, as the compressed one is."""
    if not source.model.functions:
        return source.model
    model = onnx.ModelProto()
    model.CopyFrom(source.model)
    inline(model)
    return model
