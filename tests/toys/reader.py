"""A data reader: tables of numbers with one sample a line, for models with one input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from onnxopt.data.inputs import Input, only
from onnxopt.data.readers.base import Options, Reader, Spec, path_of
from onnxopt.data.stream import Batch, Data, in_batches, sha256

_BATCH = 64


class TsvReader(Reader):
    """A `.tsv` of numbers."""

    priority = 15
    reads = "a .tsv file"

    def claims(self, spec: Spec) -> bool:
        """An existing file of this suffix."""
        path = path_of(spec)
        return path is not None and path.suffix == ".tsv" and path.is_file()

    def open(self, spec: Any, inputs: list[Input], options: Options) -> Data:
        """See `Reader`."""
        path, entry = Path(spec), only(inputs, str(spec), "store them in one .npz, named as the inputs are")
        samples = entry.cast(np.loadtxt(path, np.float32, delimiter="\t", ndmin=2), str(path))
        entry.check(samples, str(path))

        def read(chosen: Any) -> Batch:
            return Batch({entry.name: samples[chosen]}, None)

        return Data(str(path), lambda: in_batches(len(samples), _BATCH, entry.batch, read),
                    lambda: sha256(path.read_bytes()))  # fmt: skip
