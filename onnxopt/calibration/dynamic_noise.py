"""How much noise the inputs of matrix products make in a model's outputs if each run rounds them by their own range."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from onnxopt.calibration.chunks import Chunks, one_sample
from onnxopt.data import Batch, Data, chosen_session
from onnxopt.graph import Smoothing, expose, observe, smooth, smoothed, with_dynamic_rounding
from onnxopt.metrics.output_error import output_error

_SAMPLES = 64
"""Samples that noise is measured on."""


def measure(model: onnx.ModelProto, smoothings: Mapping[str, Smoothing], data: Data) -> float:
    """Noise over signal, in power, of the observed values when all of these values are rounded; 0 if nothing shows it.

    Arguments:
        smoothings: by value, what is done to it first.
    """
    observed, changed = observe(model), onnx.ModelProto()
    changed.CopyFrom(model)
    smooth(changed, smoothings)
    names = list(observed.values)
    exact = chosen_session(expose(model, names))
    content = expose(with_dynamic_rounding(changed, list(map(smoothed, smoothings))), names)
    del changed  # each holds all weights
    rounded = chosen_session(content)
    del content
    power, count = 0.0, 0
    for feeds in Chunks(data, int(one_sample(model, data).size == 1)).feeds(_SAMPLES):
        wanted, got = (session.run(names, feeds) for session in (exact, rounded))
        error = output_error(wanted, got, observed.axes)
        if error is not None:
            size = Batch(feeds).size
            power, count = power + error**2 * size, count + size
    return power / max(1, count)
