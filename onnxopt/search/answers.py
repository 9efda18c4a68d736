"""Outputs of a model on every batch of some data, wherever it runs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import onnxruntime

from onnxopt.calibration.chunks import cut
from onnxopt.data import Array, Batch, Data
from onnxopt.pool import Pool, Shared

_SPANS = 4
"""Spans of batches for each place: few, as each is a message, and more than one, as none is to wait long."""
_PART = 4e6
"""Bytes of the inputs of a part of a batch. What a network computes of images takes up to a hundred times as much."""

Change = Callable[[Batch], Batch | None]


class Runner(Protocol):
    """A loaded model. One that is to run elsewhere can be pickled."""

    def run(self, names: Sequence[str], feeds: Mapping[str, Array]) -> list[Any]:
        """Runs the model on named inputs and returns the named outputs."""


def unchanged(batch: Batch) -> Batch:
    """The batch itself."""
    return batch


def takes_parts(session: onnxruntime.InferenceSession) -> bool:
    """Whether a model answers for each sample of a batch, and for any number: the first dimension of all its inputs and
    outputs has one name."""
    values = (*session.get_inputs(), *session.get_outputs())
    names = {value.shape[0] if value.shape else None for value in values}
    return len(names) == 1 and all(isinstance(name, str) for name in names)


def parts(batch: Batch, takes_parts: bool) -> Iterator[Batch]:
    """The batch, in parts if it is large and the model takes them."""
    size = sum(array.nbytes for array in batch.feeds.values())
    return cut(batch, max(1, int(_PART * batch.size / size)) if takes_parts and size > _PART else 0)


@dataclass(frozen=True)
class Question:
    """What a model is to answer, batch by batch."""

    runner: Runner
    names: Sequence[str]
    """Of the outputs."""
    data: Data
    change: Change = unchanged
    """Makes of each batch what the model runs on; None where it has nothing to answer."""
    in_parts: bool = False
    """Whether a large batch is run in parts, which take less memory; see `takes_parts`."""

    def asked(self, pool: Pool) -> Callable[[Batch], list[Any]]:
        """Gives the outputs on each batch, as changed, in turn."""
        if pool.here:
            return self._run
        answers = self._answers_of(pool)
        return lambda batch: next(answers)

    def _run(self, batch: Batch) -> list[Any]:
        found = [self.runner.run(list(self.names), part.feeds) for part in parts(batch, self.in_parts)]
        return list(found[0]) if len(found) == 1 else [np.concatenate(one) for one in zip(*found, strict=True)]

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
