"""Data as a stream of batches that can be read repeatedly and split."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from onnxopt.data.random import Array
from onnxopt.errors import OnnxoptError


@dataclass(frozen=True, slots=True)
class Batch:
    """Some samples: feeds for the model, and labels if they are known."""

    feeds: dict[str, Array]
    """By input, [samples, ...] as a rule; an input without a batch has one value for all samples."""
    labels: Array | None = None
    """[samples, ...]"""
    samples: int | None = None
    """Their number, where the first dimension of an input is another one."""
    seen: bool = False
    """Whether statistics were measured on them, so that a model shows less noise on them than on others."""

    @property
    def size(self) -> int:
        """Samples: as stated, or the first dimension of the labels, or else of the first input that has dimensions."""
        if self.samples is not None:
            return self.samples
        arrays = [*([] if self.labels is None else [self.labels]), *self.feeds.values()]
        return next((len(array) for array in arrays if array.ndim), 1)

    def first(self, samples: int) -> Batch:
        """The first `samples` samples; the whole batch where an array does not have one row a sample."""
        arrays = [*self.feeds.values(), *([] if self.labels is None else [self.labels])]
        if samples >= self.size or any(array.shape[:1] != (self.size,) for array in arrays):
            return self
        labels = None if self.labels is None else self.labels[:samples]
        feeds = {name: array[:samples] for name, array in self.feeds.items()}
        return replace(self, feeds=feeds, labels=labels, samples=samples)


@dataclass(frozen=True, slots=True)
class Pending:
    """A batch that is not read yet, so that skipping it costs nothing."""

    size: int
    """Samples."""
    read: Callable[[], Batch]


@dataclass(frozen=True, slots=True)
class Data:
    """A stream of batches, the same each time it is iterated over. Only the current batch is in memory."""

    name: str
    """For reports: the file, the folder or the function."""
    pending: Callable[[], Iterator[Pending]]
    """Starts the stream."""
    digest: Callable[[], str]
    """Hex sha256 that identifies the samples and how they were prepared."""
    laws: tuple[Data, ...] = ()
    """The parts, if the samples are synthetic and of several laws; real samples may be like any of them."""
    row_noise: float = float("inf")
    """The most noise over signal in a row of a weight, because real samples may be like none of these; infinite if the
    samples say enough."""
    pictures: bool = False
    """Whether the samples are square colour images, prepared by their means and deviations."""

    @property
    def by_law(self) -> tuple[Data, ...]:
        """The data of each law: all of it, where the samples are of one kind."""
        return self.laws or (self,)

    def __reduce__(self) -> tuple[Any, ...]:
        return _travelled, (self.name, self.pending, self.digest(), self.laws, self.row_noise, self.pictures)

    def __iter__(self) -> Iterator[Batch]:
        return (batch.read() for batch in self.pending())

    def count(self) -> int:
        """Number of samples. A function that yields the batches is run once for this."""
        return sum(batch.size for batch in self.pending())

    def take(self, samples: int, cut: bool = False) -> Data:
        """The first batches that together hold at least `samples` samples; all of them if there are fewer.

        Arguments:
            cut: whether the last batch is cut to so many, for a model that takes batches of any size.
        """

        def pending() -> Iterator[Pending]:
            left = samples
            for batch in self.pending():
                yield _first(batch, left) if cut and batch.size > left else batch
                left -= batch.size
                if left <= 0:
                    return

        return self._part(pending, f"first {samples}")

    def _part(self, pending: Callable[[], Iterator[Pending]], which: str) -> Data:
        return replace(self, pending=pending, laws=(), digest=lambda: sha256(self.digest().encode(), which.encode()))


def _travelled(name: str, pending: Callable[[], Iterator[Pending]], digest: str, laws: tuple[Data, ...],
               row_noise: float, pictures: bool) -> Data:  # fmt: skip
    """Data in another process, which knows its digest already."""
    return Data(name, pending, lambda: digest, laws, row_noise, pictures)


def _first(batch: Pending, samples: int) -> Pending:
    first = batch.read().first(samples)
    return Pending(first.size, lambda: first)


def joined(laws: Sequence[Data], name: str, row_noise: float) -> Data:
    """The data of several laws, one after another.

    Arguments:
        row_noise: see `Data.row_noise`.
    """
    if len(laws) == 1:
        return replace(laws[0], name=name, row_noise=row_noise)
    return Data(
        name,
        lambda: (batch for law in laws for batch in law.pending()),
        lambda: sha256(*(law.digest().encode() for law in laws)),
        tuple(laws),
        row_noise,
    )


def by_law(data: Data, part: Callable[[Data], Data]) -> Data:
    """A part of each law, joined."""
    return joined([part(law) for law in data.by_law], data.name, data.row_noise)


def split(data: Data, held_back: float) -> tuple[Data, Data]:
    """Splits the batches: those to calibrate on, and a share that is held back for validation.

    The second batch is held back, then every `1 / held_back`-th, so that two batches give one of each; the share is
    rounded up to whole batches. The data must be shuffled, as arrays and images from `open_data` are.

    Arguments:
        held_back: share of the batches, more than 0 and at most 0.5.

    Raises OnnxoptError if there are fewer than two batches.
    """
    share = Fraction(held_back).limit_denominator(1000)
    if not 0 < share <= Fraction(1, 2):
        raise ValueError(f"held_back is {held_back}, expected more than 0 and at most 0.5")
    if len(list(itertools.islice(data.pending(), 2))) < 2:
        raise OnnxoptError(f"{data.name}: is a single batch, and some of the data is held back; give more batches")

    is_held = _held_back(share)

    def pending(held: bool) -> Iterator[Pending]:
        for i, batch in enumerate(data.pending()):
            if is_held(i) is held:
                yield batch

    return (
        data._part(partial(pending, False), f"all but {share}"),
        data._part(partial(pending, True), f"held back {share}"),
    )


def marked(data: Data, held_back: float, most: int) -> Data:
    """All of the data, with the batches marked as seen that `split` leaves, as far as `most` samples of them reach.

    Arguments and errors are those of `split`.
    """
    split(data, held_back)
    held = _held_back(Fraction(held_back).limit_denominator(1000))

    def pending() -> Iterator[Pending]:
        left = most
        for i, batch in enumerate(data.pending()):
            seen = left > 0 and not held(i)
            left -= batch.size if seen else 0
            yield replace(batch, read=partial(_seen, batch.read)) if seen else batch

    return replace(data, pending=pending, laws=())


def _seen(read: Callable[[], Batch]) -> Batch:
    return replace(read(), seen=True)


def _held_back(share: Fraction) -> Callable[[int], bool]:
    """Whether a batch is held back, by its index: each time (i - 1) * share reaches another integer, first at i = 1."""
    return lambda i: (i - 1) * share // 1 > (i - 2) * share // 1


def in_batches(
    count: int, most: int, fixed: int | None, read: Callable[[Array], Batch], lengths: Array | None = None
) -> Iterator[Pending]:
    """`count` samples in batches, in a shuffled order that is always the same.

    Arguments:
        most: samples of a batch; a batch has fewer if there would be less than ten of them, so that some can be held
            back.
        fixed: the model's own batch dimension; an incomplete last batch is then dropped.
        read: gives the batch of the samples with these indices.
        lengths: ``[count]``: only samples of one length share a batch, where the model takes batches of any size. The
            largest batches come first: they say most of what is usual.
    """
    size, order = fixed or max(1, min(most, count // 10)), np.random.default_rng(0).permutation(count)
    groups = [order]
    if lengths is not None and not fixed:
        groups = [order[lengths[order] == length] for length in dict.fromkeys(lengths[order].tolist())]
    least = fixed or 1
    batches = [one[start : start + size] for one in groups for start in range(0, len(one) - least + 1, size)]
    for chosen in sorted(batches, key=len, reverse=True):
        yield Pending(len(chosen), partial(read, chosen))


def sha256(*parts: bytes) -> str:
    """Hex digest of parts, each with its length so that different sequences of parts differ."""
    return sha256_of(parts)


def sha256_of(parts: Iterable[bytes]) -> str:
    """`sha256` of parts that need not be in memory together."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def batch_bytes(batch: Batch) -> bytes:
    """The bytes that identify a batch."""
    labels = {} if batch.labels is None else {"": batch.labels}
    arrays = sorted({**batch.feeds, **labels}.items())
    return b"".join(f"{n}{a.dtype}{a.shape}".encode() + _bytes(a) for n, a in arrays)


def file_digest(path: Path) -> bytes:
    """The sha256 of a file. Raises OnnxoptError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise OnnxoptError(f"{path}: cannot be read: {error.strerror or error}") from error


def _bytes(array: Array) -> bytes:
    """The contents; those of objects, such as texts, and not their addresses."""
    return repr(array.tolist()).encode() if array.dtype.hasobject else np.ascontiguousarray(array).tobytes()
