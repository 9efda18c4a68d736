"""Weights treated side by side, a core each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_T = TypeVar("_T")
_R = TypeVar("_R")


def side_by_side(do: Callable[[_T], _R], items: Iterable[_T]) -> Iterator[_R]:
    """What `do` returns for each item, in order. It runs on as many threads as the process has cores: numpy holds no
    lock in what takes long.

    Raises what the first failing call raises.
    """
    with ThreadPoolExecutor(_cores()) as pool:
        yield from pool.map(do, items)


def _cores() -> int:
    """Cores that the process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
