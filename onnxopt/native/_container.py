"""The container's reader."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ctypes import byref, c_size_t, c_void_p
from dataclasses import dataclass
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
import onnx

from onnxopt.errors import ContainerError
from onnxopt.native._elements import PAIRED, unpaired
from onnxopt.native._library import Array, EntryInfo, check, library, pointer

RECONSTRUCTIONS = ("raw", "affine", "codebook", "relative")
"""Their numbers are those of FORMAT.md."""

_BATCH = 16 << 20
"""Bytes that are decoded at a time, at least."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One stored tensor, as the container's table lists it."""

    name: str
    """Empty for the scales and tables of other entries, and for pieces of the inner model."""
    dtype: int
    """ONNX's TensorProto.DataType."""
    dims: tuple[int, ...]
    codec: str
    coded_size: int
    """Bytes in the file."""
    size: int
    """Bytes when decoded."""
    axis: int
    reconstruction: str
    """One of `RECONSTRUCTIONS`."""
    auxiliary: int | None
    """Index of the entry with the scales, the table, or the other weight of a relative one."""

    @property
    def hidden(self) -> bool:
        """Whether the entry is no tensor of the model."""
        return not self.name


class Container:
    """A compressed model or a bare container in the native reader, which checks everything before use.

    Raises ContainerError where `data` is damaged or no container.
    """

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = np.frombuffer(data, np.uint8)  # the reader keeps views into it
        self._handle = library().onnxopt_open(pointer(self._data), self._data.size)
        if not self._handle:
            check(-1, ContainerError)
        self.entries: Sequence[Entry] = [self._entry(i) for i in range(library().onnxopt_entry_count(self._handle))]
        self.model = self._blob("onnxopt_model")
        self.plan = self._blob("onnxopt_plan").decode(errors="replace")
        self.version: int = library().onnxopt_format_version(self._handle)
        self.values_crc: int = library().onnxopt_values_crc(self._handle)

    def _entry(self, index: int) -> Entry:
        info = EntryInfo()
        check(library().onnxopt_entry_info(self._handle, index, byref(info)), ContainerError)
        return Entry(
            name=info.name.decode(errors="replace"),
            dtype=info.dtype,
            dims=tuple(info.dims[: info.rank]),
            codec=info.codec.decode(),
            coded_size=info.coded_size,
            size=info.size,
            axis=info.axis,
            reconstruction=RECONSTRUCTIONS[info.reconstruction],
            auxiliary=info.auxiliary if info.reconstruction else None,
        )

    def _blob(self, function: str) -> bytes:
        size = c_size_t()
        data = getattr(library(), function)(self._handle, byref(size))
        return ctypes.string_at(data, size.value)

    def decode(self, threads: int = 0) -> dict[str, Array]:
        """Every tensor of the model by name, decoded on `threads` threads (0: all cores). Raises ContainerError."""
        try:
            arrays = [None if e.hidden else _empty(e) for e in self.entries]
        except MemoryError as error:
            size = sum(e.size for e in self.entries if not e.hidden)
            raise ContainerError(f"decoded, its weights take {size} bytes: more than this machine gives") from error
        out = (c_void_p * len(arrays))(*(None if a is None else a.ctypes.data for a in arrays))
        check(library().onnxopt_decode(self._handle, out, threads), ContainerError)
        made = zip(self.entries, arrays, strict=True)
        return {e.name: _elements(e, array) for e, array in made if array is not None}

    def write(self, file: BinaryIO) -> dict[str, tuple[int, int]]:
        """Writes every tensor of the model, decoded on all cores, and holds 16 MiB of them or one at a time.

        Returns where each begins, at a multiple of a page's size, and its bytes, by name. Raises ContainerError, and
        OSError where the file takes no more.
        """
        places, batch = dict[str, tuple[int, int]](), dict[int, Array]()
        for i, entry in enumerate(self.entries):
            if not entry.hidden:
                batch[i] = np.empty(entry.size, np.uint8)
            if sum(map(len, batch.values())) < _BATCH and i + 1 < len(self.entries):
                continue
            out = (c_void_p * len(self.entries))(
                *(batch[k].ctypes.data if k in batch else None for k in range(len(self.entries)))
            )
            check(library().onnxopt_decode(self._handle, out, 0), ContainerError)
            for k, array in batch.items():
                file.write(bytes(-file.tell() % mmap.PAGESIZE))
                places[self.entries[k].name] = file.tell(), array.nbytes
                file.write(array.data)
            batch = {}
        return places

    def close(self) -> None:
        """Frees the reader; the container cannot be used any more."""
        if self._handle:
            library().onnxopt_close(self._handle)
            self._handle = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self.close()


def _empty(entry: Entry) -> Array:
    """Memory for an entry's bytes."""
    dtype = onnx.helper.tensor_dtype_to_np_dtype(entry.dtype)
    array = np.empty(entry.size, np.uint8) if dtype in PAIRED else np.empty(entry.dims, dtype)
    if array.nbytes != entry.size:
        kind = onnx.TensorProto.DataType.Name(entry.dtype)
        raise ContainerError(f"weight {entry.name!r} is of type {kind}, which this version of onnx lacks: update onnx")
    return array


@contextmanager
def prepared(data: bytes | memoryview) -> Iterator[tuple[str, bytes]]:
    """Decodes the weights for one session, which the caller creates in this context.

    Yields the value of the session config entry ``onnxopt.prepared``, to be set before the library is registered, and
    the model for the session: see ``onnxopt_prepare`` in onnxopt.h. Raises ContainerError.
    """
    with Container(data) as container:
        model, size = c_void_p(), c_size_t()
        key = library().onnxopt_prepare(container._handle, 0, byref(model), byref(size))
    if not key:
        check(-1, ContainerError)
    del data, container
    try:
        yield str(key), ctypes.string_at(model, size.value)
    finally:
        library().onnxopt_finish(key)


def _elements(entry: Entry, decoded: Array) -> Array:
    dtype = onnx.helper.tensor_dtype_to_np_dtype(entry.dtype)
    return unpaired(decoded, entry.dims, dtype) if dtype in PAIRED else decoded
