"""Folders for files that nobody named."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path


class Folder:
    """A folder that goes with the last reference to it."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="onnxopt-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)
