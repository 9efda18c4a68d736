"""Data in chunks small enough to run a model whose inner values are outputs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import onnx

from onnxopt.calibration.budget import EVERYTHING, Use
from onnxopt.data import Batch, Data
from onnxopt.encoding import Array

CHUNK_BYTES = 2**27
"""Of layer inputs in memory at a time."""
HOLD_BACK = 8
"""One chunk in this many is held back."""
_SHARDS = 16
"""Most shards of a law: the sums of each are moved."""


@dataclass(frozen=True, slots=True)
class Shard:
    """Some consecutive batches of one law, cut by the data alone."""

    number: int
    law: int
    first: int
    last: int
    """The batch behind the last one."""

    def seed(self, own: int) -> tuple[int, ...]:
        """A seed of this shard, given one's own."""
        return (own, self.number) if self.number else (own,)


@dataclass(frozen=True, slots=True)
class Chunks:
    """Data in chunks of at most `most` samples."""

    data: Data
    most: int
    """Samples of a chunk; 0 if the model takes whole batches only."""
    use: Use = EVERYTHING
    """How much of them is used."""

    @classmethod
    def fitting(cls, model: onnx.ModelProto, data: Data, sizes: Mapping[str, int], use: Use = EVERYTHING) -> Chunks:
        """Chunks whose layer inputs fit into memory; `sizes` are the bytes of one sample of each."""
        return cls(data, max(1, CHUNK_BYTES // max(1, sum(sizes.values()))) if any_batch(model) else 0, use)

    def by_law(self) -> list[Chunks]:
        """The chunks of each law of the data; see `Data.by_law`."""
        return [replace(self, data=law) for law in self.data.by_law]

    def shards(self) -> list[Shard]:
        """All of the data. A shard has as many chunks as are needed to hold one back, or more."""
        found: list[Shard] = []
        for law, data in enumerate(self.data.by_law):
            sizes = [-(-batch.size // self.most) if self.most else 1 for batch in data.pending()]
            least, first, chunks = max(HOLD_BACK, -(-sum(sizes) // _SHARDS)), 0, 0
            for index, size in enumerate(sizes, 1):
                chunks += size
                if chunks >= least or index == len(sizes):
                    found.append(Shard(len(found), law, first, index))
                    first, chunks = index, 0
        return found

    def of(self, shard: Shard) -> Iterator[dict[str, Array]]:
        """Feeds of the chunks of a shard."""
        for batch in itertools.islice(self.data.by_law[shard.law].pending(), shard.first, shard.last):
            for chunk in cut(batch.read(), self.most):
                yield chunk.feeds

    def feeds(self, samples: int | None = None) -> Iterator[dict[str, Array]]:
        """Feeds of all chunks, or of those that hold the first `samples`; of several laws, as many of each."""
        if samples is not None and self.data.laws:
            for law in self.by_law():
                yield from law.feeds(-(-samples // len(self.data.laws)))
            return
        seen = 0
        for batch in self.data:
            for chunk in cut(batch, self.most):
                yield chunk.feeds
                seen += chunk.size
                if samples is not None and seen >= samples:
                    return


def one_sample(model: onnx.ModelProto, data: Data) -> Batch:
    """The first sample of the data; the first batch if the model takes whole batches only."""
    return first_samples(model, data, 1)


def first_samples(model: onnx.ModelProto, data: Data, most: int) -> Batch:
    """The first samples of the data, at most so many; the first batch if the model takes whole batches only."""
    return next(cut(next(iter(data)), most if any_batch(model) else 0))


def any_batch(model: onnx.ModelProto) -> bool:
    """Whether the first dimension of every input is free."""
    shapes = [value.type.tensor_type.shape.dim for value in model.graph.input]
    return all(len(dims) > 0 and not dims[0].dim_value for dims in shapes)


def cut(batch: Batch, most: int) -> Iterator[Batch]:
    """The batch in parts of at most `most` samples; whole if `most` is 0 or its arrays have other lengths."""
    size = batch.size
    if not most or size <= most or any(len(array) != size for array in batch.feeds.values()):
        yield batch
        return
    for at in range(0, size, most):
        labels = None if batch.labels is None or len(batch.labels) != size else batch.labels[at : at + most]
        yield Batch({name: array[at : at + most] for name, array in batch.feeds.items()}, labels)
