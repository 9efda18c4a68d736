"""Outputs of a model on every batch of some data, wherever it runs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from onnxopt.data import Array, Batch, Data
from onnxopt.pool import Pool, Shared

_SPANS = 4
"""Spans of batches for each place: few, as each is a message, and more than one, as none is to wait long."""

Change = Callable[[Batch], Batch | None]


class Runner(Protocol):
    """A loaded model. One that is to run elsewhere can be pickled."""

    def run(self, names: Sequence[str], feeds: Mapping[str, Array]) -> list[Any]:
        """Runs the model on named inputs and returns the named outputs."""


def unchanged(batch: Batch) -> Batch:
    """The batch itself."""
    return batch


@dataclass(frozen=True)
class Question:
    """What a model is to answer, batch by batch."""

    runner: Runner
    names: Sequence[str]
    """Of the outputs."""
    data: Data
    change: Change = unchanged
    """Makes of each batch what the model runs on; None where it has nothing to answer."""

    def asked(self, pool: Pool) -> Callable[[Batch], list[Any]]:
        """Gives the outputs on each batch, as changed, in turn."""
        if pool.here:
            return self._run
        answers = self._answers_of(pool)
        return lambda batch: next(answers)

    def _run(self, batch: Batch) -> list[Any]:
        return list(self.runner.run(list(self.names), batch.feeds))

    def _answers_of(self, pool: Pool) -> Iterator[list[Any]]:
        """The outputs on all of the data, which is read where the model runs."""
        count = sum(1 for _ in self.data.pending())
        length = max(1, -(-count // (_SPANS * pool.places)))
        spans = [(first, first + length) for first in range(0, count, length)]
        for found in pool.stream(partial(_answered, pool.share(self)), spans):
            yield from found


def _answered(question: Shared[Question], span: tuple[int, int]) -> list[list[Any]]:
    one = question.value
    batches = (one.change(batch.read()) for batch in itertools.islice(one.data.pending(), *span))
    return [one._run(batch) for batch in batches if batch is not None]
