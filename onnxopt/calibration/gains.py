"""How much of a layer's noise reaches the model's outputs: from gradients, or by adding noise if there is none."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from onnxopt.calibration.cache import Cache
from onnxopt.calibration.chunks import Chunks
from onnxopt.calibration.moments import NOISE, Subject, key, white_noise
from onnxopt.calibration.stats import Moments, Probe, in_blocks, in_parts, out_of_blocks
from onnxopt.encoding import Array, square_sum
from onnxopt.errors import OnnxoptError, first_line
from onnxopt.graph import Gradient, Graph, Linear, Site
from onnxopt.pool import Pool, Shared

Uses = Mapping[str, tuple[Linear, ...]]

_Shape = tuple[tuple[int, ...], ...]

Advance = Callable[[str, float], None]
"""Told what is being measured, and the share of it that is done."""
GRADIENTS = 0.95
"""Share of measuring gains that gradients take, as it is told."""
BY_GRADIENTS = "measuring gradients"
_CHUNK = 8
"""Most samples in a chunk for gradients: in a small chunk fewer samples meet with random signs."""
_SHAPES = 2
"""Most shapes of the chunks of a law."""
_PROBE_SAMPLES, _LEAST_SAMPLES, _PROBES = 32, 4, 1024
"""Most and fewest samples with noise in a weight, and samples with noise in any: each runs the whole model."""


def measure_gains(
    subject: Shared[Subject], sites: Sequence[Site], cache: Cache, pool: Pool, advance: Advance
) -> tuple[dict[str, float], dict[str, str]]:
    """The gain of every weight (see `Stats.gain`), completed by `fill_in`; the cache keeps what was measured.

    Arguments:
        advance: told what is done, and the share of it: of the gradients, up to `GRADIENTS`, then of single weights.

    Returns also, by path of a weight for which the measurement fails, why.
    """
    one = subject.value
    graph, chunks = one.graph.value, one.chunks
    uses = {path: linears for path, linears in one.uses.items() if key(path) in cache}
    _from_gradients(subject, sites, uses, cache, pool, lambda share: advance(BY_GRADIENTS, GRADIENTS * share))
    measured, unknown, probe = dict[str, float](), dict[str, str](), None
    left = sum(f"{key(site.path)}-gain" not in cache for site in sites)
    samples = min(_PROBE_SAMPLES, max(_LEAST_SAMPLES, _PROBES // max(1, left)))
    for count, site in enumerate(sites, 1):
        known = cache.get(f"{key(site.path)}-gain")
        if known is None:
            probe = probe or Probe(
                graph.model, _weights_and_biases(uses, [one.path for one in sites]), list(chunks.feeds(samples))
            )
            try:
                known = {"gain": np.asarray(_from_noise(graph, site, uses.get(site.path), probe, cache))}
            except (OnnxoptError, OSError, MemoryError):  # of the data or the cache, not of a weight
                raise
            except Exception as error:
                unknown[site.path] = failure(error)
                continue
        measured[site.path] = float(known["gain"])
        advance(f"measuring {site.path}", GRADIENTS + (1 - GRADIENTS) * count / len(sites))
    return fill_in(measured, [site.path for site in sites]), unknown


def gradient_samples(chunks: Chunks) -> int:
    """Most samples of a chunk for gradients; 0 if the model takes whole batches only."""
    return max(1, min(_CHUNK, chunks.most // 8)) if chunks.most else 0


def failure(error: Exception) -> str:
    """Why a weight has no statistics, for reports."""
    return f"its statistics cannot be measured ({type(error).__name__}: {first_line(error)})"


def fill_in(measured: Mapping[str, float], paths: Sequence[str]) -> dict[str, float]:
    """A gain for every path: the measured one, or else the largest of them.

    A gain of zero proves only that the data did not reach the weight (an untaken branch, for example), so it counts as
    not measured. No gain is less than a hundredth of the median.
    """
    known = {path: gain for path, gain in measured.items() if 0 < gain < np.inf}
    gains = list(known.values()) or [1.0]
    least, most = float(np.median(gains)) / 100, max(gains)
    return {path: max(known.get(path, most), least) for path in paths}


def _from_gradients(
    subject: Shared[Subject], sites: Sequence[Site], uses: Uses, cache: Cache, pool: Pool, tick: Callable[[float], None]
) -> None:
    """Gains from the gradients of the outputs with respect to every weight, in one pass over some data.

    Of several laws of synthetic inputs, the one that makes the most noise counts, weight by weight.

    Quantization with feedback F makes errors ``e = z (I - F)`` of independent steps z. To first order, noise of power 1
    in z makes noise ``|g (I - F)^T|^2`` in the outputs, where g is the gradient of a weight's row; the mean, which the
    bias corrects, is subtracted first. (Rows differ in sensitivity, but a step for each row costs up to 8 % more noise
    at equal bytes: a rectifier hides small noise only.)
    """
    missing = [site for site in sites if f"{key(site.path)}-gain" not in cache]
    if not missing:
        return
    parts = 1 if pool.here else pool.places  # each makes the gradient's graphs once
    told = tick if pool.here else None
    work = partial(_powers, subject, [site.path for site in missing], uses, cache, told=told)
    found = dict(itertools.chain.from_iterable(pool.stream(work, [(part, parts) for part in range(parts)])))
    gains = dict.fromkeys((site.path for site in missing), 0.0)
    for law in dict.fromkeys(law for law, _ in sorted(found)):
        noise, signal = dict.fromkeys(gains, 0.0), 0.0
        for powers, power in (found[at] for at in sorted(found) if at[0] == law):
            signal += power
            for path, one in powers.items():
                noise[path] += one
        for path, power in noise.items():
            if signal > 0 and 0 < power < np.inf:
                gains[path] = max(gains[path], power / signal)
    for site in missing:
        if gains[site.path] > 0:
            stored = cache.get(key(site.path)) if site.path in uses else None
            weight = subject.value.graph.value.values(site.path)
            layer = float(stored["signal"] if stored else square_sum(weight))
            cache.put(f"{key(site.path)}-gain", gain=gains[site.path] * layer)


def _powers(
    subject: Shared[Subject],
    paths: Sequence[str],
    uses: Uses,
    cache: Cache,
    part: tuple[int, int],
    told: Callable[[float], None] | None = None,
) -> list[tuple[tuple[int, int], tuple[dict[str, float], float]]]:
    """For every chunk of a part of the data, by law and position: the power of each weight's noise, and of the signal.

    Arguments:
        part: its number, and the number of parts.
        told: told the share of the chunks that is done.
    """
    one = subject.value
    chunks, found, last = one.chunks, [], None
    gradient = Gradient(one.graph.value.model, _weights_and_biases(uses, paths))
    most = gradient_samples(chunks)
    laws, use = Chunks(chunks.data, most).by_law(), chunks.use
    of_law = max(use.gradients_a_law, use.gradients // len(laws))
    for number, law in enumerate(laws):
        feeds_of_law = _in_turns(_alike(law.feeds(), of_law))
        for position, (seed, feeds) in enumerate(feeds_of_law):
            if position % part[1] != part[0]:
                continue
            if _shape(feeds) != last:
                gradient.forget()
            last = _shape(feeds)
            powers = _Powers(frozenset(paths), uses, cache)
            power = gradient.weights_in_parts(feeds, seed, powers.add)
            found.append(((number, position), (powers.rest(), power)))
            if told:
                told((number + (position + 1) / of_law) / len(laws))
    return found


class _Powers:
    """Noise of weights, from gradients that come in parts: all together are as large as the model."""

    def __init__(self, paths: frozenset[str], uses: Uses, cache: Cache) -> None:
        self._paths, self._uses, self._cache = paths, uses, cache
        self._found, self._vectors, self._waiting = dict[str, float](), dict[str, Array](), dict[str, Array]()

    def add(self, gradients: Mapping[str, Array]) -> None:
        """Takes some of them. A weight waits for that of its bias."""
        # Copies, as an array keeps all values of the run that gave it.
        self._vectors |= {path: array.copy() for path, array in gradients.items() if array.ndim < 2}
        self._waiting |= gradients
        for path in list(self._waiting):
            uses = self._uses.get(path)
            if not uses or uses[0].bias is None or uses[0].bias in self._vectors:
                self._take(path)

    def rest(self) -> dict[str, float]:
        """The noise of all, by path."""
        for path in list(self._waiting):
            self._take(path)
        return self._found

    def _take(self, path: str) -> None:
        gradient = self._waiting.pop(path)
        if path in self._paths:
            known = {**self._vectors, path: gradient}
            self._found[path] = _mean_power(path, self._uses.get(path), known, self._cache)


def _alike(feeds: Iterator[dict[str, Array]], most: int) -> Iterator[dict[str, Array]]:
    """At most `most` feeds, of few different shapes: each takes sessions of its own, which hold all weights."""
    shapes = set[_Shape]()
    for one in feeds:
        if len(shapes) < _SHAPES or _shape(one) in shapes:
            shapes.add(_shape(one))
            yield one
            most -= 1
        if most == 0:
            return


def _in_turns(feeds: Iterator[dict[str, Array]]) -> Iterator[tuple[int, dict[str, Array]]]:
    """The feeds with their numbers, those of the first one's shape first: then no sessions of two shapes are open."""
    first, others = None, list[tuple[int, dict[str, Array]]]()
    for index, one in enumerate(feeds):
        first = first or _shape(one)
        if _shape(one) == first:
            yield index, one
        else:
            others.append((index, one))
    yield from others


def _shape(feeds: Mapping[str, Array]) -> _Shape:
    return tuple(array.shape for array in feeds.values())


def _mean_power(path: str, linears: Sequence[Linear] | None, gradients: Mapping[str, Array], cache: Cache) -> float:
    """Squared gradient for noise of power 1 in one output of the node, averaged over its outputs.

    Without statistics of the inputs, for noise of power 1 in one element of the weight.
    """
    stored = cache.get(key(path)) if linears else None
    if stored is None or linears is None:
        return square_sum(gradients[path]) / max(1, gradients[path].size)
    rows, moments = linears[0].matrix(gradients[path]), Moments.of(stored)
    of_bias = gradients.get(linears[0].bias or "") if len(linears) == 1 else None
    powers = np.empty(rows.shape[:2])
    for part in in_parts(rows.shape):
        own = rows[:, part]
        if of_bias is not None:
            mean = stored["mean"][:, None].astype(np.float32)
            own = own - of_bias.reshape(*rows.shape[:2], 1)[:, part] * mean
        if moments.feedback is not None:
            fed = in_blocks(own, moments.blocks) @ moments.feedback.swapaxes(1, 2)
            own = own - out_of_blocks(fed, moments.blocks)
        powers[:, part] = np.square(own, dtype=np.float64).sum(2)
    power = float((powers / stored["variance"].sum(1, dtype=np.float64)[:, None]).mean())
    return power * float(stored.get("optimism", 1.0))


def _from_noise(graph: Graph, site: Site, linears: Sequence[Linear] | None, probe: Probe, cache: Cache) -> float:
    """Relative power of the outputs' noise over relative power of the noise in the layer's outputs (or its weight)."""
    values = graph.values(site.path)
    stored = cache.get(key(site.path)) if linears else None
    if linears and stored is not None:
        linear = linears[0]
        noise = white_noise(site.path, linear.matrix(values.astype(np.float64)))
        weights = {site.path: (values + linear.tensor(noise)).astype(values.dtype)}
        if linear.bias and len(linears) == 1:
            bias = graph.values(linear.bias)
            weights[linear.bias] = (bias - np.einsum("goi,gi->go", noise, stored["mean"]).ravel()).astype(bias.dtype)
        moments = Moments.of(stored)
        power = moments.noise(noise) / max(1, moments.held_back.shape[1])
        ratio = float(stored["signal"] / max(power, 1e-300))
    else:
        w = values.astype(np.float64)
        weights = {site.path: (w + white_noise(site.path, w)).astype(values.dtype)}
        ratio = NOISE**-2
    gain = probe.error(weights) ** 2 * ratio if np.isfinite(values).all() else 0.0
    cache.put(f"{key(site.path)}-gain", gain=gain)
    return gain


def _weights_and_biases(uses: Uses, paths: Sequence[str]) -> list[str]:
    biases = {linear.bias: None for linears in uses.values() for linear in linears if linear.bias}
    return list(dict.fromkeys([*paths, *biases]))
