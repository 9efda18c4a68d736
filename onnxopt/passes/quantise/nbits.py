"""Weight-only quantization: matrices keep 4 or 8 bits at run time, with one scale per block of inputs.

ONNX Runtime multiplies by them in MatMulNBits (`graph/rewrite/matmul_nbits.py`). Error feedback chooses the integers,
as in GPTQ with groups of columns (Frantar et al. 2022, arXiv 2210.17323, sections 3 and 4). Each block in turn gets its
scales, from weights corrected for the errors of the previous blocks, and then its integers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt
from scipy.linalg import solve_triangular

from onnxopt import native
from onnxopt.calibration.stats import Moments, Stats
from onnxopt.encoding import STEPS_PER_OCTAVE, Blockwise, nearest_log_step, step_of
from onnxopt.graph import Graph, Site
from onnxopt.graph.rewrite import matmul_nbits
from onnxopt.passes.base import Pass, Skip, correct_bias, finite, matrix

Weights = npt.NDArray[np.float32]
Chosen = tuple[npt.NDArray[np.int8], npt.NDArray[np.int16]]
"""Integers and logarithms of scales, as `Blockwise` has them."""

_BITS = (4, 8)
_BLOCKS = (16, 32, 64, 128, 256)
"""Block sizes that the operator's kernels support in every version. ONNX Runtime 1.26 returns zeros for some larger
ones (its issue 28551)."""


@dataclass(frozen=True, slots=True)
class NBits(Pass):
    """``nbits{bits=4,block=32}``: a matrix product becomes MatMulNBits, which reads fewer bytes.

    Fewer bits or larger blocks give smaller and coarser weights. With 8 bits, the model needs ONNX Runtime 1.22.
    """

    name: ClassVar[str] = "nbits"
    bits: int = 4
    block: int = 32

    def __post_init__(self) -> None:
        if self.bits not in _BITS:
            raise ValueError(f"bits is {self.bits}, expected 4 or 8")
        if self.block not in _BLOCKS:
            raise ValueError(f"block is {self.block}, expected {', '.join(map(str, _BLOCKS))}")

    @classmethod
    def space(cls, site: Site, stats: Stats) -> Iterator[Self]:
        """Both widths, with large and small blocks. No decisions if the weight is in no known matrix product."""
        if (
            stats.linear is not None
            and site.op in ("MatMul", "Gemm")
            and len(site.shape) == 2
            and site.axis is not None
        ):
            inputs = site.shape[1 - site.axis]
            yield from (cls(bits, block) for bits in _BITS for block in (128, 32) if block <= inputs)

    def apply(self, graph: Graph, site: Site, stats: Stats) -> tuple[Site, ...]:
        """Stores integers and scales. Raises Skip if the operator cannot replace the node.

        The result of an earlier step is rounded without feedback, which would restore pruned weights.
        """
        if reason := matmul_nbits.obstacle(graph.model, site.path, self.bits):
            raise Skip(f"stays in floats: {reason}")
        values = graph.encoding(site.path).values()
        w = matrix(finite(values), site, stats)[0].astype(np.float32)
        if w.shape[1] < self.block:
            raise Skip(f"stays in floats: {w.shape[1]} inputs, fewer than a block of {self.block}")
        found, moments = self._plain(w, stats.moments), stats.moments
        error = self._error(w, *found)
        feedback = None if moments is None else moments.whole()
        if moments is not None and feedback is not None and site.path not in graph.encodings:
            fed = self._fed(w, moments, feedback[0])
            other = self._error(w, *fed)
            if not moments.held_back.shape[1] or moments.noise(other) < moments.noise(error):
                found, error = fed, other
        correct_bias(graph, error, stats)
        graph.store(site.path, Blockwise(*found, self.bits, self.block, across=site.axis == 1))
        return ()

    def _plain(self, w: Weights, moments: Moments | None) -> Chosen:
        """Rounds each weight to the nearest level."""
        power = np.ones(w.shape[1], np.float32) if moments is None else moments.power[0]
        k = np.stack([self._scales(w[:, part], power[part]) for part in self._parts(w.shape[1])], 1)
        return np.rint(w / self._steps(k, w.shape[1])).clip(-self._top, self._top).astype(np.int8), k

    def _fed(self, w: Weights, moments: Moments, feedback: Weights) -> Chosen:
        """Rounds each weight with error feedback from the previous ones."""
        outputs, inputs = w.shape
        q, k = np.zeros(w.shape, np.int8), np.zeros((outputs, -(-inputs // self.block)), np.int16)
        left, errors = w.copy(), np.zeros_like(w)
        options = native.QuantizerOptions(self._top, sweeps=1)

        def choose(first: int, last: int) -> None:
            """Quantizes these blocks, by recursive halving, so that errors and feedback are multiplied as large
            matrices."""
            if last - first > 1:
                middle = (first + last) // 2
                before = slice(first * self.block, middle * self.block)
                after = slice(middle * self.block, last * self.block)
                choose(first, middle)
                left[:, after] += errors[:, before] @ feedback[before, after]
                choose(middle, last)
                return
            part = slice(first * self.block, last * self.block)
            own, variance = feedback[part, part], moments.variance[0, part]
            k[:, first] = self._scales(left[:, part], variance)
            step = step_of(k[:, first])
            q[:, part], _, _ = native.quantize(left[:, part], own, variance, step, 0, options)
            # The error of each column, including those of the previous columns: e (I - F) = w - q.
            wrong = left[:, part] - q[:, part] * step[:, None]
            errors[:, part] = solve_triangular(np.eye(len(own)) - own, wrong.T, trans=1, unit_diagonal=True).T

        choose(0, k.shape[1])
        return q, k

    @property
    def _top(self) -> int:
        return (1 << self.bits - 1) - 1

    def _parts(self, inputs: int) -> Iterator[slice]:
        return (slice(at, at + self.block) for at in range(0, inputs, self.block))

    def _scales(self, w: Weights, power: Weights) -> npt.NDArray[np.int16]:
        """For each row of one block, the scale with the least error. The largest weights may saturate."""
        largest = np.abs(w).max(1).astype(np.float64)
        largest[largest == 0] = largest.max() or 1.0
        coarsest = nearest_log_step(largest / self._top) + 1
        best, least = coarsest, np.full(len(w), np.inf)
        for finer in range(STEPS_PER_OCTAVE + 1):
            step = step_of(coarsest - np.int16(finer))[:, None]
            error = w - step * np.rint(w / step).clip(-self._top, self._top)
            cost = np.square(error) @ power
            best, least = np.where(cost < least, coarsest - finer, best), np.minimum(cost, least)
        return best.astype(np.int16)

    def _steps(self, k: npt.NDArray[np.int16], inputs: int) -> Weights:
        """The step of each weight."""
        return np.repeat(step_of(k), self.block, 1)[:, :inputs]

    def _error(self, w: Weights, q: npt.NDArray[np.int8], k: npt.NDArray[np.int16]) -> Weights:
        """The rounding error as ``[1, outputs, inputs]``."""
        return (w - q * self._steps(k, w.shape[1]))[None]
