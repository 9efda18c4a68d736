"""Arrays whose memory is a file's."""

from __future__ import annotations

import mmap
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from onnxopt.files.pages import give_back, watch

Array = np.ndarray[Any, Any]


class Mapped:
    """A copy of an array in a file without a name, which goes with the last reference.

    Arguments:
        folder: where the file is.

    Raises OSError if there is no room.
    """

    def __init__(self, array: Array, folder: Path) -> None:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(array.data.cast("B"))  # says so if the disk is full, which a map cannot
            file.flush()
            self._map = mmap.mmap(file.fileno(), array.nbytes)
        watch(self._map)
        self.values: Array = np.frombuffer(self._map, array.dtype).reshape(array.shape)

    def rest(self) -> None:
        """Gives the memory back until the array is used again."""
        give_back(self._map)
