"""NumPy files."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from onnxopt.data.inputs import Input, only
from onnxopt.data.preprocess import ImageOptions
from onnxopt.data.random import Array
from onnxopt.data.readers.base import Reader, Spec, path_of
from onnxopt.data.stream import Batch, Data, in_batches
from onnxopt.errors import OnnxoptError, first_line

LABELS = ("labels", "label", "y")
"""Names that the array of labels may have."""
_BATCH = 64


class ArrayReader(Reader):
    """A `.npz` of arrays ``[samples, ...]`` named as the model's inputs, with or without labels; or a single `.npy`.

    The array may have any name if the model has one input. An array without dimensions is fed with every batch.
    """

    priority = 10
    reads = "a .npz or .npy file"

    def claims(self, spec: Spec) -> bool:
        """An existing file of one of these suffixes."""
        path = path_of(spec)
        return path is not None and path.suffix.lower() in (".npz", ".npy") and path.is_file()

    def open(self, spec: Any, inputs: list[Input], options: ImageOptions) -> Data:
        """See `Reader`."""
        return _open(Path(spec), inputs)


def _open(path: Path, inputs: list[Input]) -> Data:
    feeds, labels = _assigned(path, _load(path), inputs)
    entries = {entry.name: entry for entry in inputs}
    lengths = {name: len(array) for name, array in feeds.items() if array.ndim}
    if labels is not None:
        lengths["labels"] = len(labels) if labels.ndim else 0
    if len(set(lengths.values())) > 1 or not any(lengths.values()):
        found = ", ".join(f"{name} {length}" for name, length in lengths.items()) or "none"
        raise OnnxoptError(f"{path}: expected equally many samples in every array, found {found}")
    for name, array in feeds.items():
        entries[name].check(array, str(path), samples=array.ndim > 0)
    count = next(iter(lengths.values()))
    sizes = {entries[name].batch for name in lengths if name in entries} - {None}
    fixed = next(iter(sizes), None)
    if len(sizes) > 1 or count < (fixed or 1):
        wanted = " and ".join(map(str, sizes))
        raise OnnxoptError(f"{path}: holds {count} samples, the model's inputs take {wanted} at once; "
                           "yield the batches from a function, as in --data mypackage.mydata:batches")  # fmt: skip

    def read(chosen: Array) -> Batch:
        parts = {
            name: entries[name].cast(array[chosen] if array.ndim else array, str(path)) for name, array in feeds.items()
        }
        return Batch(parts, None if labels is None else labels[chosen])

    return Data(str(path), lambda: in_batches(count, _BATCH, fixed, read), cache(lambda: _digest(path)))


def _load(path: Path) -> dict[str, Array]:
    try:
        if path.suffix.lower() == ".npy":
            return {"": np.load(path, mmap_mode="r", allow_pickle=False)}
        with np.load(path, allow_pickle=False) as stored:
            return dict(stored)
    except Exception as error:  # numpy, zipfile and zlib raise various errors for a damaged file
        raise OnnxoptError(f"{path}: not a file of numpy arrays that can be read: {first_line(error)}") from error


def _assigned(path: Path, arrays: dict[str, Array], inputs: list[Input]) -> tuple[dict[str, Array], Array | None]:
    """The array for each input, and the labels."""
    names = [entry.name for entry in inputs]
    label = next((name for name in LABELS if name in arrays and name not in names), None)
    others = {name: array for name, array in arrays.items() if name != label}
    if path.suffix.lower() == ".npy":
        only(inputs, str(path), "store their arrays in one .npz, named as the inputs are")
    if len(others) == len(names) == 1:
        others = dict(zip(names, others.values(), strict=True))
    if set(others) != set(names):
        raise OnnxoptError(f"{path}: holds {', '.join(arrays) or 'nothing'}; expected an array for each input of the "
                           f"model ({', '.join(names)}) and, if there are, labels ({', '.join(LABELS)})")  # fmt: skip
    return others, None if label is None else arrays[label]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
