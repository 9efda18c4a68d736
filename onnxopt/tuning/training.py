"""Trains weights at one slope: noise in the outputs, and the price of the integers' bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import log

import numpy as np

from onnxopt.encoding import Array
from onnxopt.tuning.optimizer import Adam, cosine
from onnxopt.tuning.rate import Rate
from onnxopt.tuning.student import Lessons, Student
from onnxopt.tuning.weights import Weights

_RATE = 0.03
"""Units that a weight moves in an update at first. At 0.1, weights wander off, and no zeros are left."""
_RELEARN = 8
"""Updates after which the codes follow the integers."""


def train(
    student: Student,
    lessons: Lessons,
    weights: Weights,
    fixed: Mapping[str, Array],
    slope: float,
    over: Callable[[int], float],
) -> Iterator[tuple[int, float, float]]:
    """Trains in place. After every pass over the data, yields their number, its loss D, and the bits R.

    The loss is ``D + 2 ln2 c R``, with D that of `Loss`, R the bits of all integers and c the slope. This is the
    price of a bit in the plan: a step d makes noise ``d^2 / 12``, which a further bit divides by four, so noise falls
    by ``2 ln2 c`` with each bit (Gish & Pierce 1968). Tuning finds a better point at the same price.

    Arguments:
        fixed: values of weights that are not trained, by path.
        over: the share of the training that is over after a number of updates.
    """
    adam, rate, price = Adam(len(weights.masters)), Rate(weights.sizes), np.float32(2 * log(2) * slope)
    updates, recent, order = 0, 0.0, shuffled(len(lessons))
    while (share := over(updates)) < 1:
        if updates % _RELEARN == 0:
            rate.learn(weights.rounded)
        loss, by_path = student.gradient(lessons[next(order)], {**fixed, **weights.seen()})
        gradient = weights.gradient(by_path)
        gradient[: len(weights.rounded)] += price * rate.gradient(weights.rounded)
        adam.update(weights.masters, gradient, cosine(_RATE, share))
        updates += 1
        recent += (loss - recent) / min(updates, len(lessons))
        if updates % len(lessons) == 0:
            yield updates // len(lessons), recent, rate.bits(weights.rounded)


def shuffled(count: int) -> Iterator[int]:
    """Indices below `count`, in another order in every pass; always the same."""
    generator = np.random.default_rng(0)
    while True:
        yield from generator.permutation(count).tolist()
