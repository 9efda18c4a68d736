"""Streams data through a model and measures, for every weight, what `Stats` holds."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from threading import Lock

import numpy as np

from onnxopt import native
from onnxopt.calibration.budget import Budget
from onnxopt.calibration.cache import Cache
from onnxopt.calibration.chunks import Chunks, any_batch, one_sample
from onnxopt.calibration.gains import Advance, Uses, failure, measure_gains
from onnxopt.calibration.moments import Subject, is_measured, key, measure_moments, moment_bytes
from onnxopt.calibration.stats import Moments, Stats, peaks
from onnxopt.calibration.targets import Targets
from onnxopt.data import ROW_NOISE, Data, by_law, quiet_session
from onnxopt.encoding import Array, square_sum
from onnxopt.errors import OnnxoptError
from onnxopt.graph import Graph, Linear, Partwise, Site, expose
from onnxopt.pool import Shared

MOMENTS = 0.5
"""Share of the statistics that moments are, as it is told."""
INPUTS = "measuring the inputs of weights"
_CHUNKS = 8
"""Chunks into which a part of the data is cut."""
_PEAKS = Lock()
"""Held while peaks are measured, which several weights ask for at once."""


class Statistics:
    """What was measured of every weight of a model. Large arrays stay on disk until asked for.

    Arguments:
        row_noise: see `Stats.row_noise`.
        peaks: gives the largest magnitude of each `Linear.output`; called when a peak is first wanted.
        unknown: by path of a weight whose statistics cannot be measured, why not. Such a weight stays as it is.
    """

    def __init__(
        self,
        cache: Cache | None,
        uses: Mapping[str, tuple[Linear, ...]],
        gains: Mapping[str, float],
        row_noise: float = ROW_NOISE,
        peaks: Callable[[], Mapping[str, float]] = dict,
        unknown: Mapping[str, str] | None = None,
    ) -> None:
        self._cache, self._uses, self._gains, self._peaks = cache, uses, gains, peaks
        self.unknown = unknown or {}
        self.targets: Callable[[Graph], Targets] | None = None
        """Makes of a working copy of the graph what corrects its weights; None if they are not corrected."""
        self._row_noise = row_noise

    def bias(self, path: str) -> str | None:
        """The bias that follows the weight at `path`; None if there is none, or nothing is known of it."""
        uses = self._uses.get(path, ())
        return uses[0].bias if uses else None

    def of(self, site: Site, weight: Array, fixed: frozenset[str] = frozenset()) -> Stats:
        """Statistics of one weight. A bias in `fixed` is not to be changed.

        Raises OnnxoptError if the cache has lost them.
        """
        relative = self._gains.get(site.path, 1.0)
        if self._cache is None or site.path not in self._uses:
            own = square_sum(weight)
            return Stats(relative / own if own else 1.0, row_noise=self._row_noise)
        stored = self._cache.get(key(site.path))
        if stored is None:
            raise OnnxoptError(f"{self._cache}: the statistics of {site.path} are gone; run again")
        uses = self._uses[site.path]
        linear = uses[0]
        moments = Moments.of(stored)
        signal = float(stored["signal"]) or 1e-30
        if linear.bias in fixed:
            linear = replace(linear, bias=None)

        def of_outputs() -> dict[str, float]:
            every = self._peaks()
            return {use.output: every[use.output] for use in uses}

        return Stats(relative / signal, linear, moments, signal, of_outputs, self._row_noise)


def calibrate(graph: Graph, sites: Sequence[Site], data: Data, cache: Cache, budget: Budget, advance: Advance
              ) -> Statistics:  # fmt: skip
    """Measures every weight; what the cache holds already is not measured again.

    Arguments:
        advance: told what is being measured, and the share of the statistics: moments take it to `MOMENTS`.

    A weight that cannot be measured does not hinder the others: see `Statistics.unknown`. Raises what the runtime
    raises if the model does not run on the data.
    """
    every = graph.linears()
    weights = {site.path: site for site in sites}
    uses = {path: every[path] for path in weights if path in every}
    sizes, most = _one_sample(graph, uses, data, budget)
    whole = data
    if most is not None:
        data = by_law(whole, lambda law: law.take(-(-most // len(whole.by_law)), any_batch(graph.model)))
    chunks = Chunks.fitting(graph.model, data, sizes, budget.use)
    if budget.stands_for:  # two chunks: the first opens a session
        chunks = replace(chunks, most=min(chunks.most, -(-data.count() // 2)))
    if most is not None:  # in small chunks, as some are held back
        chunks = replace(chunks, most=min(chunks.most, max(1, most // _CHUNKS)))
    total = budget.stands_for or data.count()
    todo = [path for path in uses if not is_measured(cache, path)]
    pool = budget.pool
    model = pool.share(graph)
    subject = pool.share(Subject(model, uses, chunks, total, budget.max_ram))

    unknown, before = dict[str, str](), 0

    def moments(paths: Sequence[str]) -> None:
        def tick(share: float) -> None:
            advance(INPUTS, MOMENTS * (before + share * len(paths)) / len(todo))

        measure_moments(subject, paths, cache, pool, tick)

    half, widest = budget.max_ram // 2, budget.use.widest
    takes = {path: moment_bytes(graph, path, uses[path][0], half, widest) for path in todo}
    # A quarter for the sums of a pass, a half for the second moment of one weight, a quarter for its factor.
    for group in _groups(todo, takes, budget.max_ram // 4):
        unknown |= _one_by_one(moments, group)
        before += len(group)
    uses = {path: linears for path, linears in uses.items() if path not in unknown and key(path) in cache}
    known = [site for site in sites if site.path not in unknown]
    gains, without = measure_gains(
        subject, known, cache, pool, lambda what, share: advance(what, MOMENTS + (1 - MOMENTS) * share)
    )
    found = Statistics(cache, uses, gains, data.row_noise,
                       partial(_peaks, model, uses, chunks, cache), {**unknown, **without})  # fmt: skip
    if budget.corrects and Partwise.takes(graph.model):
        found.targets = partial(Targets, chunks=chunks, sample_bytes=max(sizes.values(), default=1))
    native.return_memory()  # of what gradients took: 0.1 GB of ResNet-50
    return found


def sample_bytes(graph: Graph, sites: Sequence[Site], data: Data, budget: Budget) -> int:
    """Bytes of all layer inputs of one sample. Raises the runtime's error if the model does not run."""
    every = graph.linears()
    sizes, _ = _one_sample(graph, {site.path: every[site.path] for site in sites if site.path in every}, data, budget)
    return sum(sizes.values())


def _one_by_one(measure: Callable[[Sequence[str]], None], paths: Sequence[str]) -> dict[str, str]:
    """Measures weights together or, where that fails, one by one. Returns the ones that fail, and why."""
    try:
        measure(paths)
    except (OnnxoptError, OSError, MemoryError):  # of the data or the cache, not of a weight
        raise
    except Exception as error:
        if len(paths) == 1:
            return {paths[0]: failure(error)}
        return dict(itertools.chain.from_iterable(_one_by_one(measure, [path]).items() for path in paths))
    return {}


def _one_sample(graph: Graph, uses: Uses, data: Data, budget: Budget) -> tuple[dict[str, int], int | None]:
    """Bytes of one sample of each value that a weight is multiplied by; samples to take, None for all."""
    model = graph.model
    inputs = {value.name for value in model.graph.input}
    names = sorted({linear.x for linears in uses.values() for linear in linears} - inputs)
    sample = one_sample(model, data)
    made = quiet_session(expose(model, names)).run(names, sample.feeds) if names else []
    values = {**sample.feeds, **dict(zip(names, made, strict=True))}

    def weights() -> Iterator[tuple[int, int, float]]:
        for path, (linear, *_) in uses.items():
            with suppress(ValueError, IndexError):  # such a weight has no statistics
                _, outputs, columns = linear.matrix(graph.values(path)).shape
                rows = linear.inputs(values[linear.x], budget.use.rows(columns), np.random.default_rng(0)).shape[1]
                yield outputs * columns, columns, max(1, rows) / sample.size

    return {name: values[name].nbytes // sample.size for name in names}, budget.samples(weights())


def _groups(paths: Sequence[str], sizes: Mapping[str, int], most: int) -> Iterator[list[str]]:
    """Runs of paths that together take at most `most` bytes, the last one first: its pass needs the whole model, those
    for earlier layers do not, and where a run is short, it is the one of the first layers."""
    group: list[str] = []
    for path in reversed(paths):
        if group and sum(sizes[p] for p in group) + sizes[path] > most:
            yield group[::-1]
            group = []
        group.append(path)
    if group:
        yield group[::-1]


def _peaks(model: Shared[Graph], uses: Uses, chunks: Chunks, cache: Cache) -> dict[str, float]:
    """Largest magnitude of every layer's outputs.

    It takes a pass of its own: measured with the second moments, these outputs would take memory beside the inputs
    (85 MB for three images in ResNet-50).
    """
    outputs = sorted({linear.output for linears in uses.values() for linear in linears})
    with _PEAKS:
        stored = cache.get("peaks")
        if stored is None:
            stored = {"peaks": peaks(model.value.model, outputs, chunks.feeds())}
            cache.put("peaks", **stored)
    return dict(zip(outputs, stored["peaks"].tolist(), strict=True))
