"""What calibration knows of a site."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stats:
    """Statistics of one site. Without data there are none, and passes work from the weights alone."""


NO_STATS = Stats()
