"""Streams data through a model and measures, for every weight, what `Stats` holds.

Inputs of layers are never all in memory: one piece of a batch at a time, for as many weights as `max_ram` allows.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from zlib import crc32

import numpy as np
import onnx

from onnxopt.calibration.cache import Cache
from onnxopt.calibration.stats import Floats, Moments, Probe, Stats, cholesky_feedback, peaks
from onnxopt.data import Batch, Data, quiet_session
from onnxopt.encoding import Array
from onnxopt.errors import OnnxoptError
from onnxopt.graph import Gradient, Graph, Linear, Site, expose

Advance = Callable[[str], None]

DAMPING = 0.01
"""Of second moments; see `factor`."""
_LEAST_ROWS = 32768
"""Input vectors of one weight that are enough..."""
_ROWS_A_COLUMN = 16
"""...or so many for each of its inputs, where that is more."""
_HELD = 256
"""Input vectors of one weight that are held back to check on."""
_HOLD_BACK = 8
"""Of so many pieces of data one is held back."""
_PIECE = 2**27
"""Bytes of layers' inputs in memory at a time."""
_LEVEL = 0.03
"""Relative noise at which gains are measured: small enough to add, large enough for float32 to show."""
_GAIN_PIECES, _GAIN_PIECE = 24, 8
"""Pieces of data for gains, and samples in one at most: small ones, as in a piece samples meet with random signs."""
_PROBE_SAMPLES = 32
_BLOCK = 256
"""Rows of a second moment that are worked on at a time."""


@dataclass(frozen=True, slots=True)
class Chunks:
    """Data in pieces that fit into memory."""

    data: Data
    most: int
    """Samples of a piece; 0 where the model takes whole batches only."""

    def pieces(self, samples: int | None = None) -> Iterator[dict[str, Array]]:
        """Feeds: all of them, or the first `samples`."""
        seen = 0
        for batch in self.data:
            for piece in _cut(batch, self.most):
                yield piece.feeds
                seen += piece.size
                if samples is not None and seen >= samples:
                    return


class Statistics:
    """What was measured of every weight of a model. Large arrays stay on disk until asked for.

    Arguments:
        peaks: gives the largest magnitude of each `Linear.output`; not asked before somebody wants one.
    """

    def __init__(
        self,
        cache: Cache | None,
        uses: Mapping[str, tuple[Linear, ...]],
        gains: Mapping[str, float],
        peaks: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        self._cache, self._uses, self._gains, self._peaks = cache, uses, gains, peaks

    def of(self, site: Site, weight: Array, fixed: frozenset[str] = frozenset()) -> Stats:
        """Statistics of one weight. A bias in `fixed` is not to be touched."""
        relative = self._gains.get(site.path, 1.0)
        if self._cache is None or site.path not in self._uses:
            power = float(np.square(weight.astype(np.float64)).sum())
            return Stats(relative / power if power else 1.0)
        stored = self._cache.get(_key(site.path))
        if stored is None:
            raise OnnxoptError(f"{self._cache}: the statistics of {site.path} are gone; run again")
        uses = self._uses[site.path]
        linear = uses[0]
        moments = Moments(stored["mean"], stored["power"], stored.get("feedback"), stored["variance"], stored["held"])
        signal = max(float(stored["signal"]), 1e-30)
        if linear.bias in fixed:
            linear = replace(linear, bias=None)

        def of_outputs() -> dict[str, float]:
            every = self._peaks()
            return {use.output: every[use.output] for use in uses}

        return Stats(relative / signal, linear, moments, signal, of_outputs)


def calibrate(graph: Graph, sites: Sequence[Site], data: Data, cache: Cache, max_ram: int, advance: Advance
              ) -> Statistics:  # fmt: skip
    """Measures everything; what the cache holds already is not measured again.

    Arguments:
        max_ram: bytes that second moments may take at a time; weights beyond it take several passes over the data.
        advance: told each weight's path once it is measured (twice: its inputs, its gain).

    Raises what the runtime raises where the model does not run on the data.
    """
    every = graph.linears()
    weights = {site.path: site for site in sites}
    uses = {path: every[path] for path in weights if path in every}
    source = Chunks(data, _piece_size(graph.model, _observe(graph.model, uses, data)))
    total = data.count()
    todo = []
    for path in uses:
        if _key(path) in cache:
            advance(path)
        else:
            todo.append(path)
    for group in _groups(todo, {path: _moment_bytes(graph, path, uses[path][0]) for path in todo}, max_ram // 2):
        _measure_inputs(graph, {path: uses[path] for path in group}, source, total, cache, max_ram)
        for path in group:
            advance(path)
    _measure_gains(graph, sites, uses, source, cache)
    measured, probe = {}, None
    for site in sites:
        known = cache.get(f"{_key(site.path)}-gain")
        if known is None:  # no gradient reaches it: noise does
            probe = probe or Probe(graph.model, _opened(uses, sites), list(source.pieces(_PROBE_SAMPLES)))
            known = {"gain": np.asarray(_relative_gain(graph, site, uses.get(site.path), probe, cache))}
        measured[site.path] = float(known["gain"])
        advance(site.path)
    gains = fill_in(measured, [site.path for site in sites])
    return Statistics(cache, uses, gains, lambda: _peaks(graph.model, uses, source, cache))


def fill_in(measured: Mapping[str, float], paths: Sequence[str]) -> dict[str, float]:
    """A gain for every path from those that were measured; the largest of them where none was.

    A gain of zero proves nothing but that the data did not reach the weight (an untaken branch, say), so it counts as
    none; and no gain is taken for less than a hundredth of the median.
    """
    known = {path: gain for path, gain in measured.items() if 0 < gain < np.inf}
    gains = list(known.values()) or [1.0]
    least, most = float(np.median(gains)) / 100, max(gains)
    return {path: max(known.get(path, most), least) for path in paths}


def _key(path: str) -> str:
    """A file name for a weight: numbers, as paths hold any character; two weights of one key are told by length."""
    return f"{crc32(path.encode()):08x}-{len(path)}"


def one_sample(model: onnx.ModelProto, data: Data) -> Batch:
    """The first of the data; its whole batch where the model takes no part of one."""
    return next(_cut(next(iter(data)), 1 if _cuttable(model) else 0))


def _observe(model: onnx.ModelProto, uses: Mapping[str, tuple[Linear, ...]], data: Data) -> dict[str, int]:
    """Bytes of one sample of each value that weights are multiplied by."""
    inputs = {value.name for value in model.graph.input}
    names = sorted({linear.x for linears in uses.values() for linear in linears} - inputs)
    piece = one_sample(model, data)
    made = quiet_session(expose(model, names)).run(names, piece.feeds) if names else []
    return {name: array.nbytes // piece.size for name, array in zip(names, made, strict=True)}


def _cuttable(model: onnx.ModelProto) -> bool:
    """Whether every input has a first dimension that may be anything."""
    shapes = [value.type.tensor_type.shape.dim for value in model.graph.input]
    return all(len(dims) > 0 and not dims[0].dim_value for dims in shapes)


def _piece_size(model: onnx.ModelProto, sizes: Mapping[str, int]) -> int:
    return max(1, _PIECE // max(1, sum(sizes.values()))) if _cuttable(model) else 0


def _cut(batch: Batch, most: int) -> Iterator[Batch]:
    size = batch.size
    if not most or size <= most or any(len(array) != size for array in batch.feeds.values()):
        yield batch
        return
    for at in range(0, size, most):
        yield Batch({name: array[at : at + most] for name, array in batch.feeds.items()})


def _moment_bytes(graph: Graph, path: str, linear: Linear) -> int:
    groups, _, inputs = linear.matrix(graph.values(path)).shape
    return int(groups) * int(inputs) ** 2 * 8


def _groups(paths: Sequence[str], sizes: Mapping[str, int], most: int) -> Iterator[list[str]]:
    """Neighbours that together take at most so many bytes."""
    group: list[str] = []
    for path in paths:
        if group and sum(sizes[p] for p in group) + sizes[path] > most:
            yield group
            group = []
        group.append(path)
    if group:
        yield group


class _Sums:
    """Running sums over the input vectors of one weight."""

    def __init__(self, weight: Array, linears: Sequence[Linear], seed: int, samples: int, full: bool) -> None:
        self._linears, self._samples, self._full = linears, samples, full
        self._random = np.random.default_rng(seed)
        groups, _, inputs = linears[0].matrix(weight).shape
        self._most = max(_LEAST_ROWS, _ROWS_A_COLUMN * inputs)
        self._shift: Array | None = None  # of the vectors towards zero: float32 products drown what varies little
        self._count = 0
        self._total: Floats = np.zeros((groups, inputs))
        self._second: Floats = np.zeros((groups, inputs, inputs) if full else (groups, inputs))
        self._held: list[Array] = []

    def add(self, values: Mapping[str, Array], size: int, hold_back: bool) -> None:
        most = _HELD * _HOLD_BACK if hold_back else self._most
        for linear in self._linears:
            rows = linear.inputs(values[linear.x], max(16, -(-most * size // self._samples)), self._random)
            rows = rows.astype(np.float32, copy=False)
            rows = rows[:, np.isfinite(rows).all((0, 2))]  # what overflowed, or is masked by infinity, is not counted
            if hold_back:
                self._held.append(rows)
                continue
            if self._shift is None and rows.size:
                self._shift = rows.mean(1, keepdims=True, dtype=np.float64).astype(np.float32)
            if self._shift is not None:
                rows -= self._shift
            self._count += rows.shape[1]
            self._total += rows.sum(1, dtype=np.float64)
            if not self._full:
                self._second += np.square(rows, dtype=np.float64).sum(1)
            elif len(rows) == 1:
                self._second[0] += rows[0].T @ rows[0]  # one array twice: numpy takes BLAS's syrk
            else:
                self._second += rows.swapaxes(1, 2) @ rows

    def moments(self, centred: bool) -> tuple[Floats, Floats]:
        """Mean, and second moment (or its diagonal), about the mean where `centred`. Uses up the sums."""
        count = max(1, self._count)
        mean = off = self._total / count
        if self._shift is not None:
            mean = off + self._shift[:, 0]
        self._second /= count
        for about, sign in ((off, -1), *(() if centred else ((mean, 1),))):
            if self._full:
                for second, vector in zip(self._second, about, strict=True):
                    for i in range(0, len(vector), _BLOCK):
                        second[i : i + _BLOCK] += sign * (vector[i : i + _BLOCK, None] * vector)
            else:
                self._second += sign * np.square(about)
        return mean, self._second

    def held(self, mean: Floats) -> Array:
        if not self._held:
            return np.zeros((*self._total.shape[:1], 0, self._total.shape[1]), np.float32)
        rows = np.concatenate(self._held, 1)
        chosen = np.linspace(0, rows.shape[1] - 1, min(_HELD, rows.shape[1])).astype(int)
        return (rows[:, chosen] - mean[:, None]).astype(np.float32)


def _measure_inputs(
    graph: Graph, uses: Mapping[str, tuple[Linear, ...]], source: Chunks, total: int, cache: Cache, max_ram: int
) -> None:
    """One pass over the data for these weights."""
    inputs = {value.name for value in graph.model.graph.input}
    names = sorted({linear.x for linears in uses.values() for linear in linears} - inputs)
    session = quiet_session(expose(graph.model, names)) if names else None
    sums = {
        path: _Sums(graph.values(path), linears, crc32(path.encode()), total,
                    2 * _moment_bytes(graph, path, linears[0]) <= max_ram)
        for path, linears in uses.items()
    }  # fmt: skip
    for index, feeds in enumerate(source.pieces()):
        made = session.run(names, feeds) if session else []
        values = {**feeds, **dict(zip(names, made, strict=True))}
        size = Batch(feeds).size
        for one in sums.values():
            one.add(values, size, index % _HOLD_BACK == 1)
    for path in list(sums):
        _store_inputs(graph, path, uses[path], sums.pop(path), cache)


def _store_inputs(graph: Graph, path: str, linears: Sequence[Linear], sums: _Sums, cache: Cache) -> None:
    w = linears[0].matrix(graph.values(path).astype(np.float64))
    centred = linears[0].bias is not None and len(linears) == 1
    mean, second = sums.moments(centred)
    noise = _noise(path, w)
    arrays = {}
    if second.ndim == 3:
        power = np.diagonal(second, axis1=1, axis2=2)
        signal, noise_power = (float((m @ second * m).sum()) for m in (w, noise))
        power = power.copy()
        arrays["feedback"], variance = cholesky_feedback(second, DAMPING)
    else:
        power = second
        signal, noise_power = (float((np.square(m) * power[:, None]).sum()) for m in (w, noise))
        variance = power + DAMPING * power.mean(1, keepdims=True)
    floor = max(float(variance.max()) * 1e-9, float(np.finfo(np.float32).tiny))  # inputs that are always 0, all of them
    cache.put(
        _key(path), mean=mean, variance=np.maximum(variance, floor).astype(np.float32), **arrays,
        power=np.maximum(power, floor).astype(np.float32), held=sums.held(mean if centred else 0 * mean),
        signal=max(0.0, signal), noise_power=noise_power,
    )  # fmt: skip


def _noise(path: str, w: Floats) -> Floats:
    """White noise of `_LEVEL` times the weight's rms, the same for a path every time."""
    rms = float(np.sqrt(np.square(w).mean()))
    return np.random.default_rng(crc32(path.encode())).standard_normal(w.shape) * (_LEVEL * rms)


def _peaks(
    model: onnx.ModelProto, uses: Mapping[str, tuple[Linear, ...]], source: Chunks, cache: Cache
) -> dict[str, float]:
    """Largest magnitude of every layer's outputs.

    In a pass over the data of its own: among all that the runtime hands out for the second moments, these outputs would
    take memory, too (85 MB for three images in ResNet-50).
    """
    outputs = sorted({linear.output for linears in uses.values() for linear in linears})
    stored = cache.get("peaks")
    if stored is None:
        stored = {"peaks": peaks(model, outputs, source.pieces())}
        cache.put("peaks", **stored)
    return dict(zip(outputs, stored["peaks"].tolist(), strict=True))


def _opened(uses: Mapping[str, tuple[Linear, ...]], sites: Sequence[Site]) -> list[str]:
    biases = {linear.bias: None for linears in uses.values() for linear in linears if linear.bias}
    return list(dict.fromkeys([*(site.path for site in sites), *biases]))


def _relative_gain(graph: Graph, site: Site, linears: tuple[Linear, ...] | None, probe: Probe, cache: Cache) -> float:
    """Relative power of the outputs' noise over relative power of the noise in the layer's outputs (or its weight)."""
    values = graph.values(site.path)
    stored = cache.get(_key(site.path)) if linears else None
    if linears and stored is not None:
        linear = linears[0]
        noise = _noise(site.path, linear.matrix(values.astype(np.float64)))
        weights = {site.path: (values + linear.tensor(noise)).astype(values.dtype)}
        if linear.bias and len(linears) == 1:
            bias = graph.values(linear.bias)
            weights[linear.bias] = (bias - np.einsum("goi,gi->go", noise, stored["mean"]).ravel()).astype(bias.dtype)
        ratio = float(stored["signal"] / max(float(stored["noise_power"]), 1e-300))
    else:
        w = values.astype(np.float64)
        weights = {site.path: (w + _noise(site.path, w)).astype(values.dtype)}
        ratio = _LEVEL**-2
    gain = probe.error(weights) ** 2 * ratio if np.isfinite(values).all() else 0.0
    cache.put(f"{_key(site.path)}-gain", gain=gain)
    return gain


def _measure_gains(
    graph: Graph, sites: Sequence[Site], uses: Mapping[str, tuple[Linear, ...]], source: Chunks, cache: Cache
) -> None:
    """Gains from the gradients of the outputs with respect to every weight, all of them in one pass over some data.

    Quantization with feedback F makes errors ``e = z (I - F)`` of independent steps z. To first order, noise of power 1
    on z makes noise ``|g (I - F)^T|^2`` in the outputs, g being the gradient of a weight's row; of that,
    what the bias takes off on average is taken off first. (Rows differ in sensitivity, but steps by row cost
    up to 8 % more noise at equal bytes: what a rectifier hides, it hides from small noise only.)
    """
    missing = [site for site in sites if f"{_key(site.path)}-gain" not in cache]
    if not missing:
        return
    gradient = Gradient(graph.model, _opened(uses, missing))
    small = Chunks(source.data, max(1, min(_GAIN_PIECE, source.most // 8)) if source.most else 0)
    found = dict.fromkeys((site.path for site in missing), 0.0)
    signal = 0.0
    for seed, feeds in enumerate(itertools.islice(small.pieces(), _GAIN_PIECES)):
        gradients, power = gradient.weights(feeds, seed)
        signal += power
        for site in missing:
            if site.path in gradients:
                found[site.path] += _mean_power(site.path, uses.get(site.path), gradients, cache)
        del gradients  # before there are others: they are as large as the model
    for site in missing:
        if signal > 0 and 0 < found[site.path] < np.inf:
            stored = cache.get(_key(site.path)) if site.path in uses else None
            layer = float(stored["signal"] if stored else np.square(graph.values(site.path).astype(np.float64)).sum())
            cache.put(f"{_key(site.path)}-gain", gain=found[site.path] / signal * layer)


def _mean_power(path: str, linears: tuple[Linear, ...] | None, gradients: Mapping[str, Array], cache: Cache) -> float:
    """Squared gradient for noise of power 1 in one of the node's outputs, the mean over these; without statistics of
    its inputs, for noise of power 1 on one element of the weight."""
    stored = cache.get(_key(path)) if linears else None
    if stored is None or linears is None:
        return float(np.square(gradients[path], dtype=np.float64).mean())
    rows = linears[0].matrix(gradients[path])
    bias = linears[0].bias
    if bias is not None and bias in gradients and len(linears) == 1:
        rows = rows - gradients[bias].reshape(*rows.shape[:2], 1) * stored["mean"][:, None].astype(np.float32)
    if "feedback" in stored:
        rows = rows - rows @ stored["feedback"].swapaxes(1, 2)
    powers = np.square(rows, dtype=np.float64).sum(2)
    return float((powers / stored["variance"].sum(1, dtype=np.float64)[:, None]).mean())
