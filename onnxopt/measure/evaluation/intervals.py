"""Confidence intervals of shares, and whether two models differ significantly."""

from __future__ import annotations

from dataclasses import dataclass

import scipy

SIGNIFICANT = 0.05
"""Significance level: the probability of a difference as large by chance."""
_Z = 1.959963984540054
"""Standard errors on each side of a 95 % interval, of a normal distribution."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A measured value and its 95 % confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class McNemar:
    """Comparison of two models on the same samples: only samples that one model alone gets right count."""

    lost: int
    """Samples that only the other model gets right."""
    won: int
    """Samples that only this model gets right."""
    difference: Estimate
    """Accuracy of this model less that of the other: -0.01 is a loss of one point."""
    p: float
    """Probability of a difference as large between equally good models, by the exact McNemar test."""

    @property
    def verdict(self) -> str:
        """The result in words."""
        if self.lost == self.won == 0:
            return "no difference"
        if self.p >= SIGNIFICANT:
            return "no significant difference"
        return "worse" if self.lost > self.won else "better"


def share(hits: int, samples: int) -> Estimate:
    """`hits` of `samples`, with Wilson's score interval (Wilson 1927; Brown, Cai, DasGupta 2001, eq. 4)."""
    value, z2 = hits / samples, _Z**2
    centre = (hits + z2 / 2) / (samples + z2)
    half = _Z / (samples + z2) * (samples * value * (1 - value) + z2 / 4) ** 0.5
    return Estimate(value, max(0.0, centre - half), min(1.0, centre + half))


def paired(lost: int, won: int, samples: int) -> McNemar:
    """Compares two models by the samples that one of them alone gets right.

    The test is the exact McNemar test, a two-sided binomial test. The interval is Wald's with one sample added
    to `lost` and to `won`, which has 95 % coverage for few samples too (Bonett, Price 2012, eq. 4).
    """
    p = min(1.0, 2 * float(scipy.special.bdtr(min(lost, won), lost + won, 0.5)))
    down, up = (lost + 1) / (samples + 2), (won + 1) / (samples + 2)
    half = _Z * ((down + up - (up - down) ** 2) / (samples + 2)) ** 0.5
    low, high = max(-1.0, up - down - half), min(1.0, up - down + half)
    return McNemar(lost, won, Estimate((won - lost) / samples, low, high), p)
