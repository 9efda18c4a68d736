"""Batches that a function or another iterable of the user's yields."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

import numpy as np

from onnxopt.data.hooks import blamed, is_hook, load_hook, name_of
from onnxopt.data.inputs import Input, only
from onnxopt.data.preprocess import ImageOptions
from onnxopt.data.readers.base import Reader, Spec, path_of
from onnxopt.data.stream import Batch, Data, Pending, batch_bytes, sha256
from onnxopt.errors import OnnxoptError

_END = object()


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

    def open(self, spec: Any, inputs: list[Input], options: ImageOptions) -> Data:
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
    def pending() -> Iterator[Pending]:
        stream = None
        while True:
            with blamed(name):
                stream = iter(start()) if stream is None else stream
                item = next(stream, _END)
            if item is _END:
                return
            batch = _batch(item, name, inputs)
            yield Pending(batch.size, lambda batch=batch: batch)  # type: ignore[misc]

    return Data(name, pending, cache(lambda: sha256(*(batch_bytes(batch.read()) for batch in pending()))))


def _batch(item: Any, name: str, inputs: list[Input]) -> Batch:
    feeds, labels = item if isinstance(item, tuple) and len(item) == 2 else (item, None)
    if not isinstance(feeds, dict):
        feeds = {only(inputs, name, "yield a dictionary with an array for each").name: feeds}
    entries = {entry.name: entry for entry in inputs}
    if set(feeds) != set(entries):
        raise OnnxoptError(f"{name}: gives {', '.join(map(str, feeds))}; the model's inputs are {', '.join(entries)}")
    arrays = {}
    for key, value in feeds.items():
        array = np.asarray(value)
        entries[key].check(array, name)
        arrays[key] = entries[key].cast(array, name)
    batch = Batch(arrays, None if labels is None else np.atleast_1d(np.asarray(labels)))
    if batch.labels is not None and batch.size != Batch(arrays, None).size:
        raise OnnxoptError(f"{name}: gives {batch.size} labels for {Batch(arrays, None).size} samples")
    return batch
