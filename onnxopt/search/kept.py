"""The original's outputs, kept for comparisons."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from onnxopt.files import Mapped, cache_folder

_IN_MEMORY, _ON_DISK = 2**24, 2**32
"""Bytes of outputs that are kept in memory, and then in files without names."""
_SMALL = 2**16
"""Bytes of an array that no file is worth."""


class Kept:
    """Outputs by batch, in order."""

    def __init__(self) -> None:
        self._batches: list[list[Any]] | None = []
        self._size = 0

    def __bool__(self) -> bool:
        """Whether all are kept. They are not where they are too many, or there is no room: the original runs again."""
        return self._batches is not None

    def __iter__(self) -> Iterator[list[Any]]:
        """The outputs of each batch, which must not be used after the next one is asked for."""
        for outputs in self._batches or []:
            yield [one.values if isinstance(one, Mapped) else one for one in outputs]
            for one in outputs:
                if isinstance(one, Mapped):
                    one.rest()

    def add(self, outputs: Sequence[Any]) -> None:
        """Keeps the outputs of the next batch, if there is room."""
        if self._batches is None:
            return
        self._size += sum(array.nbytes for array in outputs if isinstance(array, np.ndarray))
        try:
            self._batches.append([self._stored(one) for one in outputs])
        except OSError:
            self._size = _ON_DISK
        if self._size >= _ON_DISK:
            self._batches = None

    def _stored(self, output: Any) -> Any:
        numbers = isinstance(output, np.ndarray) and output.dtype.kind in "biuf"
        if self._size <= _IN_MEMORY or not numbers or output.nbytes < _SMALL:
            return output
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        made = Mapped(np.ascontiguousarray(output), folder)
        made.rest()
        return made
