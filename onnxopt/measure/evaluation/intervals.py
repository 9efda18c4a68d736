"""How certain a share is, and whether two models differ by more than chance."""

from __future__ import annotations

from dataclasses import dataclass

from scipy.special import bdtr, ndtri

SIGNIFICANT = 0.05
"""A difference counts where chance alone would make one as large less often than this."""
_Z = float(ndtri(0.975))
"""Standard errors on each side of a 95 % interval."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What was measured, and the 95 % confidence interval of what it estimates."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class McNemar:
    """A model against another on the same samples: only those count that just one of the two got right."""

    lost: int
    """Samples that only the other model got right."""
    won: int
    """Samples that only this model got right."""
    difference: Estimate
    """Of the accuracies, this model's less the other's: -0.01 is a point lost."""
    p: float
    """How often chance would make a difference as large between two models equally good; exact McNemar test."""

    @property
    def verdict(self) -> str:
        """In words."""
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
    """Compares two models by the samples that just one of them got right.

    The test is McNemar's, exact: of `lost + won` coins, as few or fewer heads, both ways. The interval is Wald's with
    one sample more in `lost` and in `won`, which keeps its 95 % for few samples too (Bonett, Price 2012, eq. 4).
    """
    p = min(1.0, 2 * float(bdtr(min(lost, won), lost + won, 0.5)))
    down, up = (lost + 1) / (samples + 2), (won + 1) / (samples + 2)
    half = _Z * ((down + up - (up - down) ** 2) / (samples + 2)) ** 0.5
    low, high = max(-1.0, up - down - half), min(1.0, up - down + half)
    return McNemar(lost, won, Estimate((won - lost) / samples, low, high), p)
