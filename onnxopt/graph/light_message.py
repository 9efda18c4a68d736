"""ONNX messages in pieces: without the bytes of large tensors, which stay where they are in the file, or without nodes.

A parser holds a message twice: as the bytes it reads, and as what it makes of them. Here it reads the little that is
left once the large initializers of the main graph are taken out
(https://protobuf.dev/programming-guides/encoding/).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import onnx

from onnxopt.files.set_aside import LEAST
from onnxopt.native import varint

_GRAPH, _NODE, _INITIALIZER, _RAW_DATA = 7, 1, 5, 9
"""Fields of ModelProto, GraphProto and TensorProto (onnx.proto)."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
"""Wire types."""
_MOST = 256
"""Fields of a tensor that are looked at. One with its elements in bytes has few."""


@dataclass(frozen=True, slots=True)
class Light:
    """A model whose large initializers are empty."""

    model: onnx.ModelProto
    elements: Mapping[int, memoryview]
    """By index of an initializer in the main graph, the bytes of its elements, where they are in the file."""


def light(content: memoryview) -> Light | None:
    """The message of an ONNX file. None where it has not the form that ONNX's own writers give it.

    Raises protobuf's DecodeError if what is left is no message.
    """
    elements = dict[int, memoryview]()
    try:
        rest = b"".join(_model(content, elements))
    except ValueError:
        return None
    return Light(onnx.load_model_from_string(rest), elements)


def with_nodes(content: bytes, nodes: Collection[int]) -> bytes:
    """A serialized model with some nodes of its main graph only, by their indices."""
    return b"".join(
        _field(_GRAPH, b"".join(_some(value, nodes))) if number == _GRAPH and value is not None else whole
        for number, whole, value in _fields(memoryview(content))
    )


def _some(graph: memoryview, nodes: Collection[int]) -> Iterator[memoryview]:
    count = 0
    for number, whole, _ in _fields(graph):
        if number != _NODE or count in nodes:
            yield whole
        count += number == _NODE


def _model(content: memoryview, elements: dict[int, memoryview]) -> Iterator[bytes]:
    graphs = 0
    for number, whole, value in _fields(content):
        if number == _GRAPH and value is not None:
            graphs += 1
            graph = b"".join(_graph(value, elements))
            yield _field(_GRAPH, graph)
        else:
            yield bytes(whole)
    if graphs > 1:
        raise ValueError("two graphs, which are one for a parser")


def _graph(content: memoryview, elements: dict[int, memoryview]) -> Iterator[bytes]:
    count = 0
    for number, whole, value in _fields(content):
        if number != _INITIALIZER or value is None:
            yield bytes(whole)
            continue
        fields = list(islice(_fields(value), _MOST)) if len(value) >= LEAST else []
        raw = [one for field, _, one in fields if field == _RAW_DATA]
        if len(raw) == 1 and raw[0] is not None and len(raw[0]) >= LEAST and len(fields) < _MOST:
            elements[count] = raw[0]
            yield _field(_INITIALIZER, b"".join(bytes(one) for field, one, _ in fields if field != _RAW_DATA))
        else:
            yield bytes(whole)
        count += 1


def _field(number: int, value: bytes) -> bytes:
    return varint(number << 3 | _BYTES) + varint(len(value)) + value


def _fields(content: memoryview) -> Iterator[tuple[int, memoryview, memoryview | None]]:
    """Number, bytes and value of each field of a message; the value is None unless it is bytes.

    Raises ValueError if it is no message.
    """
    at = 0
    while at < len(content):
        key, value = _varint(content, at)
        kind, end = key & 7, value
        if kind == _VARINT:
            _, end = _varint(content, value)
        elif kind in (_FIXED64, _FIXED32):
            end += 8 if kind == _FIXED64 else 4
        elif kind == _BYTES:
            size, value = _varint(content, value)
            end = value + size
        else:
            raise ValueError(f"a field of wire type {kind}")
        if end > len(content):
            raise ValueError(f"a field that ends at byte {end} of {len(content)}")
        yield key >> 3, content[at:end], content[value:end] if kind == _BYTES else None
        at = end


def _varint(content: memoryview, at: int) -> tuple[int, int]:
    """A number, and where the next one begins. Raises ValueError if it does not end."""
    number = 0
    for shift in range(0, 64, 7):
        if at >= len(content):
            break
        byte = content[at]
        number, at = number | (byte & 0x7F) << shift, at + 1
        if byte < 0x80:
            return number, at
    raise ValueError("a number without an end")
