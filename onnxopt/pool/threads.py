"""Threads of this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from contextvars import copy_context
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, Self, TypeVar

from onnxopt.data import cores

_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True, slots=True)
class Same(Generic[_T]):
    """A value in the memory of this process."""

    value: _T


class Threads:
    """A `Pool` of this process, with a thread for each core: numpy and the runtime hold no lock in what takes long.

    Arguments:
        most: threads; by default, the cores that the process may use. More are for work that waits for other processes.
    """

    here = True

    def __init__(self, most: int | None = None) -> None:
        self._most, self._open = most, ExitStack()

    @property
    def places(self) -> int:
        """See `Pool`."""
        return self._most or cores()

    def share(self, value: _T) -> Same[_T]:
        """See `Pool`."""
        return Same(value)

    def map(self, do: Callable[[_T], _R], items: Iterable[_T]) -> Iterator[_R]:
        """See `Pool`."""
        with ThreadPoolExecutor(self.places) as threads:
            yield from threads.map(lambda one: one[0].run(do, one[1]), ((copy_context(), item) for item in items))

    def stream(self, do: Callable[[_T], _R], items: Iterable[_T]) -> Iterator[_R]:
        """See `Pool`."""
        return map(do, items)

    def as_ended(self, do: Callable[[_T], _R], items: Sequence[_T]) -> Iterator[tuple[int, _R]]:
        """See `Pool`. On leaving the context, what has not begun is dropped."""
        threads = ThreadPoolExecutor(self.places)
        self._open.callback(threads.shutdown, cancel_futures=True)
        futures = {threads.submit(do, item): index for index, item in enumerate(items)}
        for future in as_completed(futures):
            yield futures[future], future.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._open.close()
