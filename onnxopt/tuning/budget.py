"""How long a training goes on."""

from __future__ import annotations

import time
from collections.abc import Callable

from onnxopt.spec.tuning import Tuning

_SHORTEST = 500
"""Updates of a training, at least, where no limit is given."""

_PASSES, _UPDATES = 2, 1500
"""Over the data, in a training, and updates of it where seconds are given, where that leaves one round at least. After
less than one pass, weights are worse than they were; after few updates, they are hardly better."""
_MINUTES = 120
"""Seconds from which minutes are said."""


class Budget:
    """Shares a limit among trainings. Of a limit in seconds, what one training leaves goes to the others.

    Without a limit, each has some passes, whose number `lengthen` doubles.

    Arguments:
        rounds: at most.
        stages: trainings of each round.
    """

    def __init__(self, limit: Tuning, rounds: int, stages: int = 1) -> None:
        self.is_open, self.is_timed = limit.is_open, limit.seconds is not None
        self.stages = stages
        """Trainings of each round."""
        self._limit, self._most = limit, rounds
        self._started, self._longer = time.monotonic(), 1
        self.take(rounds if limit.epochs is None else limit.epochs // (_PASSES * stages))

    def rounds_of(self, updates: int, pass_seconds: float) -> int:
        """How many there is time for, if a pass over the data has so many updates and takes so long."""
        passes = self.stages * max(_PASSES, _UPDATES / updates)
        return round((self._limit.seconds or 0.0) / max(passes * pass_seconds, 1e-9))

    def take(self, rounds: int) -> None:
        """Divides the limit by so many rounds; by one at least."""
        self.rounds = max(1, min(self._most, rounds))
        """Slopes to tune at."""
        self._total = self._left = self.rounds * self.stages

    def passes(self, updates: int) -> int:
        """Over the data, of the next training, where no time is given.

        Arguments:
            updates: of one pass.
        """
        if self.is_open:
            return -(-_SHORTEST // updates) * self._longer
        return max(1, (self._limit.epochs or 1) // self._total)

    def next_training(self, updates: int, seconds_before: float = 0.0) -> Callable[[int], float]:
        """Begins a training. Returns the share of it that is over after a number of updates; at 1 it ends.

        Arguments:
            updates: of one pass over the data.
            seconds_before: that an earlier run has spent on this training.
        """
        self._started -= seconds_before
        begun, left = time.monotonic() - seconds_before, max(1, self._left)
        self._left -= 1
        if self._limit.seconds is None:
            total = updates * self.passes(updates)
            return lambda done: done / total
        seconds = max((self._started + self._limit.seconds - begun) / left, 1e-9)
        return lambda done: (time.monotonic() - begun) / seconds

    def seconds_left(self, share: float, passed: float) -> float:
        """Until all trainings have ended; until these rounds have, where the limit is open.

        Arguments:
            share: of the current training, that is over.
            passed: seconds that this has taken.
        """
        if self._limit.seconds is not None:
            return max(0.0, self._started + self._limit.seconds - time.monotonic())
        return passed / share * (1 - share + self._left)

    def lengthen(self) -> None:
        """Begins as many rounds again, in each of which trainings are twice as long."""
        self._left, self._longer = self._total, 2 * self._longer


def duration(seconds: float) -> str:
    """In words."""
    return f"{seconds:.0f} s" if seconds < _MINUTES else f"{seconds / 60:.0f} min"
