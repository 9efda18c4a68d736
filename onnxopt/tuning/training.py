"""Trains weights at one slope: noise in the outputs, and the price of the integers' bits."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from onnxopt.encoding import Array
from onnxopt.tuning.checkpoint import Checkpoint, State
from onnxopt.tuning.optimizer import Adam, scheduled
from onnxopt.tuning.price import Price
from onnxopt.tuning.rate import Rate
from onnxopt.tuning.student import Lessons, Student
from onnxopt.tuning.weights import Weights

_RATE = 0.045
"""Units that a weight moves in an update at most, over the root of the number of layers, as what all layers do to the
outputs adds up. At three times that, weights wander off, and no zeros are left."""
_FLOATS = 0.1
"""The same where no weight is rounded, times the distance from the original at first, if that is more: factors of a
network that was factored in one shot have far to go."""
_RELEARN = 8
"""Updates after which the codes follow the integers."""
_BROKEN, _EARLY, _SLOWER = 16.0, 0.2, 3.0
"""Where the loss is so many times as large as at first within such a share of the training, which begins again, so much
slower: too much has moved at once."""


@dataclass(frozen=True, slots=True)
class Course:
    """From where to where a training goes."""

    over: Callable[[int], float]
    """The share of it that is over after a number of updates."""
    checkpoint: Checkpoint | None = None
    """Where an earlier run has ended, and where this one leaves what the next needs."""


@dataclass(frozen=True, slots=True)
class Pass:
    """The end of a pass over the data."""

    number: int
    """From 1."""
    loss: float
    """D of `train`, the mean of the last pass."""
    share: float
    """Of the training, that is over."""


class _Run:
    """One training."""

    def __init__(self, weights: Weights, price: Price) -> None:
        self.weights, self.price = weights, price
        self.speed = _RATE / weights.layers**0.5
        self.begin()
        self.updates, self.recent, self.at_first = 0, 0.0, 0.0
        self.start, self.ended = weights.masters.copy(), False

    def begin(self) -> None:
        """Begins, or begins again."""
        self.adam = Adam(len(self.weights.masters))
        self.weights.squares = self.adam.square

    def update(self, loss: float, by_path: Mapping[str, Array], rate: Rate, share: float) -> None:
        """Moves the weights once."""
        weights = self.weights
        if not self.at_first:
            self.at_first = loss
            if not weights.matrices:
                self.speed = max(self.speed, _FLOATS * min(1.0, loss**0.5))
        if share < _EARLY and not loss <= _BROKEN * self.at_first:
            weights.restore(self.start)
            self.begin()
            self.speed /= _SLOWER
        else:
            gradient = weights.gradient(by_path, np.float32(self.price.value) * rate.gradient(weights.rounded))
            self.adam.update(weights.masters, gradient, scheduled(self.speed, share))
            weights.settle()
        self.updates += 1

    def keep(self, checkpoint: Checkpoint) -> None:
        """Stores the state."""
        checkpoint.keep(
            masters=self.weights.masters, steps=self.weights.steps, start=self.start,
            mean=self.adam.mean, square=self.adam.square,
            price=np.array(self.price.state), speeds=np.array([self.speed, self.recent, self.at_first]),
            numbers=np.array([self.adam.updates, self.updates, self.ended]),
        )  # fmt: skip

    def restore(self, state: State) -> None:
        """Goes back to a state."""
        self.weights.restore(state["masters"], state["steps"])
        self.start = state["start"]
        self.adam.mean[:], self.adam.square[:] = state["mean"], state["square"]
        self.price.state = state["price"].tolist()
        self.adam.updates, self.updates, ended = state["numbers"].tolist()
        self.ended = bool(ended)
        self.speed, self.recent, self.at_first = state["speeds"].tolist()


def train(
    student: Student,
    lessons: Lessons,
    weights: Weights,
    fixed: Mapping[str, Array],
    price: Price,
    course: Course,
) -> Iterator[Pass]:
    """Trains in place. Yields after every pass over the data.

    The loss is ``D + p R``, with D that of `Loss`, R the bits of all integers and p the price of one.

    Arguments:
        fixed: values of weights that are not trained, by path.
    """
    over, checkpoint = course.over, course.checkpoint
    run, rate = _Run(weights, price), Rate(weights.matrices)
    if checkpoint and checkpoint.state is not None:
        run.restore(checkpoint.state)
    order = itertools.islice(shuffled(len(lessons)), run.updates, None)
    while not run.ended and (share := over(run.updates)) < 1:
        place = run.updates % len(lessons)
        if place % _RELEARN == 0:  # at the begin of a pass, too, as a checkpoint holds no codes
            rate.learn(weights.rounded)
            price.look(rate.bits(weights.rounded), share)
        loss, by_path = student.gradient(lessons.lesson(next(order), run.updates // len(lessons)),
                                         {**fixed, **weights.seen()})  # fmt: skip
        run.update(loss, by_path, rate, share)
        run.recent += (loss - run.recent) / min(run.updates, len(lessons))
        if place == len(lessons) - 1:
            if checkpoint:
                run.keep(checkpoint)
            yield Pass(run.updates // len(lessons), run.recent, over(run.updates))
    run.ended = True
    if checkpoint:
        run.keep(checkpoint)


def shuffled(count: int) -> Iterator[int]:
    """Indices below `count`, in another order in every pass; always the same."""
    generator = np.random.default_rng(0)
    while True:
        yield from generator.permutation(count).tolist()
