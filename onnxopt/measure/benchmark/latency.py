"""Latencies that can be relied on: models take turns, in processes that are started anew again and again.

One process is one sample. Where a process's memory happens to lie changes a model's speed by several percent for as
long as the process lives, so that repeating runs in it only measures that accident more precisely. Each sample is a
fresh process for every model; within it, blocks of runs take turns (AB BA AB BA), so that a drift of the machine and
the place in the order cancel out. See Kalibera and Jones, "Rigorous benchmarking in reasonable time" (ISMM 2013): what
varies at the highest level has to be repeated there. Runs are repeated until the 95 % interval of the mean is within
5 % of it (Qin et al., arXiv:1810.01109, section 3.2).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy import special

from onnxopt.data import Array

Blocks = Sequence[Array]
"""Of one model in one process: the milliseconds of every run, block by block."""
Advance = Callable[[float], None]
"""Told the share of the work that is done, 0 to 1."""

PROCESSES = 10
"""Fewest of each model: with 8 or more, a difference can be significant at 1 % at all."""
_MOST_PROCESSES = 50
_WITHIN = 0.05
"""Half the interval of a mean, relative to it, at which the mean is settled."""
PAIRED_WITHIN = 0.03
"""Likewise of a ratio of two models: 10 % more is then beyond any doubt."""
_BLOCK = 50.0
"""Milliseconds of a block: long against a switch from process to process, short against the machine's drift."""
_ROUNDS = 8
_ROUND_TRIPS = 1000.0
"""Milliseconds: large models do not get all their rounds."""


class Runner(Protocol):
    """A model, loaded and warm, in a process of its own."""

    def block(self, runs: int) -> Array:
        """Milliseconds of each of `runs` runs in a row."""
        ...


@dataclass(frozen=True, slots=True)
class Latency:
    """Of one run, loading excluded."""

    mean_ms: float
    low_ms: float
    """To `high_ms`, the 95 % interval of the mean, each process being one sample."""
    high_ms: float
    median_ms: float
    p95_ms: float
    runs: int
    settled: bool
    """Whether the interval is within 5 % of the mean; else time was up."""


@dataclass(frozen=True, slots=True)
class SpeedRatio:
    """One model's latency against another's."""

    path: str
    against: str
    ratio: float
    """More than one: `path` is slower than `against`."""
    low: float
    """To `high`, the 95 % interval of the ratio."""
    high: float
    significant: bool
    """Whether the two differ at the 1 % level, so that one comparison of alike models in a hundred goes wrong."""
    enough: bool
    """Whether there were processes enough to find any difference at that level, which takes eight."""

    def __str__(self) -> str:
        sure = "" if self.significant else ": no significant difference"
        return f"{self.ratio:.3f}x the time ({self.low:.3f} to {self.high:.3f}){sure}"


def settled(times: Sequence[Sequence[Blocks]]) -> bool:
    """Whether nothing is to be expected of more processes: every mean and every ratio to the first is known."""
    ratios = [log_ratios(model, times[0]) for model in times[1:]]
    return all(latency(model).settled for model in times) and all(
        (high - low) / 2 <= PAIRED_WITHIN for low, high in (interval(logs, 0.95) for logs in ratios)
    )


def take_turns(
    start: Callable[[int], AbstractContextManager[Sequence[Runner]]], seconds: float, advance: Advance = lambda _: None,
    enough: Callable[[Sequence[Sequence[Blocks]]], bool] = settled,
) -> list[list[Blocks]]:  # fmt: skip
    """Times of every model, by process.

    Every process gives the same number of blocks of each model, in the order of the rounds.

    Arguments:
        start: gives the models, each loaded and warm in a new process; it is told how many times it was called.
        seconds: after which no further process is started, however wide the intervals are; two are always.
        advance: told of progress.
        enough: asked of the times so far, once there are PROCESSES of each model, whether that will do.
    """
    times: list[list[Blocks]] = []
    begun = time.monotonic()
    for process in range(_MOST_PROCESSES):
        with start(process) as runners:
            times = times or [[] for _ in runners]
            for model, blocks in zip(times, _one_process(runners, process), strict=True):
                model.append(blocks)
        done, spent = process + 1, (time.monotonic() - begun) / seconds
        if done >= 2 and (spent >= 1 or (done >= PROCESSES and enough(times))):
            break
        advance(min(1.0, max(spent, done / max(PROCESSES, done + 1))))
    return times


def _one_process(runners: Sequence[Runner], process: int) -> list[Blocks]:
    typical = [float(np.median(runner.block(3))) for runner in runners]
    runs = [max(1, round(_BLOCK / ms)) for ms in typical]
    trip = 2 * sum(count * ms for count, ms in zip(runs, typical, strict=True)) / len(runners)
    blocks: list[list[Array]] = [[] for _ in runners]
    for turn in range(2 * max(1, min(_ROUNDS // 2, int(_ROUND_TRIPS / trip)))):
        order = range(len(runners)) if (turn + process) % 2 == 0 else reversed(range(len(runners)))
        for i in order:
            # The first run of several finds caches that the other model has left, and is no part of a steady state.
            blocks[i].append(runners[i].block(runs[i] + 1)[1:] if runs[i] > 1 else runners[i].block(1))
    return list(blocks)


def latency(processes: Sequence[Blocks]) -> Latency:
    """The figures of one model: its times by process, of which there are two at least.

    The mean is that of the processes' means, its interval Student's for them: runs of one process are no independent
    samples, for they share a layout in memory and a time on the machine.
    """
    runs = [np.concatenate(blocks) for blocks in processes]
    means = np.array([one.mean() for one in runs])
    mean = float(means.mean())
    half = float(special.stdtrit(len(means) - 1, 0.975) * means.std(ddof=1) / math.sqrt(len(means)))
    every = np.concatenate(runs)
    return Latency(
        mean_ms=mean,
        low_ms=max(0.0, mean - half),
        high_ms=mean + half,
        median_ms=float(np.median(every)),
        p95_ms=float(np.percentile(every, 95)),
        runs=len(every),
        settled=half <= _WITHIN * mean,
    )


def log_ratios(model: Sequence[Blocks], against: Sequence[Blocks]) -> Array:
    """How much slower a model is, one number a process: the logarithm of the ratio.

    Blocks' medians are compared within a round, so that what slows the machine for a while slows both; two rounds in
    mirrored order are averaged, so that coming first or second is no difference; of these the median is taken.
    """
    found = []
    for mine, others in zip(model, against, strict=True):
        logs = [math.log(float(np.median(a) / np.median(b))) for a, b in zip(mine, others, strict=True)]
        found.append(float(np.median(np.reshape(logs, (-1, 2)).mean(axis=1))))
    return np.array(found)


def paired(path: str, against: str, logs: Array) -> SpeedRatio:
    """What `log_ratios` says of two models, by Wilcoxon's signed-rank test.

    Two processes of the same model can be exchanged, so their log-ratio is symmetric about zero whatever the machine's
    noise is like, and symmetry is all that the test asks for: its level is exact. The ratio is Hodges and Lehmann's
    estimate, and the interval the test's own; with fewer than six processes, the range of what was seen.
    """
    low, high = interval(logs, 0.95)
    surely_low, surely_high = interval(logs, 0.99)
    enough = _rank(len(logs), 0.99) > 0
    return SpeedRatio(
        path=path,
        against=against,
        ratio=math.exp(float(np.median(_walsh(logs)))),
        low=math.exp(low),
        high=math.exp(high),
        significant=enough and not surely_low <= 0 <= surely_high,
        enough=enough,
    )


def _walsh(values: Array) -> Array:
    """Means of all pairs, each value with itself too, in order."""
    first, second = np.triu_indices(len(values))
    return np.sort((values[first] + values[second]) / 2)


def interval(values: Array, confidence: float) -> tuple[float, float]:
    """Of the middle of values that lie symmetrically about it, by Wilcoxon's signed-rank test."""
    means, rank = _walsh(values), max(1, _rank(len(values), confidence))
    return float(means[rank - 1]), float(means[-rank])


def _rank(count: int, confidence: float) -> int:
    """The interval reaches from the so-manyth smallest pair mean to the so-manyth largest; 0: no interval is so sure.

    The statistic is a sum of ranks, each with even odds; the signs' 2^n cases are counted by folding rank after rank.
    """
    cases = np.ones(1)
    for rank in range(1, count + 1):
        cases = np.convolve(cases, np.bincount([0, rank]))
    return int(np.searchsorted(np.cumsum(cases) / 2.0**count, (1 - confidence) / 2, side="right"))
