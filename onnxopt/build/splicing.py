"""Numbers inside the inner model, which deflate packs badly: they are cut out and stored as entries (FORMAT.md)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from onnxopt import native
from onnxopt.encoding import STORABLE, Array, Raw, UncodedEntry
from onnxopt.native import varint

_SHORTEST = 32
"""Bytes of numbers in one place, below which nothing is cut out."""
_LEAST = 512
"""Bytes of one element type, below which an entry of its own does not pay."""
_INFLATION = 1032
"""A reader takes an entry of pieces that is at most so many times smaller than what it holds."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """Bytes ``model[start : start + length]`` that are part of an array."""

    start: int
    length: int
    dtype: np.dtype[np.generic]


@dataclass(frozen=True, slots=True)
class Spliced:
    """An inner model without its numbers."""

    rest: bytes
    splices: bytes
    """As in the container's metadata; the entries follow the first `before` ones."""
    entries: tuple[UncodedEntry, ...]


def splice(model: bytes, before: int) -> Spliced:
    """Cuts the numbers out of a serialized model, for entries that follow `before` others."""
    pieces = list(_pieces(model))
    size = {kind: sum(p.length for p in pieces if p.dtype == kind) for kind in {p.dtype for p in pieces}}
    pieces = [piece for piece in pieces if size[piece.dtype] >= _LEAST]
    kinds = list(dict.fromkeys(piece.dtype for piece in pieces))
    content = {kind: bytearray() for kind in kinds}
    rest, splices, end = bytearray(), bytearray(), 0
    for piece in pieces:
        stop = piece.start + piece.length
        content[piece.dtype] += model[piece.start : stop]
        rest += model[end : piece.start]
        for number in (before + kinds.index(piece.dtype), piece.start - end, piece.length):
            splices += varint(number)
        end = stop
    arrays = (np.frombuffer(bytes(content[kind]), kind) for kind in kinds)
    return Spliced(bytes(rest + model[end:]), bytes(splices), tuple(Raw(array).entries()[-1] for array in arrays))


def acceptable(entry: UncodedEntry, coded: int) -> bool:
    """Whether a reader takes `coded` bytes for the pieces in `entry`."""
    return entry.elements.size * entry.dtype.itemsize <= coded * _INFLATION


def _pieces(model: bytes) -> Iterator[_Piece]:
    """In order. Equal bytes elsewhere would do as well: what counts is that the parts add up."""
    try:
        proto = onnx.ModelProto.FromString(model)
    except DecodeError:
        return
    at = 0
    for array, stride in _arrays(proto.graph):
        # Repeated floats of attributes are not packed: a tag stands before each.
        tag = b"\x3d" if stride > array.itemsize else b""
        content = b"".join(tag + one.tobytes() for one in array) if tag else array.tobytes()
        start = model.find(content, at)
        if start < 0:
            continue
        at = start + len(content)
        if tag:
            for first in range(start + 1, at, stride):
                yield _Piece(first, array.itemsize, array.dtype)
        else:
            yield _Piece(start, len(content), array.dtype)


def _arrays(graph: onnx.GraphProto) -> Iterator[tuple[Array, int]]:
    """Arrays in the order in which they are serialized, and the bytes from one element to the next."""
    for node in graph.node:
        for attribute in node.attribute:
            if 4 * len(attribute.floats) >= _SHORTEST:
                yield np.array(attribute.floats, np.float32), 5
            for tensor in (attribute.t, *attribute.tensors):
                yield from _content(tensor)
            for inner in (attribute.g, *attribute.graphs):
                yield from _arrays(inner)
    for tensor in graph.initializer:
        yield from _content(tensor)


def _content(tensor: onnx.TensorProto) -> Iterator[tuple[Array, int]]:
    if len(tensor.raw_data) >= _SHORTEST:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        if dtype in native.PAIRED | native.EIGHT_BITS:
            dtype = np.dtype(np.uint8)
        if dtype in STORABLE and len(tensor.raw_data) % dtype.itemsize == 0:
            yield np.frombuffer(tensor.raw_data, dtype), dtype.itemsize
    elif 4 * len(tensor.float_data) >= _SHORTEST:
        yield np.array(tensor.float_data, np.float32), 4
