"""What a run that was killed has trained, in the cache: the next run with the same request goes on from there."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields
from importlib.metadata import version

import numpy as np
import onnxruntime

from onnxopt.build.stamp import NOT_OPTIONS
from onnxopt.build.workspace import Workspace
from onnxopt.calibration.cache import Cache
from onnxopt.encoding import Array
from onnxopt.search.original import Parts

_VERSION = 7
"""Of the contents. Increase it when a training has another state, or takes other steps."""

State = Mapping[str, Array]


class Checkpoint:
    """The state of one training, after its last whole pass."""

    def __init__(self, cache: Cache, name: str) -> None:
        self._cache, self._name, self._begun = cache, name, time.monotonic()
        self.state: State | None = cache.get(name)
        """What an earlier run has left; None without one."""
        self.seconds = 0.0 if self.state is None else float(self.state["seconds"])
        """That an earlier run has spent on this training."""

    def keep(self, **state: float | Array) -> None:
        """Stores a state. A disk that is full costs the next run, not this one."""
        with suppress(OSError):
            seconds = self.seconds + time.monotonic() - self._begun
            self._cache.put(self._name, **{name: np.asarray(value) for name, value in state.items()},
                            seconds=np.asarray(seconds))  # fmt: skip


class Checkpoints:
    """Those of one run, which makes the same trainings in the same order each time."""

    def __init__(self, cache: Cache) -> None:
        self._cache, self._count = cache, 0

    def same(self, name: str, number: int) -> int:
        """A number that an earlier run may have found to be another one; that one then."""
        if (kept := self._cache.get(name)) is not None:
            return int(kept["number"])
        with suppress(OSError):
            self._cache.put(name, number=np.asarray(number))
        return number

    def next(self) -> Checkpoint:
        """That of the training that begins now."""
        self._count += 1
        return Checkpoint(self._cache, f"training{self._count}")


def key_of(work: Workspace, parts: Parts) -> str:
    """Of all that trainings depend on. Reads the data."""
    request = work.request
    options = (repr(getattr(request, one.name)) for one in fields(request) if one.name not in NOT_OPTIONS)
    data = (one.digest() for one in (parts.calibration, parts.validation, parts.check))
    versions = (str(_VERSION), version("onnxopt"), onnxruntime.__version__, np.__version__)
    text = "\0".join([work.source.sha256, work.form.key, *work.left_out, request.stamp, *data, *options, *versions])
    return f"tuning-{hashlib.sha256(text.encode()).hexdigest()[:32]}"
