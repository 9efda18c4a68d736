"""Audio files, as waveforms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from onnxopt.data.folders import files_in, folder_labels, has_suffix, identity
from onnxopt.data.inputs import Input, known, only
from onnxopt.data.optional import optional
from onnxopt.data.random import Array
from onnxopt.data.readers.base import Options, Reader, Spec, path_of
from onnxopt.data.readers.images import SUFFIXES as IMAGES
from onnxopt.data.stream import Batch, Data, in_batches, sha256
from onnxopt.errors import OnnxoptError, first_line
from onnxopt.files import reading

SUFFIXES = (".flac", ".wav")
_BATCH = 16


class AudioReader(Reader):
    """A file, or the files at any depth of a folder, for a model with one input of a waveform; class folders give
    labels.

    Channels are averaged. A model of a fixed length gets consecutive pieces of that length, without the rest of a file;
    a shorter file is followed by silence. Any other model gets whole files, one at a time.
    """

    priority = 18
    reads = f"audio ({', '.join(SUFFIXES)}, or a folder of them)"
    takes = "sample_rate"

    def claims(self, spec: Spec) -> bool:
        """An existing file of one of these suffixes, or a folder that holds some and no images."""
        path = path_of(spec)
        if path is None or not path.is_dir():
            return path is not None and path.suffix.lower() in SUFFIXES and path.is_file()
        found = False
        for file in path.rglob("*"):
            if has_suffix(file, path, IMAGES):
                return False
            found = found or has_suffix(file, path, SUFFIXES)
        return found

    def open(self, spec: Any, inputs: list[Input], options: Options) -> Data:
        """See `Reader`. Raises OnnxoptError also without a sample rate, or where a file has another."""
        path = Path(spec)
        entry = only(inputs, str(path), "audio is for one; yield batches from a function instead")
        folder = path if path.is_dir() else path.parent
        files = files_in(path, SUFFIXES) if path.is_dir() else [path]
        reading(files)
        return _open(str(path), _Recordings(folder, files, _Shape.of(entry, str(path)), options.sample_rate))


@dataclass(frozen=True, slots=True)
class _Shape:
    """Where an input holds its waveform."""

    entry: Input
    axis: int
    """Of time."""
    length: int | None
    """Samples that the model takes; None if any number."""

    @classmethod
    def of(cls, entry: Input, source: str) -> _Shape:
        """Raises OnnxoptError if the input is none of one waveform a sample."""
        axes = [axis for axis, size in enumerate(entry.shape) if axis > 0 and size != 1]
        if len(axes) != 1 or entry.dtype is None or entry.dtype.kind != "f":
            raise OnnxoptError(f"{source}: input {entry.name!r} is {entry}; audio is for inputs of floats "
                               "[batch, time], besides dimensions of 1; yield batches from a function "
                               "instead")  # fmt: skip
        size = entry.shape[axes[0]]
        length = size if isinstance(size, int) and known(size) else None
        if length is None and entry.batch not in (None, 1):
            raise OnnxoptError(f"{source}: input {entry.name!r} is {entry}, and whole recordings differ in "
                               "length; yield batches from a function instead")  # fmt: skip
        return cls(entry, axes[0], length)


class _Recordings:
    """The samples of some files.

    Raises OnnxoptError where a file cannot be read, is empty, or has another sample rate than the model takes.
    """

    def __init__(self, folder: Path, files: Sequence[Path], shape: _Shape, rate: int | None) -> None:
        self.folder, self.files, self.shape = folder, files, shape
        self._library = optional("soundfile", "to read audio")
        self.pieces: list[tuple[int, int]] = []
        """Of each sample, the file and where in it the sample starts."""
        for i, file in enumerate(files):
            frames = self._frames(file, rate)
            ends = range(0, max(frames - shape.length, 0) + 1, shape.length) if shape.length else [0]
            self.pieces += [(i, start) for start in ends]

    def _frames(self, file: Path, rate: int | None) -> int:
        try:
            found = self._library.info(str(file))
        except Exception as error:  # the library raises various errors
            raise OnnxoptError(f"{file}: not audio that can be read: {first_line(error)}") from error
        if rate is None:
            raise OnnxoptError(f"{file}: has {found.samplerate} samples a second; say how many the model takes, as in "
                               f"--sample-rate {found.samplerate}")  # fmt: skip
        if found.samplerate != rate:
            raise OnnxoptError(f"{file}: has {found.samplerate} samples a second, and the model takes {rate} "
                               "(--sample-rate); resample it")  # fmt: skip
        if not found.frames:
            raise OnnxoptError(f"{file}: holds no samples; leave it out")
        return int(found.frames)

    def read(self, chosen: Array) -> Array:
        """Samples in the shape of the input."""
        waves = np.stack([self._wave(*self.pieces[i]) for i in chosen])
        shape = [1] * len(self.shape.entry.shape)
        shape[0], shape[self.shape.axis] = waves.shape
        return self.shape.entry.cast(waves.reshape(shape), str(self.folder))

    def _wave(self, index: int, start: int) -> Array:
        """One sample, `[time]`."""
        file, length = self.files[index], self.shape.length
        try:
            wave, _ = self._library.read(str(file), length or -1, start, dtype="float32", always_2d=True)
        except Exception as error:  # the library raises various errors
            raise OnnxoptError(f"{file}: not audio that can be read: {first_line(error)}") from error
        mono = wave.mean(1)
        self.shape.entry.check_finite(mono, str(file), None)
        return np.pad(mono, (0, max(0, (length or 0) - len(mono))))


def _open(name: str, found: _Recordings) -> Data:
    entry, count = found.shape.entry, len(found.pieces)
    if count < (entry.batch or 1):
        raise OnnxoptError(f"{name}: holds {count} samples, the model takes {entry.batch} at once")
    by_file = folder_labels([file.relative_to(found.folder) for file in found.files])
    labels = None if by_file is None else by_file[[index for index, _ in found.pieces]]

    def read(chosen: Array) -> Batch:
        return Batch({entry.name: found.read(chosen)}, None if labels is None else labels[chosen])

    def digest() -> str:
        return sha256(str(entry).encode(), *(identity(file, found.folder) for file in found.files))

    most = _BATCH if found.shape.length else 1
    return Data(name, lambda: in_batches(count, most, entry.batch, read), cache(digest))
