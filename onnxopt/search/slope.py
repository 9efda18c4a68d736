"""Finds the slope that meets a contract. Works on numbers, not on graphs.

All weights share one slope, the Lagrange multiplier of rate-distortion optimisation: each weight is quantized until
saving one more byte costs the same output noise in every weight. Equal slopes are optimal (Shoham & Gersho 1988), so
the search is for a single number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, exp, inf, log, log2, sqrt

from onnxopt.spec.promise import Promise

MOST_TRIALS = 14
ANYWHERE = (0.0, inf)
_FURTHEST = 64.0
"""The most by which a predicted slope differs from the last one."""
_STRIDE, _EVEN = 4.0, 3
"""Factor between slopes until both sides of the crossing are known. After so many strides, each is longer by this
factor than the one before: where noise saturates, the start can be off by any factor."""
_FLAT, _STRIDES = 0.05, 2
"""If each of this many strides lowers the excess by less than this, weights do not cause the remaining noise."""
_SILENT = -5.0
"""Excess of a trial that makes no noise: it changes no weight, or next to none."""
_DIGITS = 16
"""Bytes by which files differ whose slopes alone do: they hold them as text."""
_CLOSE_SIZE, _CLOSE_ERROR, _CLOSE_DROP = 0.01, 0.05, 0.06
"""Share of a bound below which a trial is close enough: of a size, of a noise, and of the noise for a drop."""
_TINY_DROP, _MISSED_DROP = 0.01, 0.02
"""The least share of the allowed drop that is told from none; the least excess of a trial that is not safe."""
_AT_FIRST, _SIZE_PER_STRIDE = 2.0, 0.3
"""Trials that a search is expected to take before the first; how much a stride changes the logarithm of a size."""
_NARROW = 1.06
"""Ratio of slopes whose files differ by about one percent."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A weight that the search may quantize more coarsely."""

    path: str
    elements: int
    power: float
    """Mean contribution of one element to the power of the model's outputs, as a share of that power; above 0."""


@dataclass(frozen=True, slots=True)
class Trial:
    """The result of trying one slope."""

    slope: float
    size: int
    """Bytes of the file."""
    error: float | None
    """Noise over signal of the outputs on the validation part; None if not measured."""
    drop: float | None
    """Drop of the metric on the validation part; None without a metric."""
    uncertainty: float = 0.0
    """Standard error of the expected drop."""
    likely: float | None = None
    """Expected drop on new samples of this kind; None if only `drop` was measured."""
    spread: float = 0.0
    """Standard error of `drop` as it was counted."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How a search proceeds."""

    most: int = MOST_TRIALS
    """Trials."""
    enough: int = MOST_TRIALS
    """Trials after which one is taken that is twice as far below the bound as is close."""
    ends: tuple[float, float] = ANYWHERE
    """Slopes beyond which nothing is tried."""
    slack: float = 1.0
    """Factor by which a trial may be further from the bound than usual."""
    worth: float = 0.0
    """Share of a file's size that a further trial has to be able to save under a bound on noise or a drop."""
    left: Callable[[float], None] = lambda count: None
    """Told before each trial how many there are likely to be from then on, this one included."""
    expected: Callable[[float], float] | None = None
    """What the statistics expect of a slope: a size or a noise, up to a factor. With it, the next slope is where that
    changes as the trial has to, instead of a stride away."""


_USUAL = Pace()


def expected_bits(candidates: Sequence[Candidate], slope: float) -> float:
    """Bits for all weights at a slope: ``log2(1 + power / slope) / 2`` per element, as for a Gaussian."""
    return sum(c.elements * log2(1 + c.power / slope) / 2 for c in candidates)


def expected_error(candidates: Sequence[Candidate], slope: float) -> float:
    """Noise over signal of the outputs at a slope. Noise powers add up, and no weight adds more than its removal
    would."""
    return sqrt(sum(c.elements * min(slope, c.power) for c in candidates))


def slope_where(value: Callable[[float], float], wanted: float, low: float = 1e-18, high: float = 1e6) -> float:
    """The slope at which a monotone formula has the value `wanted`, or the nearer end of the range."""
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
    pace: Pace = _USUAL,
) -> Trial | None:
    """The finest trial with at most `target` bytes; None if there is none.

    Stops at the first trial that is close below the target. Sizes between two slopes are interpolated.
    """
    wanted = _Crossing(lambda trial: log(trial.size / target), False, log(1 - _CLOSE_SIZE * pace.slack))
    return _cross(measure, start, wanted, pace)


def meet_error(
    measure: Callable[[float], Trial],
    start: float,
    error: float,
    pace: Pace = _USUAL,
) -> Trial | None:
    """The coarsest trial with at most this output error; None if there is none."""
    wanted = _Crossing(lambda trial: log(max(noise(trial), 1e-9) / error), True, log(1 - _CLOSE_ERROR * pace.slack))
    return _cross(measure, start, wanted, pace)


def meet_drop(
    measure: Callable[[float], Trial],
    start: float,
    promise: Promise,
    pace: Pace = _USUAL,
) -> Trial | None:
    """The coarsest trial that keeps a promise on the metric's drop; None if even the finest does not.

    Where the pace expects a noise, the drop counts as a number that the noise's power is proportional to, and the
    search stops close below the bound.
    """
    if pace.expected is None or not promise.allowed:
        wanted = _Crossing(lambda trial: -1.0 if promise.safe(trial) else 1.0, True, 0.0)
        return _cross(measure, start, wanted, replace(pace, expected=None))

    def excess(trial: Trial) -> float:
        limits = promise.interval(trial)
        over = 0.0 if limits is None else log(max(limits[1] / promise.allowed, _TINY_DROP)) / 2
        return min(0.0, over) if promise.safe(trial) else max(_MISSED_DROP, over)

    return _cross(measure, start, _Crossing(excess, True, log(1 - _CLOSE_DROP * pace.slack)), pace)


def noise(trial: Trial) -> float:
    """Noise over signal of a trial; infinite if it could not be measured."""
    return inf if trial.error is None else trial.error


def likely_trials(ratio: float) -> int:
    """How many trials a bound on noise is likely to take if the first one's noise is `ratio` times the bound."""
    wanted = _Crossing(noise, True, log(1 - _CLOSE_ERROR))
    over = log(max(ratio, 1e-9))
    return 1 if wanted.enough <= over <= 0 else 1 + round(_likely(wanted, over, None, None))


def in_turns(
    best: Trial,
    names: Sequence[str],
    measure: Callable[[str, Mapping[str, int]], Trial | None],
    is_kept: Callable[[Trial], bool],
    most: int,
) -> tuple[Trial, dict[str, int]]:
    """Advances each name by one step in turn, until its next step breaks the contract or makes the file larger.

    Arguments:
        best: the trial without any step; it meets the contract.
        names: what is advanced, in order.
        measure: runs the trial with the given steps of each name, of which the named one is the last; None if it cannot
            advance.
        is_kept: whether a trial meets the contract.
        most: largest number of trials.

    Returns the last kept trial and the steps of each name.
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


@dataclass(frozen=True, slots=True)
class _Crossing:
    """The target of the search: the slope at which `excess` is 0."""

    excess: Callable[[Trial], float]
    """At most 0 if a trial meets the contract."""
    rising: bool
    """Whether the excess rises with the slope; otherwise it falls."""
    enough: float
    """An excess between this and 0 is close enough; 0 if the excess is not a smooth number."""


def _cross(measure: Callable[[float], Trial], start: float, wanted: _Crossing, pace: Pace) -> Trial | None:
    """The best trial with ``excess <= 0``.

    Brackets the crossing, then bisects or, if the excess is a smooth number, interpolates. Stops when the excess is in
    ``[enough, 0]`` (with ``enough < 0``), the bracket is narrow, or one of the pace's ends is reached.
    """
    excess, rising, enough, ends = wanted.excess, wanted.rising, wanted.enough, pace.ends
    narrow = exp(-enough) if enough < 0 else _NARROW  # sizes and errors change no faster than slopes
    low: tuple[float, float] | None = None  # slope and excess at the lower end
    high: tuple[float, float] | None = None
    best: Trial | None = None
    slope, flat, missed, sizes = start, 0, 0, dict[bool, float]()
    last: float | None = None
    for tries in range(pace.most):
        pace.left(min(pace.most - tries, _likely(wanted, last, low, high)))
        trial = measure(slope)
        over = last = excess(trial)
        if over <= 0 and (best is None or (trial.slope > best.slope) == rising):
            best = trial
        missed = max(missed, trial.size) if over > 0 else missed
        close = 2 * enough if tries + 1 >= pace.enough else enough
        if best is not None and enough < 0 and close <= excess(best):
            return best
        above = (over > 0) == rising
        same, sizes[above] = abs(sizes.get(above, -inf) - trial.size) <= _DIGITS, trial.size
        if rising and enough < 0 and high is not None and low is None and not same:  # else all weights are as coarse
            flat = flat + 1 if over > _FLAT > high[1] - over else 0
            if flat == _STRIDES:
                return best  # a finer slope changes nothing
        if rising and enough < 0 and low is not None and high is None and over == low[1] > _SILENT:
            return best  # a coarser slope changes nothing: rows have the coarsest steps that they may have
        if above:
            high = (slope, over)
        else:
            low = (slope, over)
        if low is None or high is None:
            if slope == ends[high is None]:
                return best
            stride = _STRIDE ** max(1, tries + 2 - _EVEN)
            if pace.expected is not None and enough < 0 and tries < _EVEN:
                stride = _predicted(pace.expected, slope, enough / 2 - over)
            slope = min(max(slope * stride if high is None else slope / stride, ends[0]), ends[1])
            continue
        worthless = rising and best is not None and abs(best.size - missed) < pace.worth * best.size
        if (worthless or high[0] / low[0] < narrow) and best is not None:
            return best
        aim = 0.0 if same else enough / 2  # where files stay the same from slope to slope, the middle
        silent = rising and low[1] < _SILENT  # of it, only that noise grows as the root of the slope is known
        over = high[1] - log(high[0] / low[0]) / 2 if silent else low[1]
        slope = exp(_between((log(low[0]), over), (log(high[0]), high[1]), aim))
    return best


def _likely(
    wanted: _Crossing, last: float | None, low: tuple[float, float] | None, high: tuple[float, float] | None
) -> float:
    """How many trials a search still takes, the next one included, by where it stands."""
    smooth = wanted.enough < 0
    if low is not None and high is not None:
        return 1.5 if smooth else max(1.0, log2(log(high[0] / low[0]) / log(_NARROW)))
    if last is None:
        return _AT_FIRST
    if not smooth:
        return 1 + log2(log(_STRIDE) / log(_NARROW))
    strides = ceil(abs(last) / (log(_STRIDE) / 2 if wanted.rising else _SIZE_PER_STRIDE))
    return max(1, strides) + 1.0


def _predicted(expected: Callable[[float], float], slope: float, change: float) -> float:
    """The factor, above 1, between a slope and the one where what is expected has changed by the factor
    ``exp(change)``."""
    there = slope_where(expected, expected(slope) * exp(change))
    ratio = max(there / slope, slope / there)
    return min(_FURTHEST, max(_NARROW, ratio))


def _between(low: tuple[float, float], high: tuple[float, float], aim: float) -> float:
    """Where a line through two points reaches `aim`, kept away from both ends. Without a line, the middle."""
    (a, over_a), (b, over_b) = low, high
    share = 0.5 if aim == 0 or over_a == over_b else (aim - over_a) / (over_b - over_a)
    return a + (b - a) * min(0.9, max(0.1, share))
