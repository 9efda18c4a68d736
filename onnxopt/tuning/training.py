"""Trains weights at one slope: noise in the outputs, and the price of the integers' bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from onnxopt.encoding import Array
from onnxopt.tuning.optimizer import Adam, cosine
from onnxopt.tuning.price import Price
from onnxopt.tuning.rate import Rate
from onnxopt.tuning.student import Lessons, Student
from onnxopt.tuning.weights import Weights

_RATE = 0.03
"""Units that a weight moves in an update at first. At 0.1, weights wander off, and no zeros are left."""
_RELEARN = 8
"""Updates after which the codes follow the integers."""
_BROKEN, _FIRST, _SLOWER = 16.0, 64, 3.0
"""A deep model of fine steps breaks when all weights move at once. Where the loss is so many times as large as at first
within so many updates, the training begins again, so much slower."""


def train(
    student: Student,
    lessons: Lessons,
    weights: Weights,
    fixed: Mapping[str, Array],
    price: Price,
    over: Callable[[int], float],
) -> Iterator[tuple[int, float, float]]:
    """Trains in place. After every pass over the data, yields their number, its loss D, and the bits R.

    The loss is ``D + p R``, with D that of `Loss`, R the bits of all integers and p the price of one.

    Arguments:
        fixed: values of weights that are not trained, by path.
        over: the share of the training that is over after a number of updates.
    """
    adam, rate, speed = Adam(len(weights.masters)), Rate(weights.matrices), _RATE
    updates, recent, order = 0, 0.0, shuffled(len(lessons))
    start, at_first, left = weights.masters.copy(), 0.0, _FIRST
    while (share := over(updates)) < 1:
        if updates % _RELEARN == 0:
            rate.learn(weights.rounded)
            price.look(rate.bits(weights.rounded), share)
        loss, by_path = student.gradient(lessons.lesson(next(order), updates // len(lessons)),
                                         {**fixed, **weights.seen()})  # fmt: skip
        at_first, left = at_first or loss, left - 1
        if left > 0 and not loss <= _BROKEN * at_first:
            weights.masters[:], adam = start, Adam(len(start))
            speed, left = speed / _SLOWER, _FIRST
        else:
            gradient = weights.gradient(by_path)
            gradient[: len(weights.rounded)] += np.float32(price.value) * rate.gradient(weights.rounded)
            adam.update(weights.masters, gradient, cosine(speed, share))
        updates += 1
        recent += (loss - recent) / min(updates, len(lessons))
        if updates % len(lessons) == 0:
            yield updates // len(lessons), recent, rate.bits(weights.rounded)


def shuffled(count: int) -> Iterator[int]:
    """Indices below `count`, in another order in every pass; always the same."""
    generator = np.random.default_rng(0)
    while True:
        yield from generator.permutation(count).tolist()
