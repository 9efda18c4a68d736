"""How many components of a weight are more than noise, or hold most of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import linalg

Floats = npt.NDArray[np.float64]

_GRID = 64
"""Noise variances that are looked at before the best is refined: the free energy has several minima."""

_DEAD = 0.03
"""Norm, as a share of the largest, of a row or a column that counts as none. Of the 2,211 input and output channels
of ResNet-32's kernels 77 are below 0.02 and 8 more below 0.1."""


def spectrum(w: Floats, root: Floats | None = None) -> Floats:
    """Singular values of ``W L``, largest first; L as in `factors`."""
    return np.asarray(linalg.svdvals(w if root is None else w @ root))


def tail(values: Floats) -> Floats:
    """Root of the power that the ranks 0, 1, 2, ... leave out, of a spectrum of n values: [n + 1], from all to 0."""
    return np.asarray(np.sqrt(np.append(np.cumsum(np.square(values[::-1]))[::-1], 0.0)))


def energy_rank(values: Floats, share: float) -> int:
    """The smallest rank that keeps this share of a spectrum's power, 0 to 1."""
    left = np.square(tail(values))
    return int(np.argmax(left <= (1 - share) * left[0] + 1e-12 * left[0]))


@dataclass(frozen=True, slots=True)
class Spectrum:
    """Empirical variational Bayes on a matrix of low rank and white noise, by its singular values alone.

    The global analytic solution: Nakajima, Sugiyama, Babacan & Tomioka 2013, "Global analytic solution of
    fully-observed variational Bayesian matrix factorization"; edge and free energy in the form of Nakajima, Tomioka,
    Sugiyama & Babacan 2012, "Perfect dimensionality recovery by variational Bayesian PCA".
    """

    squares: Floats
    """Of the singular values, largest first, [rows]."""
    columns: int
    """At least as many as rows."""

    @classmethod
    def of(cls, w: Floats) -> Spectrum:
        """Of a matrix of any shape. What rounding made of exact zeros counts as no less than rounding."""
        values = spectrum(w)
        smallest = max(w.shape) * np.finfo(np.float64).eps * float(values[0])
        return cls(np.square(np.maximum(values, smallest)), max(w.shape))

    @property
    def aspect(self) -> float:
        """Rows over columns, at most 1."""
        return len(self.squares) / self.columns

    @property
    def edge(self) -> float:
        """Of ``x = square / (columns variance)``: components above it are kept.

        It is ``(1 + t) (1 + a / t)`` with a the aspect and t the root of ``f(t) + f(t / a)``,
        ``f(z) = log(z + 1) / z - 1 / 2``; for a square matrix t is 2.5129.
        """
        from scipy import optimize  # noqa: PLC0415 (slow to import, and rarely needed)

        a = self.aspect

        def f(z: float) -> float:
            return float(np.log1p(z) / z - 0.5)

        t = float(optimize.brentq(lambda t: f(t) + f(t / a), 1e-9, 3.0))
        return (1 + t) * (1 + a / t)

    def free_energy(self, variance: float) -> float:
        """Of the best factorization at a variance of the noise, up to a constant."""
        a, x = self.aspect, self.squares / (self.columns * variance)
        kept = x[x > self.edge]
        t = (kept - (1 + a) + np.sqrt(np.square(kept - (1 + a)) - 4 * a)) / 2
        return float((x - np.log(x)).sum() + (np.log1p(t) + a * np.log1p(t / a) - t).sum())

    def variance(self) -> float:
        """Of the noise: where the free energy is least, between the bounds that the papers give."""
        from scipy import optimize  # noqa: PLC0415 (slow to import, and rarely needed)

        rows, squares = len(self.squares), self.squares
        most = int(np.ceil(rows / (1 + self.aspect))) - 1  # components that can be told from noise
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
        """Components that are more than noise of this variance."""
        return int((self.squares > self.columns * variance * self.edge).sum())


def evbmf(w: Floats) -> int:
    """The rank of ``w[m, n]`` under white noise of unknown variance; 0 where all is noise.

    Global analytic solution of empirical variational Bayesian matrix factorization; see `Spectrum`. Rows and columns
    that are all but zero are left out: dead channels, whose residue would be taken for the noise of all.
    """
    if not w.any():
        return 0
    for axis in (0, 1):
        norms = np.linalg.norm(w, axis=1 - axis)
        w = np.compress(norms > _DEAD * norms.max(), w, axis)
    known = Spectrum.of(w)
    return known.rank(known.variance())
