"""What a bit costs while weights are trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import exp, log

_REACHED = 0.6
"""Share of the training after which the integers shall have their number of bits."""
_AT_ONCE, _IN_TIME = 20.0, 40.0
"""Answers of the price to a relative excess of bits: proportional, and added up over the training. A weaker answer
leaves the files of deep models too large, and cutting them afterwards undoes the training."""
_MARKS = (0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9)
"""Shares of the training at which the file is measured: codes are not as long as foretold."""
_FILL = 0.995
"""Share of the size that the training aims at."""
_FURTHEST = log(100)
"""Logarithm of the most that the price may be above or below that of the plan."""


class Price:
    """The price of a bit, in noise over signal.

    A step d makes noise ``d^2 / 12``, which a further bit divides by four, so at the slope c of a plan noise falls by
    ``2 ln2 c`` with each bit (Gish & Pierce 1968). Tuning at this price finds a better point, not another one.

    Where the size of the file is given, the price follows from it: it rises while integers have too many bits, and
    falls while they have too few.

    Arguments:
        slope: of the plan.
        size: of the file in bytes, at most; None where the price stays as it is.
        measured: gives the size of the file that the integers make as they are.
    """

    def __init__(self, slope: float, size: int | None = None, measured: Callable[[], int] | None = None) -> None:
        self._usual, self._size, self._measured = 2 * log(2) * slope, size, measured
        self._marks = list(_MARKS)
        self._first = self._beside = self._done = self._sum = self._now = 0.0

    @property
    def value(self) -> float:
        """Of a bit."""
        return self._usual * exp(self._now)

    @property
    def state(self) -> list[float]:
        """What a checkpoint keeps."""
        return [self._first, self._beside, self._done, self._sum, self._now, len(self._marks)]

    @state.setter
    def state(self, kept: Sequence[float]) -> None:
        self._first, self._beside, self._done, self._sum, self._now, left = map(float, kept)
        self._marks = list(_MARKS[len(_MARKS) - int(left) :])

    def look(self, bits: float, done: float) -> None:
        """Follows the bits of all integers after a share of the training."""
        if self._size is None or self._measured is None:
            return
        if self._marks and done >= self._marks[0]:
            self._beside = 8 * self._measured() - bits
            self._first = self._first or bits
            self._marks = [mark for mark in self._marks if mark > done]
        late, passed, self._done = min(1.0, done / _REACHED), done - self._done, done
        wanted = max(8 * _FILL * self._size - self._beside, 1.0)
        most = max(wanted, self._first ** (1 - late) * wanted**late)
        excess = log(bits / most)
        self._sum = min(max(self._sum + _IN_TIME * passed * excess, -_FURTHEST), _FURTHEST)
        self._now = min(max(self._sum + _AT_ONCE * excess, -_FURTHEST), _FURTHEST)
