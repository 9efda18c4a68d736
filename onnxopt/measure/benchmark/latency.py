"""Reliable latencies: models take turns in fresh processes, and each process is one sample.

The memory layout of a process changes a model's speed by several percent for the lifetime of the process, so more runs
in one process only measure its layout more precisely. A sample is therefore a fresh process for every model. Their
blocks of runs alternate (AB BA AB BA), so that drift of the machine and effects of order cancel. See Kalibera and
Jones, "Rigorous benchmarking in reasonable time" (ISMM 2013): repeat at the highest level that varies. Sampling ends
when the 95 % interval of the mean is within 5 % of it (Qin et al., arXiv:1810.01109, section 3.2).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import scipy

from onnxopt.data import Array

Blocks = Sequence[Array]
"""One model in one process: the milliseconds of every run, by block."""
Advance = Callable[[float], None]
"""Told the share of the work that is done, 0 to 1."""

PROCESSES = 10
"""Fewest processes for each model; fewer than 8 cannot show a difference at the 1 % level."""
_MOST_PROCESSES = 50
_WITHIN = 0.05
"""Half the interval of a mean, relative to the mean, at which the mean is settled."""
PAIRED_WITHIN = 0.03
"""The same for the ratio of two models: a difference of 10 % is then certain."""
_BLOCK = 50.0
"""Milliseconds of a block: long against a process switch, short against the drift of the machine."""
_ROUNDS = 8
_ROUND_TRIPS = 1000.0
"""Milliseconds for all rounds: large models get fewer rounds."""


class Runner(Protocol):
    """A model, loaded and warm, in a process of its own."""

    def block(self, runs: int) -> Array:
        """Milliseconds of each of `runs` runs in a row."""
        ...


@dataclass(frozen=True, slots=True)
class Latency:
    """Latency of one run, without loading."""

    mean_ms: float
    low_ms: float
    """Up to `high_ms`, the 95 % interval of the mean; a process is one sample."""
    high_ms: float
    median_ms: float
    p95_ms: float
    runs: int
    settled: bool
    """Whether the interval is within 5 % of the mean; if not, the time ran out."""


@dataclass(frozen=True, slots=True)
class SpeedRatio:
    """The latency of one model relative to another."""

    path: str
    against: str
    ratio: float
    """More than one: `path` is slower than `against`."""
    low: float
    """Up to `high`, the 95 % interval of the ratio."""
    high: float
    significant: bool
    """Whether the two differ at the 1 % level: of equal models, one comparison in a hundred says so."""
    enough: bool
    """Whether there were enough processes, eight, to show a difference at that level."""

    def __str__(self) -> str:
        sure = "" if self.significant else ": no significant difference"
        return f"{self.ratio:.3f}x the time ({self.low:.3f} to {self.high:.3f}){sure}"


def settled(times: Sequence[Sequence[Blocks]]) -> bool:
    """Whether more processes are unnecessary: every mean and every ratio to the first model is settled."""
    ratios = [log_ratios(model, times[0]) for model in times[1:]]
    return all(latency(model).settled for model in times) and all(
        (high - low) / 2 <= PAIRED_WITHIN for low, high in (interval(logs, 0.95) for logs in ratios)
    )


def take_turns(
    start: Callable[[int], AbstractContextManager[Sequence[Runner]]], seconds: float, advance: Advance = lambda _: None,
    enough: Callable[[Sequence[Sequence[Blocks]]], bool] = settled,
) -> list[list[Blocks]]:  # fmt: skip
    """Times of every model, by process.

    In every process each model has the same number of blocks, in the order of the rounds.

    Arguments:
        start: starts new processes with the models, loaded and warm; its argument counts its calls.
        seconds: after which no more processes start, but at least two of each model do.
        advance: told the share of the work that is done, 0 to 1.
        enough: whether the times suffice; called once there are PROCESSES of each model.
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
            # The first run of several finds the other model's data in the caches: it is not steady state.
            blocks[i].append(runners[i].block(runs[i] + 1)[1:] if runs[i] > 1 else runners[i].block(1))
    return list(blocks)


def latency(processes: Sequence[Blocks]) -> Latency:
    """The latency of one model from its times in at least two processes.

    The mean is that of the processes' means, with Student's interval: runs of one process are not independent samples,
    as they share a memory layout and a time on the machine.
    """
    runs = [np.concatenate(blocks) for blocks in processes]
    means = np.array([one.mean() for one in runs])
    mean = float(means.mean())
    half = float(scipy.special.stdtrit(len(means) - 1, 0.975) * means.std(ddof=1) / math.sqrt(len(means)))
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
    """Logarithm of the ratio of two models' latencies, one number for each process.

    Medians of blocks are compared within a round, where a slow phase of the machine affects both; two rounds in
    mirrored order are averaged, which cancels effects of order; the result is the median of these averages.
    """
    found = []
    for mine, others in zip(model, against, strict=True):
        logs = [math.log(float(np.median(a) / np.median(b))) for a, b in zip(mine, others, strict=True)]
        found.append(float(np.median(np.reshape(logs, (-1, 2)).mean(axis=1))))
    return np.array(found)


def paired(path: str, against: str, logs: Array) -> SpeedRatio:
    """Compares two models by Wilcoxon's signed-rank test on their `log_ratios`.

    Processes of equal models are exchangeable, so their log-ratio is symmetric about zero for any noise of the machine.
    The test assumes only symmetry, so its level is exact. The ratio is the Hodges-Lehmann estimate and the interval
    that of the test; with fewer than six processes, it is the range of the observations.
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
    """Sorted means of all pairs, including each value with itself."""
    first, second = np.triu_indices(len(values))
    return np.sort((values[first] + values[second]) / 2)


def interval(values: Array, confidence: float) -> tuple[float, float]:
    """Confidence interval of the centre of a symmetric distribution, by Wilcoxon's signed-rank test."""
    means, rank = _walsh(values), max(1, _rank(len(values), confidence))
    return float(means[rank - 1]), float(means[-rank])


def _rank(count: int, confidence: float) -> int:
    """The k of the interval, which reaches from the k-th smallest pair mean to the k-th largest; 0 if there is none.

    The statistic is a sum of ranks, each included with probability 1/2; convolution counts the 2^n cases of signs.
    """
    cases = np.ones(1)
    for rank in range(1, count + 1):
        cases = np.convolve(cases, np.bincount([0, rank]))
    return int(np.searchsorted(np.cumsum(cases) / 2.0**count, (1 - confidence) / 2, side="right"))
