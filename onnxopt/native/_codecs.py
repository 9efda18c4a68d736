"""Codecs: integers or elements of a matrix <-> bytes."""

from __future__ import annotations

from collections.abc import Mapping
from ctypes import byref, c_size_t, c_void_p
from functools import cache
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from onnxopt.errors import ContainerError, OnnxoptError
from onnxopt.native import _repeats
from onnxopt.native._library import Array, check, library, pointer, take

PREFERENCES = ("smallest", "balanced", "fastest", "quick")


@cache
def codec_ids() -> Mapping[str, int]:
    """The id of every codec in the library, by name, in order of id."""
    names = ((library().onnxopt_codec_name(i), i) for i in range(256))
    return MappingProxyType({name.decode(): i for name, i in names if name is not None})


def _id(codec: str) -> int:
    if codec not in codec_ids():
        raise OnnxoptError(f"no codec is called {codec!r}; there is {', '.join(codec_ids())}")
    return codec_ids()[codec]


def encode(q: Array, codec: str | None = None, prefer: str = "balanced") -> tuple[str, bytes]:
    """Codes the integers ``q[rows, cols]``; returns the codec's name and the bytes.

    Without `codec` the library tries all codecs and keeps the cheapest; `prefer` weighs bytes against decoding time.
    Raises OnnxoptError where `codec` cannot hold these integers.
    """
    q = np.ascontiguousarray(q, np.int32)
    rows, cols = q.shape
    data, size = c_void_p(), c_size_t()
    wanted = -1 if codec is None else _id(codec)
    chosen = check(
        library().onnxopt_encode(pointer(q), rows, cols, wanted, PREFERENCES.index(prefer), byref(data), byref(size))
    )
    return library().onnxopt_codec_name(chosen).decode(), take(data, size)


def decode(codec: str, data: bytes, rows: int, cols: int) -> npt.NDArray[np.int32]:
    """Inverse of `encode`. Raises ContainerError on malformed data."""
    q = np.empty((rows, cols), np.int32)
    check(library().onnxopt_decode_integers(_id(codec), data, len(data), rows, cols, pointer(q)), ContainerError)
    return q


def decode_floats(codec: str, data: bytes, scales: npt.NDArray[np.float32], cols: int) -> npt.NDArray[np.float32]:
    """Decodes to ``scales[row] * q[row, col]`` on one thread. Raises ContainerError on malformed data."""
    out = np.empty((len(scales), cols), np.float32)
    status = library().onnxopt_decode_floats(
        _id(codec), data, len(data), len(scales), cols, pointer(scales), pointer(out)
    )
    check(status, ContainerError)
    return out


def encode_lossless(values: Array, inner: int | None = None) -> bytes:
    """Codes the elements of ``values[rows, cols]`` bit for bit.

    `inner` is the last dimension of the tensor where that is not `cols`: structure may repeat along it.
    """
    return lossless_stream(values, inner).data


def lossless_stream(values: Array, inner: int | None = None) -> _repeats.Stream:
    """The same, with the version of the container format that it needs."""
    values = np.ascontiguousarray(values)
    plain = _encode_single(values)
    columns = dict.fromkeys((values.shape[1], inner or values.shape[1]))
    found = _repeats.streams(values, columns, _coded, _encode_single)
    best = min(found, key=lambda stream: len(stream.data), default=plain)
    return best if 100 * len(best.data) < 99 * len(plain.data) else plain  # it is decoded more slowly


def _encode_single(values: Array) -> _repeats.Stream:
    """The same without repeats."""
    rows, cols = values.shape
    data, size = c_void_p(), c_size_t()
    width = values.dtype.itemsize
    version = check(library().onnxopt_encode_lossless(pointer(values), width, rows, cols, byref(data), byref(size)))
    return _repeats.Stream(take(data, size), version)


def _coded(q: Array) -> bytes:
    """A matrix of integers as it stands inside a lossless stream."""
    codec, data = encode(q, prefer="fastest")
    return bytes((_id(codec),)) + _repeats.varint(len(data)) + data


def decode_lossless(data: bytes, dtype: npt.DTypeLike, rows: int, cols: int) -> Array:
    """Inverse of `encode_lossless`. Raises ContainerError on malformed data."""
    out = np.empty((rows, cols), dtype)
    status = library().onnxopt_decode_lossless(data, len(data), out.dtype.itemsize, rows, cols, pointer(out))
    check(status, ContainerError)
    return out
