"""How long a round of training goes on."""

from __future__ import annotations

import time
from collections.abc import Callable

from onnxopt.spec.tuning import Tuning


class Budget:
    """Shares a limit among rounds. Of a limit in seconds, what one round leaves goes to the others."""

    def __init__(self, limit: Tuning, rounds: int) -> None:
        self.rounds = rounds if limit.epochs is None else min(rounds, limit.epochs)
        """Rounds, each of one pass over the data at least."""
        self._limit, self._left, self._started = limit, self.rounds, time.monotonic()

    def next_round(self, updates: int) -> Callable[[int], float]:
        """Begins a round. Returns the share of it that is over after a number of updates; at 1 it ends.

        Arguments:
            updates: of one pass over the data.
        """
        begun, left = time.monotonic(), max(1, self._left)
        self._left -= 1
        if self._limit.seconds is None:
            total = updates * max(1, (self._limit.epochs or 1) // self.rounds)
            return lambda done: done / total
        seconds = max((self._started + self._limit.seconds - begun) / left, 1e-9)
        return lambda done: (time.monotonic() - begun) / seconds
