"""What rounding the values of a model to integers does to its outputs: measured, value by value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from onnxopt.calibration import Source, one_sample
from onnxopt.data import Array, Batch, Data, quiet_session
from onnxopt.graph import Pair, dialled, exposing, settings
from onnxopt.ranges import Histogram, candidates
from onnxopt.stats import output_error

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

    pair: Pair
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
    inputs = {value.name for value in model.graph.input}
    names = [name for name in values if name not in inputs]
    session = quiet_session(exposing(model, names)) if names else None

    def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
        made = session.run(names, dict(feeds)) if session else []
        every = {**feeds, **dict(zip(names, made, strict=True))}
        return {name: array for name in values if (array := np.asarray(every[name])).dtype == np.float32}

    sample = one_sample(model, data)
    first = run(sample.feeds)
    size = sum(array.nbytes for array in first.values()) // sample.size
    most = max(1, _PIECE // max(1, size)) if sample.size == 1 else 0
    samples = max(1, min(_SAMPLES, 4 * _ELEMENTS // max(1, size)))
    found = {name: (Histogram(), array.size // sample.size) for name, array in first.items()}
    for feeds in Source(data, most).pieces(samples):
        for name, array in run(feeds).items():
            found[name][0].add(array)
    return found


class Listener:
    """Hears what a model's outputs become when values are rounded.

    Raises what the runtime raises where it does not run.
    """

    def __init__(self, model: onnx.ModelProto, values: Sequence[str], data: Data, samples: int) -> None:
        self._values = list(values)
        self._session = quiet_session(dialled(model, self._values).SerializeToString())
        self._names = [value.name for value in model.graph.output]
        off = settings(self._values, {})
        cuttable = one_sample(model, data).size == 1
        self._pieces: list[tuple[dict[str, Array], list[Array], int]] = []
        for feeds in Source(data, min(_BATCH, samples) if cuttable else 0).pieces(samples):
            self._pieces.append((feeds, self._session.run(self._names, {**feeds, **off}), Batch(feeds).size))

    def noise(self, pairs: Mapping[str, Pair]) -> float:
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
    levels = int(np.iinfo(kind).max) - int(np.iinfo(kind).min) + 1
    symmetric = kind.startswith("i")
    grids: dict[str, dict[str, Pair]] = {}
    for name, (histogram, _) in seen.items():
        ranges = candidates(histogram, levels, symmetric=symmetric and histogram.low < 0)
        grids[name] = {}
        for method, one in ranges.items():
            pair = Pair.over(one.low, one.high, kind)
            if pair not in grids[name].values():
                grids[name][method] = pair
    tries = sum(map(len, grids.values()))
    work = tries * sum(elements for _, elements in seen.values())
    listener = Listener(model, list(seen), data, int(min(_LISTEN, max(1, _WORK // max(1, work)))))
    found, done = {}, 0
    for name, pairs in grids.items():
        heard = {}
        for method, pair in pairs.items():
            heard[method] = listener.noise({name: pair})
            done += 1
            advance(done / tries)
        method = min(heard, key=lambda one: heard[one])
        found[name] = Rounded(pairs[method], method, heard[method], seen[name][1])
    together, apart = (
        listener.noise({name: one.pair for name, one in found.items()}),
        sum(r.noise for r in found.values()),
    )
    return found, together / apart if apart else 1.0
