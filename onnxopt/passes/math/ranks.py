"""Rank selection: the components of a weight that exceed noise, or that hold a share of its power."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import linalg

Floats = npt.NDArray[np.float64]

_GRID = 64
"""Noise variances on the grid that the search starts from, as the free energy has several minima."""

_DEAD = 0.03
"""Norm, as a share of the largest, below which a row or column is dead. Of the 2,211 input and output channels of
ResNet-32's kernels, 77 are below 0.02 and 8 more below 0.1."""


def spectrum(w: Floats, root: Floats | None = None) -> Floats:
    """Singular values of ``W L``, largest first; L as in `factors`."""
    return np.asarray(linalg.svdvals(w if root is None else w @ root))


def tail(values: Floats) -> Floats:
    """Root of the power that the ranks 0, 1, ..., n leave out of a spectrum of n values: [n + 1], down to 0."""
    return np.asarray(np.sqrt(np.append(np.cumsum(np.square(values[::-1]))[::-1], 0.0)))


def energy_rank(values: Floats, share: float) -> int:
    """The smallest rank that keeps this share of a spectrum's power, 0 to 1."""
    left = np.square(tail(values))
    return int(np.argmax(left <= (1 - share) * left[0] + 1e-12 * left[0]))


@dataclass(frozen=True, slots=True)
class Spectrum:
    """Empirical variational Bayes for a low-rank matrix with white noise, from its singular values alone.

    The global analytic solution: Nakajima, Sugiyama, Babacan & Tomioka 2013, "Global analytic solution of
    fully-observed variational Bayesian matrix factorization"; edge and free energy in the form of Nakajima, Tomioka,
    Sugiyama & Babacan 2012, "Perfect dimensionality recovery by variational Bayesian PCA".
    """

    squares: Floats
    """[rows]: squared singular values, largest first."""
    columns: int
    """At least the number of rows."""

    @classmethod
    def of(cls, w: Floats) -> Spectrum:
        """The spectrum of a matrix of any shape; singular values are at least the rounding error."""
        values = spectrum(w)
        smallest = max(w.shape) * np.finfo(np.float64).eps * float(values[0])
        return cls(np.square(np.maximum(values, smallest)), max(w.shape))

    @property
    def aspect(self) -> float:
        """Rows over columns, at most 1."""
        return len(self.squares) / self.columns

    @property
    def edge(self) -> float:
        """The threshold on ``x = square / (columns variance)`` above which components are kept.

        It is ``(1 + t) (1 + a / t)``, where a is the aspect and t the root of ``f(t) + f(t / a)``,
        ``f(z) = log(z + 1) / z - 1 / 2``; for a square matrix t is 2.5129.
        """
        from scipy import optimize  # noqa: PLC0415 (slow to import, and rarely needed)

        a = self.aspect

        def f(z: float) -> float:
            return float(np.log1p(z) / z - 0.5)

        t = float(optimize.brentq(lambda t: f(t) + f(t / a), 1e-9, 3.0))
        return (1 + t) * (1 + a / t)

    def free_energy(self, variance: float) -> float:
        """Free energy of the best factorisation for a noise variance, up to a constant."""
        a, x = self.aspect, self.squares / (self.columns * variance)
        kept = x[x > self.edge]
        t = (kept - (1 + a) + np.sqrt(np.square(kept - (1 + a)) - 4 * a)) / 2
        return float((x - np.log(x)).sum() + (np.log1p(t) + a * np.log1p(t / a) - t).sum())

    def variance(self) -> float:
        """The noise variance of least free energy, between the bounds of the papers."""
        from scipy import optimize  # noqa: PLC0415 (slow to import, and rarely needed)

        rows, squares = len(self.squares), self.squares
        most = int(np.ceil(rows / (1 + self.aspect))) - 1  # most components that are distinguishable from noise
        low = max(squares[most] / (self.columns * self.edge), squares[most:].mean() / self.columns)
        high = squares.mean() / self.columns
        if low >= high:
            return float(high)
        grid = np.geomspace(low, high, _GRID)
        best = int(np.argmin([self.free_energy(variance) for variance in grid]))
        around = grid[max(best - 1, 0)], grid[min(best + 1, _GRID - 1)]
        found = optimize.minimize_scalar(self.free_energy, bounds=around, method="bounded")
        return float(found.x)

    def rank(self, variance: float) -> int:
        """Number of components that exceed noise of this variance."""
        return int((self.squares > self.columns * variance * self.edge).sum())


def evbmf(w: Floats) -> int:
    """The rank of ``w[m, n]`` under white noise of unknown variance; 0 if all of it is noise.

    Global analytic solution of empirical variational Bayesian matrix factorization; see `Spectrum`. Dead rows and
    columns are left out, as they would lower the estimate of the noise.
    """
    if not w.any():
        return 0
    for axis in (0, 1):
        norms = np.linalg.norm(w, axis=1 - axis)
        w = np.compress(norms > _DEAD * norms.max(), w, axis)
    known = Spectrum.of(w)
    return known.rank(known.variance())
