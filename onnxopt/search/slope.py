"""Finds the slope that a contract asks for. Knows numbers, no graphs.

One slope for all weights: each is made coarser until a byte less would cost the outputs the same, wherever it is taken
(equal slopes are the optimum of a sum under a sum: Shoham & Gersho 1988). What is left is to find one number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, inf, log, log2, sqrt

MOST_TRIALS = 14
ANYWHERE = (0.0, inf)
_STRIDE = 4.0
_FLAT, _STRIDES = 0.05, 2
"""Change of excess over so many strides, each of them: with less, what is left is not the weights' noise."""
_NARROW = 1.06
"""Slopes that are this near to each other give files that differ by about one percent."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """What the search weighs: one weight that may be made coarser."""

    path: str
    elements: int
    power: float
    """What one element contributes to the power of the model's outputs, relative to it, in the mean; more than 0."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One slope, tried."""

    slope: float
    size: int
    """Bytes of the file."""
    error: float | None
    """Noise over signal of the outputs on the validation part; None where that was not asked for."""
    drop: float | None
    """Of the metric on the validation part; None where there is no metric."""
    uncertainty: float = 0.0
    """Standard error of the drop."""
    likely: float | None = None
    """What the drop is on samples like these in the mean, where that can be told."""


def expected_bits(candidates: Sequence[Candidate], slope: float) -> float:
    """Bits for all weights at a slope: each element takes ``log2(1 + power / slope) / 2``, as a Gaussian would."""
    return sum(c.elements * log2(1 + c.power / slope) / 2 for c in candidates)


def expected_error(candidates: Sequence[Candidate], slope: float) -> float:
    """Noise over signal of the outputs at a slope, noises added: no weight makes more than leaving it out would."""
    return sqrt(sum(c.elements * min(slope, c.power) for c in candidates))


def slope_where(value: Callable[[float], float], wanted: float, low: float = 1e-18, high: float = 1e6) -> float:
    """The slope at which a monotone formula gives what is wanted, or the nearer end of the range."""
    rising = value(high) > value(low)
    for _ in range(60):
        middle = sqrt(low * high)
        if (value(middle) < wanted) == rising:
            low = middle
        else:
            high = middle
    return sqrt(low * high)


def meet_size(
    measure: Callable[[float], Trial],
    start: float,
    target: int,
    most: int = MOST_TRIALS,
    within: float = 0.01,
    ends: tuple[float, float] = ANYWHERE,
) -> Trial | None:
    """The finest of at most `most` trials that has no more than `target` bytes; None where no slope gives that.

    Ends with the first trial that is at most `within` below the target; sizes between two slopes are interpolated.
    """
    wanted = _Crossing(lambda trial: log(trial.size / target), False, log(1 - within))
    return _cross(measure, start, wanted, most, ends)


def meet_error(
    measure: Callable[[float], Trial],
    start: float,
    error: float,
    most: int = MOST_TRIALS,
    within: float = 0.05,
    ends: tuple[float, float] = ANYWHERE,
) -> Trial | None:
    """The coarsest trial whose outputs have at most this error; None where none has."""
    wanted = _Crossing(lambda trial: log(max(trial.error or 0.0, 1e-9) / error), True, log(1 - within))
    return _cross(measure, start, wanted, most, ends)


def meet_drop(
    measure: Callable[[float], Trial],
    start: float,
    allowed: float,
    most: int = MOST_TRIALS,
    ends: tuple[float, float] = ANYWHERE,
) -> Trial | None:
    """The coarsest trial whose metric drops by at most `allowed`: as seen and as is likely, a standard error added.

    None where even the finest drops more. Where nothing is allowed to be lost, what was seen has to do.
    """

    wanted = _Crossing(lambda trial: -1.0 if safe(trial, allowed) else 1.0, True, 0.0)
    return _cross(measure, start, wanted, most, ends)


def safe(trial: Trial, allowed: float) -> bool:
    """Whether a metric drops by no more than is allowed, as `meet_drop` counts it."""
    drop = trial.drop
    if drop is not None and allowed > 0:
        drop = max(drop, trial.likely or 0.0, 0.0) + trial.uncertainty  # noise makes no model better: a gain is luck
    return kept(drop, allowed)


def in_turns(
    best: Trial,
    names: Sequence[str],
    measure: Callable[[str, Mapping[str, int]], Trial | None],
    is_kept: Callable[[Trial], bool],
    most: int,
) -> tuple[Trial, dict[str, int]]:
    """Each goes a step further in its turn, and stops where a step breaks the contract or makes the file larger.

    Arguments:
        best: the trial where none has gone a step; it is kept.
        names: of those that go, in their order.
        measure: the trial where each has gone so many steps, the named one the last; None where that cannot go so far.
        is_kept: whether a trial meets the contract.
        most: turns.

    Returns the last trial that was kept, and the steps that each has gone there.
    """
    steps, going = dict.fromkeys(names, 0), list(names)
    while going:
        for name in tuple(going):
            if not most:
                return best, steps
            further, most = {**steps, name: steps[name] + 1}, most - 1
            trial = measure(name, further)
            if trial is not None and is_kept(trial) and trial.size <= best.size:
                best, steps = trial, further
            else:
                going.remove(name)
    return best, steps


def kept(drop: float | None, allowed: float) -> bool:
    """Whether a metric drops by no more than is allowed, but for what floats lose."""
    return drop is not None and drop <= allowed * (1 + 1e-9)


@dataclass(frozen=True, slots=True)
class _Crossing:
    """What is looked for: the slope at which `excess` is 0."""

    excess: Callable[[Trial], float]
    """At most 0 where a trial meets the contract."""
    rising: bool
    """Whether excess rises with the slope; else it falls."""
    enough: float
    """Excess between this and 0 is near enough; 0 where excess is no smooth number."""


def _cross(
    measure: Callable[[float], Trial], start: float, wanted: _Crossing, most: int, ends: tuple[float, float]
) -> Trial | None:
    """The best trial with ``excess <= 0``.

    Brackets the crossing, then halves the bracket or, where excess is a smooth number, interpolates. Ends where excess
    is in ``[enough, 0]`` (with ``enough < 0``), the bracket is narrow, or one of the `ends` is not far enough.
    """
    excess, rising, enough = wanted.excess, wanted.rising, wanted.enough
    narrow = exp(-enough) if enough < 0 else _NARROW  # sizes and errors change no more than slopes do
    low: tuple[float, float] | None = None  # slope and excess on the side of small slopes
    high: tuple[float, float] | None = None
    best: Trial | None = None
    slope, flat = start, 0
    for _ in range(most):
        trial = measure(slope)
        over = excess(trial)
        if over <= 0 and (best is None or (trial.slope > best.slope) == rising):
            best = trial
        if enough <= over <= 0 and enough < 0:
            return best
        if rising and enough < 0 and high is not None and low is None:
            flat = flat + 1 if over > _FLAT > abs(high[1] - over) else 0
            if flat == _STRIDES:
                return best  # a finer slope changes nothing any more
        if (over > 0) == rising:
            high = (slope, over)
        else:
            low = (slope, over)
        if low is None or high is None:
            if slope == ends[high is None]:
                return best
            slope = min(max(slope * _STRIDE if high is None else slope / _STRIDE, ends[0]), ends[1])
            continue
        if high[0] / low[0] < narrow and best is not None:
            return best
        slope = exp(_between((log(low[0]), low[1]), (log(high[0]), high[1]), enough / 2))
    return best


def _between(low: tuple[float, float], high: tuple[float, float], aim: float) -> float:
    """Where a line through two points reaches `aim`, kept away from both ends; the middle where there is no line."""
    (a, over_a), (b, over_b) = low, high
    share = 0.5 if aim == 0 or over_a == over_b else (aim - over_a) / (over_b - over_a)
    return a + (b - a) * min(0.9, max(0.1, share))
