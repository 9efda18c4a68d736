"""Weight sharing: a table of few values, and for every weight the index of its own.

k-means on the weights of a layer (Deep Compression: Han, Mao & Dally 2016), weighed by the Hessian's diagonal, with the
bits that indices cost after entropy coding, or with even borders (Choi, El-Khamy & Lee 2016).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self, get_args

import numpy as np
import numpy.typing as npt

from onnxopt import encoding
from onnxopt.calibration.stats import Stats
from onnxopt.encoding import Array
from onnxopt.graph import Graph, Site
from onnxopt.passes.base import Pass, correct_bias, finite, matrix
from onnxopt.passes.math.kmeans import Init, cluster, even

_MOST = 256


@dataclass(frozen=True, slots=True)
class Codebook(Pass):
    """``codebook{k=32}``: k values, zero among them where a weight is zero; zeros stay zeros.

    ``hessian=true`` weighs the error of each weight by the noise that it makes in the model's outputs: the gain of its
    layer times the power of its input. ``entropy=c`` charges c for a bit after entropy coding: in units of that noise
    with the Hessian, so that one c serves all layers, and of a weight's squared error without; k then is where the
    search for values begins. ``init`` says how (see `kmeans.cluster`).

    With a ``group="fc"`` all weights for which the same is decided share one table, as all layers do in Choi et al.

    With ``grid=d`` nothing is searched for: borders lie d apart, or as far as k values need, and weights between two of
    them share their mean, likewise weighed with the Hessian; those about zero become zero.
    """

    name: ClassVar[str] = "codebook"
    k: int = _MOST
    init: Init = "linear"
    hessian: bool = False
    entropy: float = 0.0
    grid: float = 0.0
    group: str = ""

    def __post_init__(self) -> None:
        if not (isinstance(self.k, int) and 2 <= self.k <= _MOST):
            raise ValueError(f"k is {self.k}, expected 2 to {_MOST}")
        if self.init not in get_args(Init):
            raise ValueError(f"init is {self.init!r}, expected {', '.join(get_args(Init))}")
        if not 0 <= self.entropy < float("inf"):
            raise ValueError(f"entropy is {self.entropy}, expected the price of a bit, or 0 for none")
        if not 0 <= self.grid < float("inf"):
            raise ValueError(
                f"grid is {self.grid}, expected the distance of borders, or 0 for values that are searched"
            )
        if self.grid and (self.k == 2 or self.entropy or self.init != "linear"):
            raise ValueError("a grid has 3 values or more, no entropy and no init")

    @classmethod
    def space(cls, site: Site, stats: Stats) -> Iterator[Self]:
        """One to eight bits for each index, fewest first; a table is no gain for a vector."""
        if site.axis is not None:
            yield from (cls(k=2**bits, hessian=stats.moments is not None) for bits in range(1, 9))

    def apply(self, graph: Graph, site: Site, stats: Stats) -> tuple[Site, ...]:
        """Stores table and indices, the most frequent value first, as codecs like it. Raises Skip for no numbers."""
        values = graph.encoding(site.path).values()
        finite(values)
        (leaf,) = self.shared([(values, stats)])
        _store(graph, site, stats, leaf)
        return ()

    def shared(self, weights: Sequence[tuple[Array, Stats]]) -> list[encoding.Codebook]:
        """One table for all of these weights, of one element type, and the indices of each."""
        importance = [self._importance(stats) if self.hessian else 1.0 for _, stats in weights]
        w = np.concatenate([values.astype(np.float64).ravel() for values, _ in weights])
        h: npt.ArrayLike = 1.0
        if self.hessian:
            h = np.concatenate([np.broadcast_to(np.asarray(one, np.float32), values.shape).ravel()
                                for (values, _), one in zip(weights, importance, strict=True)])  # fmt: skip
        index, table = even(w, self.k, self.grid, h) if self.grid else cluster(w, self.k, h, self.entropy, self.init)
        owner, table = _ordered(index, table.astype(weights[0][0].dtype))
        parts = np.split(owner, np.cumsum([values.size for values, _ in weights])[:-1])
        return [
            encoding.Codebook(part.reshape(values.shape), table)
            for part, (values, _) in zip(parts, weights, strict=True)
        ]

    def _importance(self, stats: Stats) -> Array | float:
        """Of an error in each weight, squared."""
        if stats.linear is None or stats.moments is None:
            return stats.gain
        outputs = stats.linear.matrix(np.empty(stats.linear.shape, np.bool_)).shape[1]
        power = np.repeat(stats.moments.power[:, None], outputs, 1)
        return np.asarray(stats.linear.tensor(power * np.float32(stats.gain)))


@dataclass(frozen=True, slots=True)
class Member(Codebook):
    """What a weight has of a table that others share with it."""

    leaf: encoding.Codebook | None = None

    def apply(self, graph: Graph, site: Site, stats: Stats) -> tuple[Site, ...]:
        """Stores that."""
        assert self.leaf is not None
        _store(graph, site, stats, self.leaf)
        return ()


def _store(graph: Graph, site: Site, stats: Stats, leaf: encoding.Codebook) -> None:
    w = graph.encoding(site.path).values().astype(np.float64)
    correct_bias(graph, matrix(w - leaf.values(), site, stats), stats)
    graph.store(site.path, leaf)


def _ordered(index: npt.NDArray[np.int32], table: Array) -> tuple[npt.NDArray[np.int32], Array]:
    """Values that the element type cannot tell apart become one, and the most frequent one comes first."""
    table, merged = np.unique(table, return_inverse=True)
    owner = merged.reshape(-1)[index]
    order = np.argsort(-np.bincount(owner.ravel(), minlength=len(table)), kind="stable")
    return np.argsort(order).astype(np.int32)[owner], table[order]
