"""A Dask cluster as a `Pool`: its scheduler decides where each item runs, and runs it again where a worker dies."""

from __future__ import annotations

import itertools
import logging
import pickle
import re
import tempfile
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from onnxopt.data import went_without
from onnxopt.errors import OnnxoptError, first_line
from onnxopt.files import cache_folder
from onnxopt.pool.worker import Answer, Carried, Loaded, carry_out

_T = TypeVar("_T")
_R = TypeVar("_R")

_LOCAL, _REMOTE = re.compile(r"local:([1-9]\d*)"), re.compile(r"(tcp|tls)://[^/\s]+:\d+")
_SECONDS = 10
"""How long a scheduler may take to answer, and to have a worker."""
_LARGE = 2**18
"""Bytes of a task from which on it goes by a file, as shared values do, and not through the scheduler."""
_TASKS = 4
"""Tasks for each place: few, as each is a message, and more than one, as none is to wait long for another."""


class Written(Generic[_T]):
    """A shared value, in a file for the workers. The file is deleted when nobody refers to the value any more."""

    def __init__(self, value: _T, file: Path) -> None:
        self.value, self._file = value, file
        weakref.finalize(self, _deleted, file)

    def __reduce__(self) -> tuple[Any, ...]:
        return Loaded, (str(self._file),)


@dataclass(slots=True)
class Moved:
    """What went to the workers and back."""

    tasks: int = 0
    there: int = 0
    """Bytes, of tasks and of shared values, the latter once for each worker that read them."""
    back: int = 0


@dataclass(frozen=True, slots=True)
class _Task:
    """An item on its way."""

    future: Any
    content: Written[bytes] | None
    """The file of what is too large for the scheduler, which is to be there until it is done."""


class Cluster:
    """Workers of a Dask scheduler. They have onnxopt installed, and find files under the same paths, the cache folder
    included: shared values lie there.

    Arguments:
        address: ``tcp://host:port`` of a scheduler, or ``local:N`` for N workers that are started on this machine.

    Raises OnnxoptError if the address is neither, or the package is missing; on entering, if no scheduler answers.
    """

    here = False

    def __init__(self, address: str) -> None:
        if not (_LOCAL.fullmatch(address) or _REMOTE.fullmatch(address)):
            raise OnnxoptError(f"--cluster is {address!r}, expected local:N, as in local:4, or the address of a Dask "
                               "scheduler, as in tcp://host:8786")  # fmt: skip
        try:
            import cloudpickle  # noqa: PLC0415 (an extra, and slow to import)
            import distributed  # noqa: PLC0415
        except ImportError as error:
            raise OnnxoptError("--cluster needs Dask: pip install 'onnxopt[cluster]'") from error
        logging.getLogger("distributed").setLevel(logging.CRITICAL)  # errors are raised and shown as one line
        warnings.filterwarnings("ignore", module="distributed")  # such as that a port is taken
        self._address, self._open = address, ExitStack()
        self._dask: Any = distributed
        self._pickle: Any = cloudpickle
        self._client: Any = None
        self._folder, self._numbers = Path(), itertools.count()
        self._known: weakref.WeakValueDictionary[int, Written[Any]] = weakref.WeakValueDictionary()
        self.moved = Moved()

    def __str__(self) -> str:
        return self._address

    def __enter__(self) -> Self:
        place: Any = self._address
        with ExitStack() as opened:
            self._folder = opened.enter_context(_folder())
            if local := _LOCAL.fullmatch(place):
                place = opened.enter_context(
                    self._dask.LocalCluster(n_workers=int(local[1]), threads_per_worker=1, dashboard_address=None,
                                            memory_limit=0, silence_logs=logging.CRITICAL)
                )  # fmt: skip
            try:
                self._client = opened.enter_context(self._dask.Client(place, timeout=_SECONDS))
                self._client.wait_for_workers(1, timeout=_SECONDS)
            except (OSError, TimeoutError) as error:
                found = "the scheduler has no workers; start some with `dask worker`" if self._client else (
                    "no scheduler answers; start one with `dask scheduler`")  # fmt: skip
                raise OnnxoptError(
                    f"--cluster {self._address}: {found}, or give local:2 for workers on this machine"
                ) from error
            self._open = opened.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._open.close()

    @property
    def places(self) -> int:
        """See `Pool`."""
        return max(1, int(sum(self._client.nthreads().values())))

    def share(self, value: _T) -> Written[_T]:
        """See `Pool`. Raises OnnxoptError if it cannot be written."""
        known = self._known.get(id(value))
        if known is not None:
            return known
        written = Written(value, self._file(value))
        self._known[id(value)] = written
        return written

    def _file(self, value: Any) -> Path:
        """A file with a value, for the workers."""
        file = self._folder / f"{next(self._numbers)}.pickle"
        try:
            with file.with_suffix(".tmp").open("wb") as stream:
                self._pickle.dump(value, stream, protocol=pickle.HIGHEST_PROTOCOL)
            file.with_suffix(".tmp").rename(file)
        except OSError as error:
            raise OnnxoptError(f"{file}: cannot be written: {error.strerror or error}; XDG_CACHE_HOME names another "
                               "place for what the cluster's workers read") from error  # fmt: skip
        return file

    def map(self, do: Callable[[_T], _R], items: Iterable[_T]) -> Iterator[_R]:
        """See `Pool`. Raises OnnxoptError if the scheduler goes away, or workers cannot run the function."""
        every = list(items)
        total, count = len(every), max(1, min(len(every), _TASKS * self.places))
        parts = [every[number::count] for number in range(count)]
        every.clear()  # items may be large, and are not kept once they are on their way
        answers = self.stream(partial(_each, do), (parts.pop(0) for _ in range(count)))
        found: list[list[_R]] = []
        for index in range(total):
            if index < count:
                found.append(next(answers))
            yield found[index % count][index // count]

    def stream(self, do: Callable[[_T], _R], items: Iterable[_T]) -> Iterator[_R]:
        """See `Pool`. Raises as `map` does."""
        tasks = [self._submitted(do, item) for item in items]
        try:
            for task in tasks:
                yield self._result(task.future)
        finally:
            with suppress(Exception):  # a scheduler that is gone has cancelled them
                self._client.cancel([task.future for task in tasks if not task.future.done()])

    def as_ended(self, do: Callable[[_T], _R], items: Sequence[_T]) -> Iterator[tuple[int, _R]]:
        """See `Pool`. Raises as `map` does."""
        tasks = {task.future: (index, task) for index, item in enumerate(items) if (task := self._submitted(do, item))}
        for future in self._dask.as_completed(tasks):
            yield tasks[future][0], self._result(future)

    def _submitted(self, do: Callable[[_T], _R], item: _T) -> _Task:
        content = self._pickle.dumps((do, item), protocol=pickle.HIGHEST_PROTOCOL)
        large = Written(b"", self._file(content)) if len(content) > _LARGE else None
        self.moved.tasks += 1
        self.moved.there += 0 if large else len(content)
        return _Task(self._client.submit(carry_out, large or content, Carried.now(), pure=False), large)

    def _result(self, future: Any) -> Any:
        try:
            answer = Answer.received(future.result())
        except CancelledError as error:
            raise OnnxoptError(f"--cluster {self._address}: the scheduler is gone; run again: what is done is "
                               "kept") from error  # fmt: skip
        except Exception as error:  # of Dask: a worker died several times, or lacks a package
            raise OnnxoptError(f"--cluster {self._address}: a worker failed: {type(error).__name__}: "
                               f"{first_line(error)}") from error  # fmt: skip
        self.moved.there += answer.read
        self.moved.back += answer.size
        for sentence in answer.said:
            went_without(sentence)
        if answer.failed:
            raise answer.found
        return answer.found


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder in the cache folder, or else among temporary files."""
    root: Path | None = cache_folder()
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
    except OSError:
        root = None
    with tempfile.TemporaryDirectory(prefix="shared-", dir=root, ignore_cleanup_errors=True) as folder:
        Path(folder, "lock").touch()  # by which what a killed run leaves is found later
        yield Path(folder)


def _deleted(file: Path) -> None:
    with suppress(OSError):
        file.unlink()


def _each(do: Callable[[_T], _R], items: Sequence[_T]) -> list[_R]:
    return [do(item) for item in items]
