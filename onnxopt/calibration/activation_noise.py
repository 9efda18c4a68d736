"""What rounding the values of a model to integers does to its outputs: measured, value by value."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from onnxopt.calibration.collect import Chunks, one_sample
from onnxopt.calibration.range_estimators import Histogram, candidates
from onnxopt.data import Array, Batch, Data, quiet_session
from onnxopt.graph import Gradient, QuantParams, expose, settings, with_fake_quant, with_zeros_added
from onnxopt.metrics.output_error import output_error

Advance = Callable[[float], None]

_PIECE = 2**27
"""Bytes of values in memory at a time."""
_SAMPLES, _ELEMENTS = 256, 2**30
"""That ranges are taken from, at most."""
_LISTEN, _BATCH = 64, 8
"""Samples that noise is measured on at most, and in one run."""
_WORK = 10**10
"""Elements that are rounded or passed on for that in all: about a minute's."""


@dataclass(frozen=True, slots=True)
class Rounded:
    """One value, on the grid that makes the least noise."""

    pair: QuantParams
    method: str
    """That chose the range."""
    noise: float
    """Power over signal in the model's outputs, when this value alone is rounded."""
    elements: int
    """Of one sample."""


def histograms(model: onnx.ModelProto, values: Sequence[str], data: Data) -> dict[str, tuple[Histogram, int]]:
    """Of values of the main graph, and the elements that one has of a sample; streamed.

    Values that are no floats are left out.
    """
    run = _runner(model, values)
    sample = one_sample(model, data)
    first = run(sample.feeds)
    size = sum(array.nbytes for array in first.values()) // sample.size
    most = max(1, _PIECE // max(1, size)) if sample.size == 1 else 0
    samples = max(1, min(_SAMPLES, 4 * _ELEMENTS // max(1, size)))
    found = {name: (Histogram(), array.size // sample.size) for name, array in first.items()}
    for feeds in Chunks(data, most).pieces(samples):
        for name, array in run(feeds).items():
            found[name][0].add(array)
    return found


def _runner(model: onnx.ModelProto, values: Sequence[str]) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
    """Gives values of the main graph, the user's inputs too, for feeds; those that are no floats are left out."""
    inputs = {value.name for value in model.graph.input}
    names = [name for name in values if name not in inputs]
    session = quiet_session(expose(model, names)) if names else None

    def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
        made = session.run(names, dict(feeds)) if session else []
        every = {**feeds, **dict(zip(names, made, strict=True))}
        return {name: array for name in values if (array := np.asarray(every[name])).dtype == np.float32}

    return run


class FakeQuantProbe:
    """Hears what a model's outputs become when values are rounded.

    Raises what the runtime raises where it does not run.
    """

    def __init__(self, model: onnx.ModelProto, values: Sequence[str], data: Data, samples: int) -> None:
        self._values = list(values)
        self._session = quiet_session(with_fake_quant(model, self._values).SerializeToString())
        self._names = [value.name for value in model.graph.output]
        off = settings(self._values, {})
        cuttable = one_sample(model, data).size == 1
        self._pieces: list[tuple[dict[str, Array], list[Array], int]] = []
        for feeds in Chunks(data, min(_BATCH, samples) if cuttable else 0).pieces(samples):
            self._pieces.append((feeds, self._session.run(self._names, {**feeds, **off}), Batch(feeds).size))

    def noise(self, pairs: Mapping[str, QuantParams]) -> float:
        """Power over signal of the outputs where these values are rounded."""
        dials = settings(self._values, pairs)
        powers, total = 0.0, 0
        for feeds, wanted, size in self._pieces:
            got = self._session.run(self._names, {**feeds, **dials})
            powers += output_error(wanted, got) ** 2 * size
            total += size
        return powers / max(1, total)


def measure(
    model: onnx.ModelProto, values: Sequence[str], data: Data, kind: str, advance: Advance
) -> tuple[dict[str, Rounded], float]:
    """Every value on its best grid, alone, and how much more or less noise all of them make together than is their sum.

    Arguments:
        values: of the main graph; those that are no floats are left out.
        kind: type of the integers.
        advance: told the share that is done.
    """
    seen = histograms(model, values, data)
    grids = {name: _grids(histogram, kind) for name, (histogram, _) in seen.items()}
    heard = _slopes(model, grids, data, advance)
    rest = {name: grids[name] for name in grids if name not in heard}
    heard |= _listened(model, rest, data, sum(elements for _, elements in seen.values()), advance)
    found = {}
    for name, grid in grids.items():
        method = min(heard[name], key=lambda one: heard[name][one])
        found[name] = Rounded(grid[method], method, heard[name][method], seen[name][1])
    apart = sum(one.noise for one in found.values())
    listener = FakeQuantProbe(model, list(found), data, _LISTEN)
    together = listener.noise({name: one.pair for name, one in found.items()})
    return found, together / apart if apart else 1.0


def _grids(histogram: Histogram, kind: str) -> dict[str, QuantParams]:
    """By method, those that differ."""
    levels = int(np.iinfo(kind).max) - int(np.iinfo(kind).min) + 1
    ranges = candidates(histogram, levels, symmetric=kind.startswith("i") and histogram.low < 0)
    found: dict[str, QuantParams] = {}
    for method, one in ranges.items():
        pair = QuantParams.over(one.low, one.high, kind)
        if pair not in found.values():
            found[method] = pair
    return found


def _slopes(
    model: onnx.ModelProto, grids: Mapping[str, Mapping[str, QuantParams]], data: Data, advance: Advance
) -> dict[str, dict[str, float]]:
    """Noise by value and method, to first order: of the errors that rounding makes, those along the outputs' gradients.

    With g the gradient of a random projection of the outputs, ``E (g . e)^2`` is the power of the noise that an error e
    of the value makes in them (`Gradient`): two passes of a sample do for all values and grids. Values that no
    gradient reaches are left out.
    """
    sample = one_sample(model, data)
    run = _runner(model, list(grids))
    first = run(sample.feeds)
    probe, zeros = with_zeros_added(model, {name: array.shape for name, array in first.items()})
    gradient = Gradient(probe, list(zeros.values()))
    work = sum(array.size * (2 + len(grids[name])) for name, array in first.items())
    samples = max(8, min(_LISTEN, _WORK // max(1, work)))
    found = {name: dict.fromkeys(grids[name], 0.0) for name in grids}
    reached, signal = set[str](), 0.0
    pieces = Chunks(data, 1 if sample.size == 1 else 0).pieces(samples * sample.size)
    for seed, feeds in enumerate(pieces):
        if any(array.shape != sample.feeds[name].shape for name, array in feeds.items()):
            continue  # the last batch, say: the zeros have one shape
        gradients, power = gradient.weights(feeds, seed)
        signal += power
        for name, x in run(feeds).items():
            if (g := gradients.get(zeros[name])) is not None:
                reached.add(name)
                for method, pair in grids[name].items():
                    found[name][method] += float(np.vdot(g, pair.error(x))) ** 2
        advance(min(1.0, (seed + 1) / samples))
    usable = [
        name for name in found if signal > 0 and name in reached and np.isfinite(list(found[name].values())).all()
    ]
    return {name: {method: noise / signal for method, noise in found[name].items()} for name in usable}


def _listened(
    model: onnx.ModelProto, grids: Mapping[str, Mapping[str, QuantParams]], data: Data, elements: int, advance: Advance
) -> dict[str, dict[str, float]]:
    """Noise by value and method, heard one by one."""
    tries = sum(map(len, grids.values()))
    if not tries:
        return {}
    listener = FakeQuantProbe(model, list(grids), data, int(min(_LISTEN, max(1, _WORK // max(1, tries * elements)))))
    found: dict[str, dict[str, float]] = {}
    done = itertools.count(1)
    for name, pairs in grids.items():
        found[name] = {}
        for method, pair in pairs.items():
            found[name][method] = listener.noise({name: pair})
            advance(next(done) / tries)
    return found
