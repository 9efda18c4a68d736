"""Targets of weights whose inputs are noisy, because the layers before them are quantized.

After quantized layers, a weight W multiplies x' instead of x. The weight that comes nearest to the original outputs W x
is ``W + W (C - H') / H'``, with ``C = E[x x'^T]`` and ``H' = E[x' x'^T]``: it makes up for a part of the earlier
noise (asymmetric calibration: Li et al. 2025, GPTAQ, arXiv 2504.02692). Half of that change is made, as half of it is
as good on new samples, and leaves the weight nearer to what the moments were measured for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnxopt.calibration.chunks import Chunks
from onnxopt.calibration.moments import DAMPING
from onnxopt.calibration.stats import Floats, Stats
from onnxopt.encoding import Array
from onnxopt.graph import Graph, Linear, Partwise

_SHARE = 0.5
"""Share of the change that is made; less where there are few vectors, as ``n / (n + inputs)``."""
_SAMPLES = 384
_BYTES = 2**29
"""Of the values that are in memory at a time..."""
_LIVE = 3
"""...of which a sample has as many as this many of its largest."""
_VECTORS = 8192
_A_COLUMN = 8
"""Input vectors of a weight: so many, or so many for each of its inputs."""


class Targets:
    """Corrects weights one after another, in graph order, while they are quantized.

    Arguments:
        graph: the working copy, which holds what is quantized so far.
        chunks: the data.
        sample_bytes: of the largest value of one sample.
    """

    def __init__(self, graph: Graph, chunks: Chunks, sample_bytes: int) -> None:
        self._graph = graph
        feeds = list(chunks.feeds(min(_SAMPLES, max(1, _BYTES // (_LIVE * sample_bytes)))))
        model = graph.model
        original = {tensor.name: graph.values(tensor.name) for tensor in model.graph.initializer}
        self._clean = Partwise(model, feeds, original.__getitem__)
        self._noisy = Partwise(model, feeds, lambda name: graph.encoding(name).values())
        self._uses = graph.linears()
        self._nodes = {name: index for index, node in reversed([*enumerate(model.graph.node)]) for name in node.input}

    def corrected(self, path: str, stats: Stats) -> Stats:
        """Statistics for the weight at `path`, whose values in the graph are now the target, and so is its bias.

        A weight without second moments, or with several uses, stays as it is; and one behind a part that does not run.
        """
        uses, moments = self._uses.get(path, ()), stats.moments
        if len(uses) != 1 or stats.linear is None or moments is None or not moments.has_whole:
            return stats
        linear, index = stats.linear, self._nodes[path]
        try:
            clean, noisy = ([values[linear.x] for values in side.before(index)] for side in (self._clean, self._noisy))
        except MemoryError:
            raise
        except Exception:  # the runtime's own types: a part does not run alone, so no weight behind it is corrected
            self._uses = {}
            return stats
        weight = self._graph.values(path)
        w = linear.matrix(weight.astype(np.float64))
        wanted, mean, change = _change(linear, clean, noisy, w.shape[2])
        target = w + w @ change
        if not np.isfinite(target).all():
            return stats
        self._graph.adjust(path, np.ascontiguousarray(linear.tensor(target)).astype(weight.dtype))
        if linear.bias is None:
            return stats
        bias = self._graph.values(linear.bias)
        shift = np.einsum("goi,gi->go", w, wanted) - np.einsum("goi,gi->go", target, mean)
        self._graph.adjust(linear.bias, (bias + shift.ravel()).astype(bias.dtype))
        return replace(stats, moments=replace(moments, mean=mean))


def _change(linear: Linear, clean: Sequence[Array], noisy: Sequence[Array], inputs: int
            ) -> tuple[Floats, Floats, Floats]:  # fmt: skip
    """Means of x and of x', ``[groups, inputs]``, and the share of ``(C - H') / H'``, ``[groups, inputs, inputs]``.

    C and H' are about the means if a bias can correct those.
    """
    most = max(_VECTORS, _A_COLUMN * inputs)
    samples, count = sum(map(len, clean)), 0
    sums: list[Floats] = []
    for before, after in zip(clean, noisy, strict=True):
        share = max(16, -(-most * len(before) // samples))
        x, y = (linear.inputs(value, share, np.random.default_rng(0)).astype(np.float32) for value in (before, after))
        found = (x.sum(1, dtype=np.float64), y.sum(1, dtype=np.float64), (x - y).swapaxes(1, 2) @ y,
                 y.swapaxes(1, 2) @ y)  # fmt: skip
        sums = [a + b for a, b in zip(sums, found, strict=True)] if sums else [one.astype(np.float64) for one in found]
        count += x.shape[1]
    wanted, mean, difference, second = (one / max(1, count) for one in sums)
    if linear.bias is not None:
        difference -= (wanted - mean)[:, :, None] * mean[:, None]
        second -= mean[:, :, None] * mean[:, None]
    damping = DAMPING * np.trace(second, axis1=1, axis2=2) / inputs
    second += np.maximum(damping, np.finfo(np.float64).tiny)[:, None, None] * np.eye(inputs)
    change = np.linalg.solve(second, difference.swapaxes(1, 2)).swapaxes(1, 2)
    return wanted, mean, _SHARE * count / (count + inputs) * np.asarray(change, np.float64)
