"""How much noise each activation, rounded to integers, makes in a model's outputs: measured by fake quantization."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from onnxopt.calibration.chunks import Chunks, one_sample
from onnxopt.calibration.range_estimators import Histogram, candidates
from onnxopt.data import Array, Batch, Data, chosen_session
from onnxopt.graph import Gradient, QuantParams, expose, observe, settings, with_fake_quant, with_zeros_added
from onnxopt.metrics.output_error import output_error

Advance = Callable[[float], None]

_PIECE = 2**27
"""Bytes of activations in memory at a time."""
_SAMPLES, _ELEMENTS = 256, 2**30
"""Most samples and elements that ranges are estimated from."""
_NOISE_SAMPLES, _BATCH = 64, 8
"""Samples that noise is measured on, at most and in one run."""
_WORK = 10**10
"""Elements that measuring noise rounds or copies, in all: about a minute."""


@dataclass(frozen=True, slots=True)
class Rounded:
    """One activation and the grid that makes the least noise."""

    pair: QuantParams
    method: str
    """The range estimator that chose the grid."""
    noise: float
    """Noise over signal, in power, in the model's outputs when only this activation is rounded."""
    elements: int
    """Of one sample."""


def histograms(model: onnx.ModelProto, values: Sequence[str], data: Data) -> dict[str, tuple[Histogram, int]]:
    """For each float value of the main graph, a histogram over the data and its number of elements in one sample.

    The data is streamed.
    """
    run = _runner(model, values)
    sample = one_sample(model, data)
    first = run(sample.feeds)
    size = sum(array.nbytes for array in first.values()) // sample.size
    most = max(1, _PIECE // max(1, size)) if sample.size == 1 else 0
    samples = max(1, min(_SAMPLES, 4 * _ELEMENTS // max(1, size)))
    seen = {name: (Histogram(), array.size // sample.size) for name, array in first.items()}
    for feeds in Chunks(data, most).feeds(samples):
        for name, array in run(feeds).items():
            seen[name][0].add(array)
    return seen


def _runner(model: onnx.ModelProto, values: Sequence[str]) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
    """A function from feeds to those of the values, model inputs included, that are float32."""
    inputs = {value.name for value in model.graph.input}
    names = [name for name in values if name not in inputs]
    session = chosen_session(expose(model, names)) if names else None

    def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
        made = session.run(names, dict(feeds)) if session else []
        every = {**feeds, **dict(zip(names, made, strict=True))}
        return {name: array for name in values if (array := np.asarray(every[name])).dtype == np.float32}

    return run


class FakeQuantProbe:
    """Measures the noise that fake quantization of some values makes in a model's outputs.

    Raises what the runtime raises if the model does not run.
    """

    def __init__(self, model: onnx.ModelProto, values: Sequence[str], data: Data, samples: int) -> None:
        self._values = list(values)
        self._observed = observe(model)
        self._session = chosen_session(expose(with_fake_quant(model, self._values), self._observed.values))
        self._names = list(self._observed.values)
        off = settings(self._values, {})
        cuttable = one_sample(model, data).size == 1
        self._chunks: list[tuple[dict[str, Array], list[Array], int]] = []
        for feeds in Chunks(data, min(_BATCH, samples) if cuttable else 0).feeds(samples):
            self._chunks.append((feeds, self._session.run(self._names, {**feeds, **off}), Batch(feeds).size))

    def noise(self, pairs: Mapping[str, QuantParams]) -> float:
        """Noise over signal, in power, of the observed values when these values are rounded; 0 if nothing shows it."""
        parameters = settings(self._values, pairs)
        powers, total = 0.0, 0
        for feeds, wanted, size in self._chunks:
            got = self._session.run(self._names, {**feeds, **parameters})
            error = output_error(wanted, got, self._observed.axes)
            if error is not None:
                powers += error**2 * size
                total += size
        return powers / max(1, total)


def measure(
    model: onnx.ModelProto, values: Sequence[str], data: Data, kind: str, advance: Advance
) -> tuple[dict[str, Rounded], float]:
    """The best grid of every value by itself, and the noise of all of them together over the sum of their noises.

    Arguments:
        values: of the main graph; values that are not float32 are left out.
        kind: type of the integers, as numpy names it.
        advance: told the share of the work that is done, 0 to 1.
    """
    seen = histograms(model, values, data)
    grids = {name: _grids(histogram, kind) for name, (histogram, _) in seen.items()}
    noise = _from_gradients(model, grids, data, advance)
    rest = {name: grids[name] for name in grids if name not in noise}
    noise |= _from_fake_quant(model, rest, data, sum(elements for _, elements in seen.values()), advance)
    best = {}
    for name, grid in grids.items():
        method = min(noise[name], key=lambda one: noise[name][one])
        best[name] = Rounded(grid[method], method, noise[name][method], seen[name][1])
    apart = sum(one.noise for one in best.values())
    probe = FakeQuantProbe(model, list(best), data, _NOISE_SAMPLES)
    together = probe.noise({name: one.pair for name, one in best.items()})
    return best, together / apart if apart else 1.0


def _grids(histogram: Histogram, kind: str) -> dict[str, QuantParams]:
    """The distinct grids, each by the first range estimator that chose it."""
    levels = int(np.iinfo(kind).max) - int(np.iinfo(kind).min) + 1
    ranges = candidates(histogram, levels, symmetric=kind.startswith("i") and histogram.low < 0)
    grids: dict[str, QuantParams] = {}
    for method, one in ranges.items():
        pair = QuantParams.over(one.low, one.high, kind)
        if pair not in grids.values():
            grids[method] = pair
    return grids


def _from_gradients(
    model: onnx.ModelProto, grids: Mapping[str, Mapping[str, QuantParams]], data: Data, advance: Advance
) -> dict[str, dict[str, float]]:
    """Noise by value and method, to first order, by projecting the rounding errors on gradients of the outputs.

    If g is the gradient of a random projection of the outputs, an error e of the value makes noise of power
    ``E (g . e)^2`` in them (see `Gradient`), so two runs for each sample measure all values and grids. Values that no
    gradient reaches are left out.
    """
    sample = one_sample(model, data)
    run = _runner(model, list(grids))
    first = run(sample.feeds)
    probe, zeros = with_zeros_added(model, {name: array.shape for name, array in first.items()})
    gradient = Gradient(probe, list(zeros.values()))
    work = sum(array.size * (2 + len(grids[name])) for name, array in first.items())
    samples = max(8, min(_NOISE_SAMPLES, _WORK // max(1, work)))
    powers = {name: dict.fromkeys(grids[name], 0.0) for name in grids}
    reached, signal = set[str](), 0.0
    chunks = Chunks(data, 1 if sample.size == 1 else 0)
    for seed, feeds in enumerate(chunks.feeds(samples * sample.size)):
        if any(array.shape != sample.feeds[name].shape for name, array in feeds.items()):
            continue  # such as the last batch: the zeros have one shape
        gradients, power = gradient.weights(feeds, seed)
        signal += power
        for name, x in run(feeds).items():
            if (g := gradients.get(zeros[name])) is not None:
                reached.add(name)
                for method, pair in grids[name].items():
                    powers[name][method] += float(np.vdot(g, pair.error(x))) ** 2
        advance(min(1.0, (seed + 1) / samples))
    usable = [
        name for name in powers if signal > 0 and name in reached and np.isfinite(list(powers[name].values())).all()
    ]
    return {name: {method: power / signal for method, power in powers[name].items()} for name in usable}


def _from_fake_quant(
    model: onnx.ModelProto, grids: Mapping[str, Mapping[str, QuantParams]], data: Data, elements: int, advance: Advance
) -> dict[str, dict[str, float]]:
    """Noise by value and method, measured by fake quantization of one value at a time."""
    tries = sum(map(len, grids.values()))
    if not tries:
        return {}
    samples = int(min(_NOISE_SAMPLES, max(1, _WORK // max(1, tries * elements))))
    probe = FakeQuantProbe(model, list(grids), data, samples)
    noise: dict[str, dict[str, float]] = {}
    done = itertools.count(1)
    for name, pairs in grids.items():
        noise[name] = {}
        for method, pair in pairs.items():
            noise[name][method] = probe.noise({name: pair})
            advance(next(done) / tries)
    return noise
