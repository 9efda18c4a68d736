"""The one rule by which samples decide on a drop of the metric: in the search, and in the check of the finished file.

A file is *safe* if, with the asked confidence, new samples drop by no more than is allowed. It has *failed* if, with
the same confidence, they drop by more. In between the samples cannot tell. The search keeps safe files only; the check,
which may have other samples, refuses what has failed. So neither takes a chance flip for a loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log10
from statistics import NormalDist
from typing import Protocol

_CHANCE = 2.0
"""Standard errors of a counted drop that may be chance, at every confidence."""
_CAUTIOUS = 0.3
"""Share of the allowed drop that may go to not knowing it before a file counts as cautious."""


class Evidence(Protocol):
    """What was measured of a drop: a `Trial` or a `Comparison`."""

    @property
    def drop(self) -> float | None:
        """As counted on the samples."""

    @property
    def spread(self) -> float:
        """Standard error of the counted drop, from the paired differences of the samples."""

    @property
    def likely(self) -> float | None:
        """The expected drop on new samples; None without an estimate besides the counted one."""

    @property
    def uncertainty(self) -> float:
        """Standard error of the expected drop."""


@dataclass(frozen=True, slots=True)
class Promise:
    """A drop that new samples exceed at most with probability ``1 - confidence``."""

    allowed: float
    confidence: float

    @property
    def margin(self) -> float:
        """Standard errors between the expected drop and either end of its interval."""
        return NormalDist().inv_cdf(self.confidence)

    def interval(self, found: Evidence) -> tuple[float, float] | None:
        """Lower and upper confidence limits of the drop, each one-sided; None if it was not measured."""
        if found.drop is None:
            return None
        expected = max(found.drop, 0.0) if found.likely is None else found.likely  # noise improves no model
        return expected - self.margin * found.uncertainty, expected + self.margin * found.uncertainty

    def safe(self, found: Evidence) -> bool:
        """Whether a file keeps the promise. Where no drop is allowed, the counted drop alone decides."""
        limits = self.interval(found)
        if limits is None or self.allowed == 0:
            return _within(found.drop, self.allowed)
        return _within(limits[1], self.allowed) and not self._counted_more(found)

    def failed(self, found: Evidence) -> bool:
        """Whether a file breaks the promise."""
        limits = self.interval(found)
        if limits is None or self.allowed == 0:
            return not _within(found.drop, self.allowed)
        return not _within(limits[0], self.allowed) or self._counted_more(found)

    def outlook(self, samples: int, error: float) -> str:
        """What a number of samples can tell of the allowed drop, in a sentence.

        Arguments:
            error: standard error with which they tell it.
        """
        reach = self.margin * error
        said = f"{samples:,} samples tell a drop of {self.allowed:g} to +-{reach:.2g}"
        if reach <= _CAUTIOUS * self.allowed:
            return said
        enough = samples * (reach / (_CAUTIOUS * self.allowed)) ** 2
        digits = 10 ** max(0, int(log10(enough)) - 1)
        return f"{said}: the file will be cautious; {ceil(enough / digits) * digits:,} would be enough"

    def _counted_more(self, found: Evidence) -> bool:
        """Whether the counted drop, which assumes nothing, contradicts the promise."""
        return not (found.drop is not None and _within(found.drop - _CHANCE * found.spread, self.allowed))


def _within(drop: float | None, allowed: float) -> bool:
    """Whether a drop is within `allowed`, up to rounding errors; NaN is not."""
    return drop is not None and drop <= allowed * (1 + 1e-9)
