"""Shares of phases as shares of time: what a progress bar needs to tell the time left."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from onnxopt import native
from onnxopt.spec.progress import Progress

_ENDS = (0.0, 0.18, 0.2, 0.4, 0.9, 0.95, 1.0)
"""Shares between which the phases of `optimize` lie, as rooms below tell them: see `Seconds`."""
_SURE = 0.3
"""Share of a phase after which only its own pace counts."""
_WEIGHT = 64, 288
"""Of the random weight."""
_MOMENTS, _GRADIENT, _PREPARED, _BUILD, _TRIALS = 2.0, 5.0, 1.0, 2.0, 2.5
"""Times that running the source takes: for the moments of a sample; for its gradients; for preparing these, by nodes.
Times that quantizing takes, for coding and loading as well. Trials of a search."""


@dataclass(frozen=True, slots=True)
class Seconds:
    """How long the phases of a run take, in seconds."""

    moments: float
    """The data, streamed through the model."""
    fitting: float
    """What is made of the sums."""
    gains: float
    search: float
    writing: float
    checking: float

    @property
    def phases(self) -> tuple[float, ...]:
        """In order."""
        return self.moments, self.fitting, self.gains, self.search, self.writing, self.checking


@dataclass(frozen=True, slots=True)
class Size:
    """What the times of a run depend on."""

    calibration: int
    """Samples of the calibration data."""
    gradients: int
    """Of them, those that gradients take."""
    compared: int
    """Samples on which files are compared."""
    each: float
    """Seconds for reading a sample and running the source on it."""
    elements: int
    """Of all weights that may be quantized."""
    nodes: int


def expected(size: Size) -> Seconds:
    """What phases take as a rule, until their own pace shows: multiples of running the source, and of quantizing a
    small random weight here and now."""
    generator = np.random.default_rng(0)
    weight, row = generator.standard_normal((1, *_WEIGHT)), np.full((1, _WEIGHT[0]), 0.1)
    began = time.perf_counter()
    native.quantize(weight, None, np.ones((1, _WEIGHT[1])), row, 0.01 * row)
    build = _BUILD * (time.perf_counter() - began) / weight.size * size.elements
    compare = size.compared * size.each
    return Seconds(
        _MOMENTS * size.calibration * size.each,
        0.0,
        _GRADIENT * size.gradients * size.each + _PREPARED * size.nodes * size.each,
        _TRIALS * (build + compare),
        build,
        build + compare,
    )


_USUAL = Seconds(35, 2, 25, 25, 4, 9)
"""Proportions where nothing is measured."""


class Schedule:
    """A `Progress` that passes on shares of the time, as far as it can be told, instead of shares of phases.

    Where more trials are needed than were expected, the share falls.

    Arguments:
        tell: what is told.
        now: seconds of a monotonic clock.
    """

    def __init__(self, tell: Progress, now: Callable[[], float] = time.monotonic) -> None:
        self._tell, self._now = tell, now
        self._expected: Seconds | None = None
        self._last: tuple[str, float] | None = None
        self._phase, self._began, self._entered = 0, -1.0, 0.0
        self._spent = [0.0] * len(_USUAL.phases)
        self._until = 0.0

    def expect(self, seconds: Seconds) -> None:
        """What the phases are expected to take; passes on the share anew."""
        self._expected = seconds
        if self._last is not None:
            self(*self._last)

    def pause(self, seconds: float) -> None:
        """What is done now is none of the phases, and takes so long; the current phase begins after it."""
        self._entered = self._now()
        self._until = self._entered + seconds

    def __call__(self, what: str, share: float) -> None:
        """See `Progress`; shares as the rooms below tell them."""
        self._last = what, share
        now, phase = self._now(), phase_of(share)
        if self._began < 0:
            self._began = self._entered = now
        if phase != self._phase:
            self._spent[self._phase] = now - self._entered
            self._phase, self._entered = phase, now
        start, end = _ENDS[phase], _ENDS[phase + 1]
        left = max(0.0, self._until - now) + self._left(
            max(0.0, now - self._entered), min(1.0, (share - start) / (end - start))
        )
        passed = now - self._began
        self._tell(what, 1.0 if share >= 1 else passed / max(passed + left, 1e-9))

    def _left(self, spent: float, done: float) -> float:
        """Seconds left after so many in a phase of which a share is done: by its own pace, and what later phases are
        expected to take. (Their pace says little of each other: some run the model, some do algebra.)"""
        phases, scale = (self._expected or _USUAL).phases, 1.0
        if not self._expected:  # proportions only
            seen, meant = (
                sum(self._spent[: self._phase]) + spent,
                sum(phases[: self._phase]) + phases[self._phase] * done,
            )
            scale = seen / meant if meant > 0 else 0.0
        expected = scale * phases[self._phase]
        own = max((1 - done) * expected, expected - spent)
        if done > 0:
            sure = min(1.0, done / _SURE)
            own = (1 - sure) * own + sure * spent * (1 - done) / done
        return own + scale * sum(phases[self._phase + 1 :])


def phase_of(share: float) -> int:
    """The phase that a share as rooms tell it lies in: an index of `Seconds.phases`."""
    return next((i for i, (_, end) in enumerate(pairwise(_ENDS)) if share < end), len(_ENDS) - 2)
