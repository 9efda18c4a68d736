"""What is known of a site before anything is decided; without data, from random inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from onnxopt.data import input_scale, quiet_session, runnable_feeds
from onnxopt.leaf import Array

PROBES = 4
"""Random inputs on which noise is measured."""


@dataclass(frozen=True, slots=True)
class Stats:
    """Statistics of one site."""

    gain: float = 1.0
    """Relative power of the outputs' noise for weight noise of relative power 1."""


def output_error(wanted: Sequence[Any], got: Sequence[Any]) -> float:
    """Noise over signal (root mean square) of a model's float outputs, the mean over outputs.

    For scores ``[n, classes]`` what shifts all classes alike changes no decision and does not count.
    """
    powers = []
    for a, b in zip(wanted, got, strict=True):
        if not isinstance(a, np.ndarray) or a.dtype.kind != "f" or not a.size:
            continue
        if a.shape != b.shape:
            return float("inf")
        signal = a.astype(np.float64)
        noise = b.astype(np.float64) - signal
        if a.ndim == 2 and a.shape[1] > 1:
            noise, signal = noise - noise.mean(1, keepdims=True), signal - signal.mean(1, keepdims=True)
        power = float(np.square(signal).sum())
        if power > 0 and np.isfinite(power):
            powers.append(float(np.square(noise).sum()) / power)
    return float(np.sqrt(np.mean(powers))) if powers else 0.0


class Probe:
    """Runs a model on random inputs with other weights in place of its own, in one session.

    Raises CannotRun, or what the runtime raises, where the model does not run.
    """

    def __init__(self, model: onnx.ModelProto, paths: Iterable[str]) -> None:
        open_model = onnx.ModelProto()
        open_model.CopyFrom(model)
        tensors = {t.name: t for t in model.graph.initializer}
        for path in paths:  # an initializer that is also an input may be fed
            t = tensors[path]
            open_model.graph.input.append(onnx.helper.make_tensor_value_info(path, t.data_type, list(t.dims)))
        plain = quiet_session(model.SerializeToString())
        self._feeds = runnable_feeds(plain, PROBES, input_scale(model))
        self._session = quiet_session(open_model.SerializeToString())
        self._wanted = [self._session.run(None, feed) for feed in self._feeds]

    def error(self, weights: Mapping[str, Array]) -> float:
        """Error of the outputs with these weights, root mean square over the random inputs."""
        errors = []
        for feed, wanted in zip(self._feeds, self._wanted, strict=True):
            errors.append(output_error(wanted, self._session.run(None, {**feed, **weights})))
        return float(np.sqrt(np.mean(np.square(errors))))


def fill_in(measured: Mapping[str, float], paths: Iterable[str]) -> dict[str, Stats]:
    """Statistics for every path from the gains that were measured; the largest of them where none was.

    A gain of zero proves nothing but that the random inputs did not reach the weight (an untaken branch, say), so it
    counts as none; and no gain is taken for less than a hundredth of the median.
    """
    known = {path: gain for path, gain in measured.items() if 0 < gain < np.inf}
    gains = list(known.values()) or [1.0]
    least, most = float(np.median(gains)) / 100, max(gains)
    return {path: Stats(max(known.get(path, most), least)) for path in paths}
