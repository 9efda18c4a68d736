"""Where independent work runs. `Threads` is this machine; `cluster` has others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from types import TracebackType
from typing import Protocol, Self, TypeVar

_T = TypeVar("_T")
_R = TypeVar("_R")


class Pool(Protocol):
    """Runs one function on many items."""

    here: bool
    """Whether the function runs in this process, so that it may report progress."""

    def map(self, do: Callable[[_T], _R], items: Sequence[_T]) -> Iterator[tuple[int, _R]]:
        """The index of each item and what `do` returns for it, as they end. Raises what the first failing call
        raises."""


class Threads:
    """Threads of this process, for work that waits for other processes. On an error, what has not begun is dropped."""

    here = True

    def __init__(self, most: int) -> None:
        self._pool = ThreadPoolExecutor(most)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._pool.shutdown(cancel_futures=True)

    def map(self, do: Callable[[_T], _R], items: Sequence[_T]) -> Iterator[tuple[int, _R]]:
        """See `Pool`."""
        futures = {self._pool.submit(do, item): index for index, item in enumerate(items)}
        for future in as_completed(futures):
            yield futures[future], future.result()
