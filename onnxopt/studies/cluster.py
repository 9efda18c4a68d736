"""A Dask cluster as a `Pool`: its scheduler decides where each item runs, and runs it again where a worker dies."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self, TypeVar

from onnxopt.errors import OnnxoptError, first_line

_T = TypeVar("_T")
_R = TypeVar("_R")

_LOCAL, _REMOTE = re.compile(r"local:([1-9]\d*)"), re.compile(r"(tcp|tls)://[^/\s]+:\d+")
_SECONDS = 10
"""How long a scheduler may take to answer."""


class Cluster:
    """Workers of a Dask scheduler. They have onnxopt installed, and find files under the same paths.

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
            import distributed  # noqa: PLC0415 (an extra, and slow to import)
        except ImportError as error:
            raise OnnxoptError("--cluster needs Dask: pip install 'onnxopt[cluster]'") from error
        logging.getLogger("distributed").setLevel(logging.CRITICAL)  # errors are raised and shown as one line
        self._address, self._open = address, ExitStack()
        self._dask: Any = distributed
        self._client: Any = None

    def __enter__(self) -> Self:
        place: Any = self._address
        with ExitStack() as opened:
            if local := _LOCAL.fullmatch(place):
                place = opened.enter_context(
                    self._dask.LocalCluster(n_workers=int(local[1]), threads_per_worker=1, dashboard_address=None,
                                            silence_logs=logging.CRITICAL)
                )  # fmt: skip
            try:
                self._client = opened.enter_context(self._dask.Client(place, timeout=_SECONDS))
            except (OSError, TimeoutError) as error:
                raise OnnxoptError(f"--cluster {self._address}: no scheduler answers; start one with `dask scheduler`, "
                                   "or give local:2 for workers on this machine") from error  # fmt: skip
            self._open = opened.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._open.close()

    def map(self, do: Callable[[_T], _R], items: Sequence[_T]) -> Iterator[tuple[int, _R]]:
        """See `Pool`. Raises OnnxoptError if the scheduler goes away, or workers cannot run the function."""
        indices = {future: index for index, future in enumerate(self._client.map(do, items, pure=False))}
        for future in self._dask.as_completed(indices):
            try:
                found = future.result()
            except CancelledError as error:
                raise OnnxoptError(f"--cluster {self._address}: the scheduler is gone; run again: outputs that are "
                                   "done are kept") from error  # fmt: skip
            except OnnxoptError:
                raise
            except Exception as error:  # of Dask: a worker died several times, or lacks a package
                raise OnnxoptError(f"--cluster {self._address}: a worker failed: {type(error).__name__}: "
                                   f"{first_line(error)}") from error  # fmt: skip
            yield indices[future], found
