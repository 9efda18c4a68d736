"""What a worker of a cluster does: it carries out items, and keeps the shared values that they refer to."""

from __future__ import annotations

import os
import pickle
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import parent_process
from pathlib import Path
from threading import Lock, local
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from onnxopt import native
from onnxopt.data import custom_ops, libraries_in_use, one_core, providers, providers_in_use
from onnxopt.errors import OnnxoptError, first_line
from onnxopt.pool.base import Shared

Bytes = npt.NDArray[np.uint8]

_values: dict[str, Any] = {}
"""Shared values by path."""
_loading, _now = Lock(), local()


@dataclass(frozen=True, slots=True)
class Loaded:
    """A shared value that this process reads from a file, once."""

    path: str

    @property
    def value(self) -> Any:
        """The value. Raises OnnxoptError if this machine does not find the file."""
        with _loading:
            if self.path not in _values:
                for gone in [path for path in _values if not Path(path).exists()]:
                    del _values[gone]
                try:
                    content = Path(self.path).read_bytes()
                except OSError as error:
                    raise OnnxoptError(f"{self.path}: a worker of the cluster does not find it; let XDG_CACHE_HOME "
                                       "name a folder that all machines share") from error  # fmt: skip
                _now.read = getattr(_now, "read", 0) + len(content)
                _values[self.path] = pickle.loads(content)
            return _values[self.path]


@dataclass(frozen=True, slots=True)
class Carried:
    """What holds where an item comes from, and is to hold where it runs."""

    folder: str
    libraries: tuple[str, ...]
    providers: tuple[str, ...]

    @classmethod
    def now(cls) -> Carried:
        """What holds here."""
        return cls(str(Path.cwd()), libraries_in_use(), providers_in_use())


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of an item."""

    found: Any
    """What the function returned or raised."""
    failed: bool
    read: int
    """Bytes of shared values that were read for it."""
    said: tuple[str, ...] = ()
    """Sentences that say what ran without a provider."""
    size: int = 0
    """Bytes that were received."""

    def sent(self) -> list[Bytes]:
        """The pickled answer, then the memory of each array in it: Dask moves arrays without a copy."""
        buffers: list[pickle.PickleBuffer] = []
        what = self.found, self.failed, self.read, self.said
        content = pickle.dumps(what, pickle.HIGHEST_PROTOCOL, buffer_callback=buffers.append)
        parts: list[bytes | memoryview] = [content, *(one.raw() for one in buffers)]
        return [np.frombuffer(part, np.uint8) for part in parts]

    @classmethod
    def received(cls, parts: Sequence[Bytes]) -> Answer:
        """The answer that was sent. It uses the memory of the parts."""
        content, *buffers = parts
        found, failed, read, said = pickle.loads(content.data, buffers=buffers)
        return cls(found, failed, read, said, sum(part.nbytes for part in parts))


def carry_out(task: bytes | Shared[bytes], carried: Carried) -> list[Bytes]:
    """Runs a pickled function on its item, on one core: the others have workers of their own."""
    _now.read, said = 0, list[str]()
    if parent_process() is not None:  # a process for such tasks alone
        native.keep_memory()
    with suppress(OSError):
        os.chdir(carried.folder)
    try:
        with (
            threadpool_limits(1, "blas"),
            one_core(),
            custom_ops(carried.libraries),
            providers(carried.providers, said.append),
        ):
            do, item = pickle.loads(task if isinstance(task, bytes) else task.value)
            return Answer(do(item), False, _now.read, tuple(said)).sent()
    except Exception as error:  # raised again where the item came from
        return Answer(_sendable(error), True, _now.read, tuple(said)).sent()


def _sendable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # a type of the runtime's
        return RuntimeError(f"{type(error).__name__}: {first_line(error)}")
    return error
