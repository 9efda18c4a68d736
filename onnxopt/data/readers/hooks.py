"""Batches that a function or another iterable of the user's yields."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

import numpy as np

from onnxopt.data.hooks import blamed, is_hook, load_hook, name_of
from onnxopt.data.inputs import Input, only
from onnxopt.data.layout import named_axis, samples_of
from onnxopt.data.readers.base import Options, Reader, Spec, path_of
from onnxopt.data.stream import Batch, Data, Pending, batch_bytes, sha256_of
from onnxopt.errors import OnnxoptError

_END = object()
_EXPECTED = "make its iterator inside it, and give the same batches each time"


class HookReader(Reader):
    """A function, by name or as an object, that yields batches; or an object that can be iterated over repeatedly.

    The function is called whenever the stream starts. Each batch is a dictionary of arrays by input, or a bare array if
    the model has one input; or a pair of that and labels. Iterating raises OnnxoptError if the model does not take
    them.
    """

    priority = 30
    reads = "a function as in mypackage.mydata:batches"

    def claims(self, spec: Spec) -> bool:
        """A text ``package.module:function`` that is no existing path, and whatever is no path."""
        path = path_of(spec)
        return path is None or (not path.exists() and is_hook(str(spec)))

    def open(self, spec: Any, inputs: list[Input], options: Options) -> Data:
        """See `Reader`. Raises OnnxoptError also if there is no such function, or an iterable can be read only once."""
        if path_of(spec) is not None:
            return _open(load_hook(str(spec)), str(spec), inputs)
        return _open(_restartable(spec), name_of(spec), inputs)


def _restartable(spec: Any) -> Callable[[], Iterable[Any]]:
    if callable(spec):
        return spec  # type: ignore[no-any-return]
    if isinstance(spec, Iterator) or not isinstance(spec, Iterable):
        raise OnnxoptError(f"the data is a {type(spec).__name__}, which can be read only once; give the function "
                           "that makes it")  # fmt: skip
    return lambda: spec


def _open(start: Callable[[], Iterable[Any]], name: str, inputs: list[Input]) -> Data:
    earlier = _Earlier(name)

    def pending() -> Iterator[Pending]:
        with blamed(name):
            stream = iter(start())
        for index in itertools.count():
            with blamed(name):
                item = next(stream, _END)
            if item is _END:
                earlier.ends(index)
                return
            batch = _batch(item, name, f"{name}: batch {index + 1}", inputs)
            earlier.gives(index, batch)
            yield Pending(batch.size, lambda batch=batch: batch)  # type: ignore[misc]

    return Data(name, pending, cache(lambda: sha256_of(batch_bytes(batch.read()) for batch in pending())))


class _Earlier:
    """What a function gave when it was called before: another answer would make every comparison wrong."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._sums: list[int] = []
        """A checksum of each batch that was seen."""
        self._count: int | None = None
        """Number of batches; None until the stream has ended once."""

    def gives(self, index: int, batch: Batch) -> None:
        """Raises OnnxoptError if another batch was seen at this place."""
        found = zlib.crc32(batch_bytes(batch))
        if index == self._count or (index < len(self._sums) and self._sums[index] != found):
            raise OnnxoptError(f"{self._name}: batch {index + 1} is not what it was when the function was called "
                               f"before; {_EXPECTED}")  # fmt: skip
        if index == len(self._sums):
            self._sums.append(found)

    def ends(self, count: int) -> None:
        """Raises OnnxoptError if the stream was longer before, or empty."""
        if not self._sums:
            raise OnnxoptError(f"{self._name}: gives no samples; expected at least one batch")
        if count < len(self._sums):
            raise OnnxoptError(f"{self._name}: gives {count} batches, and gave {len(self._sums)} when the function was "
                               f"called before; {_EXPECTED}")  # fmt: skip
        self._count = count


def _batch(item: Any, name: str, place: str, inputs: list[Input]) -> Batch:
    """One batch of a function, whose `name` and whose `place` in the stream messages give."""
    feeds, labels = item if isinstance(item, tuple) and len(item) == 2 else (item, None)
    if not isinstance(feeds, dict):
        feeds = {only(inputs, name, "yield a dictionary with an array for each").name: feeds}
    entries = {entry.name: entry for entry in inputs}
    if set(feeds) != set(entries):
        raise OnnxoptError(f"{place} gives {', '.join(map(str, feeds))}; the model's inputs are {', '.join(entries)}")
    arrays = {}
    for key, value in feeds.items():
        with blamed(place):
            array = np.asarray(value)
        entries[key].check(array, place)
        entries[key].check_finite(array, place, named_axis(entries[key]) or 0)
        arrays[key] = entries[key].cast(array, place)
    samples = samples_of(arrays, inputs)
    if not samples:
        raise OnnxoptError(f"{place} has no samples")
    batch = Batch(arrays, None if labels is None else np.atleast_1d(np.asarray(labels)), samples)
    if batch.labels is not None and len(batch.labels) != samples:
        raise OnnxoptError(f"{place} gives {len(batch.labels)} labels for {samples} samples")
    return batch
