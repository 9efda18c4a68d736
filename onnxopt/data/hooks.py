"""Functions of the user's: named as ``package.module:function``, found as ``python -m`` finds modules."""

from __future__ import annotations

import importlib
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from onnxopt.data.inputs import Input, only
from onnxopt.data.stream import Batch, Data, Pending, batch_bytes, sha256
from onnxopt.errors import OnnxoptError, first_line

_END = object()
_HOOK = re.compile(r"[^\W\d][\w.]*:[^\W\d][\w.]*")


def is_hook(spec: str) -> bool:
    """Whether a text is of the form ``package.module:function``."""
    return _HOOK.fullmatch(spec) is not None


def load_hook(spec: str) -> Callable[..., Any]:
    """The function that ``package.module:function`` names; the current folder is importable.

    Raises OnnxoptError where there is none, or importing it fails.
    """
    module, _, attribute = spec.partition(":")
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)  # last: a folder there that is called as an installed package is not meant
    with blamed(spec):
        found: Any = importlib.import_module(module)
        for name in attribute.split("."):
            found = getattr(found, name)
    if not callable(found):
        raise OnnxoptError(f"{spec}: is a {type(found).__name__}, expected a function")
    return found  # type: ignore[no-any-return]


@contextmanager
def blamed(hook: str) -> Iterator[None]:
    """Says of what a user's function raises where it was raised, as one OnnxoptError."""
    try:
        yield
    except OnnxoptError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [
            f for f in frames if f.filename != __file__ and not re.search("<frozen|importlib|site-packages", f.filename)
        ]
        where = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
        raise OnnxoptError(f"{hook}: {type(error).__name__}: {first_line(error)}{where}") from error


def name_of(hook: object) -> str:
    """What a function that was given as an object is called in reports."""
    module, name = getattr(hook, "__module__", None), getattr(hook, "__qualname__", None)
    return f"{module}:{name}" if module and name else type(hook).__name__


def open_hook(start: Callable[[], Iterable[Any]], name: str, inputs: list[Input]) -> Data:
    """Batches as a function yields them, which is called whenever the stream is started.

    Each is a dictionary of arrays, by input, or for a model with one input a bare array; or a pair of that and labels.
    Iterating raises OnnxoptError where they are not what the model takes.
    """

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
