"""Pruning: sets the least important weights to zero.

These are the smallest magnitudes (Han et al. 2015), or the weights whose removal adds the least noise to the node's
outputs once the remaining weights compensate: optimal brain surgeon (Hassibi & Stork 1993), column by column
(SparseGPT: Frantar & Alistarh 2023).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt

from onnxopt.calibration.stats import Floats, Moments, Stats
from onnxopt.encoding import Array, Mask, Raw
from onnxopt.graph import Graph, Site
from onnxopt.passes.base import Pass, Skip, correct_bias, finite, matrix, tensor

_BLOCK = 128
"""Columns per block. A block's weights are chosen together, and its errors pass to all later columns in one product."""


@dataclass(frozen=True, slots=True)
class Prune(Pass):
    """``prune{keep=0.12}`` keeps that share of the weights, the largest magnitudes, and all that tie with the smallest.

    Instead of `keep`: ``sigma=1.2`` prunes magnitudes below 1.2 standard deviations of the weight, ``below=0.01``
    magnitudes below 0.01 (global magnitude pruning, where all weights have the same), and ``n=2,m=4`` all but the n
    largest of every m consecutive inputs of an output. ``noise=0.2`` divides that noise over signal in the model's
    outputs equally among all weights, and prunes weights that make less than their share: sensitive layers keep more.
    The encoding of a quantized weight stays the same.

    With ``compensate=true``, the same number of weights is pruned, but those that add the least noise, and the others
    compensate. Magnitudes decide if the inputs are unknown or if compensation is no better on the held-back inputs.
    """

    name: ClassVar[str] = "prune"
    keep: float = 0.0
    sigma: float = 0.0
    below: float = 0.0
    noise: float = 0.0
    n: int = 0
    m: int = 0
    compensate: bool = False

    def __post_init__(self) -> None:
        given = [name for name in ("keep", "sigma", "below", "noise") if getattr(self, name) != 0]
        if self.n or self.m:
            given.append("n and m")
        if len(given) != 1:
            raise ValueError(
                f"{' and '.join(given) or 'nothing'} given, expected one of keep, sigma, below, noise, n and m"
            )
        if not 0 <= self.keep <= 1:
            raise ValueError(f"keep is {self.keep}, expected more than 0 and at most 1")
        if not all(0 <= threshold < float("inf") for threshold in (self.sigma, self.below, self.noise)):
            raise ValueError(f"the threshold is {self.sigma or self.below or self.noise}, expected a number above 0")
        if (self.n or self.m) and not (isinstance(self.n, int) and isinstance(self.m, int) and 1 <= self.n < self.m):
            raise ValueError(f"n is {self.n} and m is {self.m}, expected 1 <= n < m")

    @classmethod
    def space(cls, site: Site, stats: Stats) -> Iterator[Self]:
        """Shares to keep, smallest first. Vectors such as biases are not pruned, as each element matters."""
        if site.axis is not None:
            known = stats.moments is not None
            yield from (cls(keep=keep, compensate=known) for keep in (0.05, 0.1, 0.2, 0.35, 0.5, 0.7))

    def apply(self, graph: Graph, site: Site, stats: Stats) -> tuple[Site, ...]:
        """Stores the weight with its zeros. Raises Skip for infinities, NaNs, and weights that are all zeros."""
        stored = graph.encoding(site.path)
        values = stored.values()
        w = finite(values)
        kept = self._largest(w, graph, site, stats)
        pruned = stored.masked(kept)
        if self.compensate and stats.linear is not None and stats.moments is not None:
            if not isinstance(stored, Raw):
                raise Skip("its values are shared already, and compensation changes them: prune with it first")
            other = self._compensated(stats.linear.matrix(w), int(w.size - np.count_nonzero(kept)), stats.moments)
            candidates = (Raw(stats.linear.tensor(other).astype(values.dtype)), pruned)
            errors = [stats.moments.noise(stats.linear.matrix(w - candidate.values())) for candidate in candidates]
            pruned = candidates[int(np.argmin(errors))]
        correct_bias(graph, matrix(w - pruned.values(), site, stats), stats)
        graph.store(site.path, pruned)
        return ()

    def _largest(self, w: Floats, graph: Graph, site: Site, stats: Stats) -> Mask:
        """Mask of the weights to keep, by magnitude."""
        magnitude = np.abs(w)
        if self.m:
            return tensor(~_least_of_each(matrix(magnitude, site, stats), self.n, self.m), site, stats)
        if self.keep:
            pruned = w.size - max(1, round(self.keep * w.size))
            return np.asarray(magnitude >= np.partition(magnitude, pruned, None)[pruned])
        if self.noise:  # noise of a weight: its square, times its input's power, times the gain
            each = self.noise**2 / sum(one.elements for one in graph.sites())
            power = 1.0 if stats.moments is None else float(stats.moments.power.mean())
            return np.asarray(np.square(magnitude) * power * stats.gain >= each)
        return np.asarray(magnitude >= (self.below or self.sigma * float(w.std())))

    def _compensated(self, w: Floats, count: int, moments: Moments) -> npt.NDArray[np.float32]:
        """`w` without `count` of its weights, or n of every m: ``[groups, outputs, inputs]``.

        Setting ``w`` to zero in a column costs ``variance w^2`` after the later columns have compensated (see
        `stats.factor`). Each block loses as many weights as it has among the `count` cheapest before compensation.
        """
        if self.m:
            return _sweep(w, moments, self.m, lambda _, costs: _least_of_each(costs, self.n, self.m))
        costs = np.square(w) * moments.variance[:, None]
        limit = np.partition(costs, count - 1, None)[count - 1] if count else -1.0
        cheap = costs <= limit
        cheap &= np.cumsum(cheap).reshape(cheap.shape) <= count  # breaks ties at the limit

        def choose(at: int, costs: Array) -> Mask:
            quota = int(np.count_nonzero(cheap[..., at : at + _BLOCK]))
            chosen = np.zeros(costs.size, np.bool_)
            chosen[np.argsort(costs, None, kind="stable")[:quota]] = True
            return chosen.reshape(costs.shape)

        return _sweep(w, moments, _BLOCK, choose)


def _sweep(w: Floats, moments: Moments, width: int, choose: Callable[[int, Array], Mask]) -> npt.NDArray[np.float32]:
    """Prunes column by column the weights that `choose` selects from each block's costs, and passes the errors on."""
    left, feedback = w.astype(np.float32), moments.whole()
    inputs = w.shape[2]
    for at in range(0, inputs, width):
        end = min(at + width, inputs)
        chosen = choose(at, np.square(left[..., at:end]) * moments.variance[:, None, at:end])
        errors = np.zeros(chosen.shape, np.float32)
        for i in range(at, end):
            errors[..., i - at] = np.where(chosen[..., i - at], left[..., i], 0)
            if feedback is not None:
                left[..., i + 1 : end] += errors[..., i - at, None] * feedback[:, None, i, i + 1 : end]
        left[..., at:end][chosen] = 0
        if feedback is not None:
            left[..., end:] += errors @ feedback[:, at:end, end:]
    return left


def _least_of_each(costs: Array, n: int, m: int) -> Mask:
    """Mask of all but the n largest of every m along the last axis. A shorter rest at the end counts as a full
    group."""
    missing = -costs.shape[-1] % m
    padded = np.pad(costs, ((0, 0), (0, 0), (0, missing)), constant_values=-1)
    order = np.argsort(-padded.reshape(*costs.shape[:2], -1, m), axis=-1, kind="stable")
    least = np.ones(order.shape, np.bool_)
    np.put_along_axis(least, order[..., :n], False, axis=-1)
    return least.reshape(padded.shape)[..., : costs.shape[-1]]
