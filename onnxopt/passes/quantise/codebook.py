"""Weight sharing: a table with few values, and an index for every weight.

The table comes from k-means on the weights of a layer (Deep Compression: Han, Mao & Dally 2016), optionally weighted by
the Hessian's diagonal or with the rate of entropy-coded indices, or from a uniform grid (Choi, El-Khamy & Lee 2016).
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
    """``codebook{k=32}``: k values. Zeros stay zeros; if there are any, zero is one of the k values.

    ``hessian=true`` weights the error of each weight by the noise that it adds to the model's outputs: the gain of its
    layer times the power of its input. ``entropy=c`` adds a cost of c per bit after entropy coding. With the Hessian, c
    is in units of output noise, so one c suits all layers; otherwise it is in units of squared weight error. k is then
    the initial number of values. ``init`` chooses the initial values (see `kmeans.cluster`).

    With ``group="fc"``, all weights with the same decision share one table, as all layers do in Choi et al.

    With ``grid=d`` there is no search: cells are d wide, or wider if k values do not suffice. The weights of a cell
    share their mean, weighted by the Hessian if requested; those of the cell around zero become zero.
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
        """Stores table and indices, with the most frequent value first, which suits the codecs. Raises Skip for
        NaNs."""
        values = graph.encoding(site.path).values()
        finite(values)
        (own,) = self.shared([(values, stats)])
        _store(graph, site, stats, own)
        return ()

    def shared(self, weights: Sequence[tuple[Array, Stats]]) -> list[encoding.Codebook]:
        """One table for all these weights, which share an element type, and the indices of each weight."""
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
        """Importance of the squared error of each weight."""
        if stats.linear is None or stats.moments is None:
            return stats.gain
        outputs = stats.linear.matrix(np.empty(stats.linear.shape, np.bool_)).shape[1]
        power = np.repeat(stats.moments.power[:, None], outputs, 1)
        return np.asarray(stats.linear.tensor(power * np.float32(stats.gain)))


@dataclass(frozen=True, slots=True)
class Member(Codebook):
    """The indices of one weight into a table shared with other weights."""

    own: encoding.Codebook | None = None

    def apply(self, graph: Graph, site: Site, stats: Stats) -> tuple[Site, ...]:
        """Stores the indices and the table."""
        assert self.own is not None
        _store(graph, site, stats, self.own)
        return ()


def _store(graph: Graph, site: Site, stats: Stats, own: encoding.Codebook) -> None:
    w = graph.encoding(site.path).values().astype(np.float64)
    correct_bias(graph, matrix(w - own.values(), site, stats), stats)
    graph.store(site.path, own)


def _ordered(index: npt.NDArray[np.int32], table: Array) -> tuple[npt.NDArray[np.int32], Array]:
    """Merges values that are equal in the element type and sorts them by frequency, most frequent first."""
    table, merged = np.unique(table, return_inverse=True)
    owner = merged.reshape(-1)[index]
    order = np.argsort(-np.bincount(owner.ravel(), minlength=len(table)), kind="stable")
    return np.argsort(order).astype(np.int32)[owner], table[order]
