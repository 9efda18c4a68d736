"""What statistics may take: memory, how much of the data is used, and where."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import exp, log

from onnxopt.pool import Pool, Threads
from onnxopt.spec.effort import Effort


@dataclass(frozen=True, slots=True)
class Use:
    """How much of the data is used."""

    least_rows: int
    """Input vectors of one weight that suffice..."""
    rows_a_column: int
    """...or this many for each of its inputs, whichever is more."""
    gradients: int
    """Chunks of data for gradients..."""
    gradients_a_law: int
    """...and fewest of each law, if there are several."""
    widest: int | None = None
    """Most inputs of a weight that know each other; None: as many as memory holds."""
    rows_wanted: float | None = None
    """Input vectors for each input of a weight for which samples are taken; None: all samples."""

    def rows(self, columns: int) -> int:
        """Input vectors that suffice for a weight with so many inputs."""
        return max(self.least_rows, self.rows_a_column * columns)


EVERYTHING = Use(32768, 16, 24, 8)
_USES = {Effort.DEFAULT: EVERYTHING, Effort.BEST: EVERYTHING, Effort.FAST: Use(1024, 8, 4, 2, 1024, 1)}
_LEAST, _MOST = 32, 1024
"""Samples that are taken where not all are."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What statistics may take."""

    max_ram: int
    """Bytes that second moments may take at a time; if they take more, the data is read several times."""
    effort: Effort = Effort.DEFAULT
    corrects: bool = False
    """Whether weights make up for the noise of the layers before them; see `Targets`."""
    pool: Pool = field(default_factory=Threads)
    """Where statistics are measured."""
    stands_for: int = 0
    """Samples of which the data is the first few, for an estimate of the time; 0: it is all."""

    @property
    def use(self) -> Use:
        """How much of the data is used."""
        return _USES[self.effort]

    def samples(self, weights: Iterable[tuple[int, int, float]]) -> int | None:
        """Samples to measure moments on; None for all.

        A fully connected layer sees one vector of a sample, a convolution one at each position. So networks differ in
        what they need; the geometric mean over the elements of their weights is taken.

        Arguments:
            weights: elements, inputs, and vectors that a sample has, of each weight.
        """
        wanted = self.use.rows_wanted
        if wanted is None:
            return None
        total, needed = 0, 0.0
        for elements, inputs, vectors in weights:
            total += elements
            needed += elements * log(min(_MOST, max(_LEAST, wanted * inputs / vectors)))
        return round(exp(needed / total)) if total else _LEAST
