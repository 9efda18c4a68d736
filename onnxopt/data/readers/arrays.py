"""NumPy files."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from onnxopt.data.inputs import Input, only
from onnxopt.data.layout import layout
from onnxopt.data.random import Array
from onnxopt.data.readers.base import Options, Reader, Spec, path_of
from onnxopt.data.stream import Batch, Data, file_digest, in_batches, sha256
from onnxopt.errors import OnnxoptError, first_line
from onnxopt.files import reading

LABELS = ("labels", "label", "y")
"""Names that the array of labels may have."""
_BATCH = 64


class ArrayReader(Reader):
    """A `.npz` of arrays ``[samples, ...]`` named as the model's inputs, with or without labels; or a single `.npy`; or
    such arrays in memory: a mapping, or one array.

    The array may have any name if the model has one input. `layout` finds the axis of the samples where it is not the
    first. An array without dimensions, or of exactly an input's fixed shape, is fed with every batch.
    """

    priority = 10
    reads = "a .npz or .npy file"

    def claims(self, spec: Spec) -> bool:
        """Arrays, or an existing file of one of these suffixes."""
        path = path_of(spec)
        if path is None:
            return isinstance(spec, Mapping | np.ndarray)
        return path.suffix.lower() in (".npz", ".npy") and path.is_file()

    def open(self, spec: Any, inputs: list[Input], options: Options) -> Data:
        """See `Reader`."""
        if isinstance(spec, str | os.PathLike):
            path = Path(spec)
            return _open(str(path), _load(path), inputs, cache(lambda: file_digest(path).hex()))
        arrays = {str(name): np.asarray(array) for name, array in spec.items()} if isinstance(spec, Mapping) else None
        arrays = {"": spec} if arrays is None else arrays
        return _open("the arrays", arrays, inputs, cache(lambda: _digest(arrays)))


def _digest(arrays: Mapping[str, Array]) -> str:
    """Of arrays in memory."""
    return sha256(b"".join(f"{name} {a.dtype} {a.shape}".encode() + a.tobytes() for name, a in sorted(arrays.items())))


def _open(source: str, arrays: dict[str, Array], inputs: list[Input], digest: Callable[[], str]) -> Data:
    feeds, labels = _assigned(source, arrays, inputs)
    entries = {entry.name: entry for entry in inputs}
    found = layout(inputs, feeds, len(labels) if labels is not None and labels.ndim else None)
    fits = all(entry.takes_kind(feeds[entry.name]) for entry in inputs) and (labels is None or labels.ndim > 0)
    if found is None or not fits:
        raise OnnxoptError(_misfit(source, feeds, labels, inputs))
    count, cuts = found
    fixed = next((cut.fixed for cut in cuts.values() if cut.axis is not None and cut.fixed is not None), None)
    if count < (fixed or 1):
        raise OnnxoptError(f"{source}: holds {count} samples, the model's inputs take {fixed} at once")
    for name, array in feeds.items():
        entries[name].check_finite(array, source, cuts[name].axis)

    def read(chosen: Array) -> Batch:
        parts = {name: entries[name].cast(cuts[name].feed(array, chosen), source) for name, array in feeds.items()}
        return Batch(parts, None if labels is None else labels[chosen], len(chosen))

    return Data(source, lambda: in_batches(count, _BATCH, fixed, read), digest)


def _misfit(source: str, feeds: dict[str, Array], labels: Array | None, inputs: list[Input]) -> str:
    """Why the arrays do not fit the model's inputs."""
    lengths = {name: len(array) for name, array in feeds.items() if array.ndim}
    if labels is not None:
        lengths["labels"] = len(labels) if labels.ndim else 0
    for entry in inputs:
        try:
            entry.check(feeds[entry.name], source, samples=feeds[entry.name].ndim > 0)
        except OnnxoptError as error:
            if len(set(lengths.values())) == 1 and all(lengths.values()):
                return str(error)
    listed = ", ".join(f"{name} {length}" for name, length in lengths.items()) or "none"
    return f"{source}: expected equally many samples in every array, found {listed}"


def _load(path: Path) -> dict[str, Array]:
    reading([path])
    try:
        if path.suffix.lower() == ".npy":
            return {"": np.load(path, mmap_mode="r", allow_pickle=False)}
        with np.load(path, allow_pickle=False) as stored:
            return dict(stored)
    except Exception as error:  # numpy, zipfile and zlib raise various errors for a damaged file
        raise OnnxoptError(f"{path}: not a file of numpy arrays that can be read: {first_line(error)}") from error


def _assigned(source: str, arrays: dict[str, Array], inputs: list[Input]) -> tuple[dict[str, Array], Array | None]:
    """The array for each input, and the labels."""
    names = [entry.name for entry in inputs]
    label = next((name for name in LABELS if name in arrays and name not in names), None)
    others = {name: array for name, array in arrays.items() if name != label}
    if set(arrays) == {""}:
        only(inputs, source, "store their arrays in one .npz, named as the inputs are")
    if len(others) == len(names) == 1:
        others = dict(zip(names, others.values(), strict=True))
    if set(others) != set(names):
        raise OnnxoptError(f"{source}: holds {', '.join(arrays) or 'nothing'}; expected an array for each input of the "
                           f"model ({', '.join(names)}) and, if there are, labels ({', '.join(LABELS)})")  # fmt: skip
    return others, None if label is None else arrays[label]
