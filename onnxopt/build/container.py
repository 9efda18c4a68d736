"""The container's writer (FORMAT.md). Knows leaves and codecs, neither passes nor graphs.

The reader is native (`onnxopt.native.Container`): one reader, whoever reads.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from struct import pack

import numpy as np
import onnx

from onnxopt import native
from onnxopt.encoding import Affine, Array, Blockwise, Encoding, Stored, values_of
from onnxopt.errors import OnnxoptError

MAGIC = b"onnxopt\0"
VERSION = 1
CHUNK = 1 << 20
"""Elements that are coded together: large enough for tables to cost nothing, small enough to use every core."""
_NONE, _SCALES, _TABLE = 0, 1, 2


@dataclass(frozen=True, slots=True)
class _Record:
    """One row of the entry table, before its chunks are coded."""

    name: str
    dtype: np.dtype[np.generic]
    dims: tuple[int, ...]
    axis: int
    reconstruction: int
    auxiliary: int | None
    elements: Array
    """int32 where an integer codec may be used, else the tensor's own elements for the lossless codec."""


def varint(value: int) -> bytes:
    """LEB128."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def matrix_view(dims: tuple[int, ...], axis: int) -> tuple[int, int]:
    """Rows and columns as codecs see them: what follows the axis is a row; where nothing does, the axis itself is."""
    inner = prod(dims[axis + 1 :])
    return (prod(dims[: axis + 1]), inner) if inner > 1 else (prod(dims[:axis]), dims[axis])


def write(
    model: bytes,
    leaves: Mapping[str, Encoding],
    plan: str,
    prefer: str = "balanced",
    advance: Callable[[str], None] | None = None,
) -> bytes:
    """The container of an inner model, its weights and the plan they come from.

    Arguments:
        model: the inner ONNX model, serialized; its initializers named in `leaves` are external-data references.
        leaves: every stored weight by name; none may be empty or a scalar.
        plan: JSON, kept verbatim.
        prefer: what the choice of codecs favours, one of `native.PREFERENCES`.
        advance: told each stored weight's name as it is done.
    """
    stored = {name: leaf.packed() if isinstance(leaf, Blockwise) else leaf for name, leaf in leaves.items()}
    records = list(_records(stored))
    with ThreadPoolExecutor() as pool:
        coded = [pool.submit(_code, record, prefer) for record in records]
        table, data = bytearray(), bytearray()
        for record, future in zip(records, coded, strict=True):
            codec, chunk_rows, chunks = future.result()
            table += _table_row(record, codec, chunk_rows, chunks)
            for chunk in chunks:
                data += chunk
            if advance and record.name:
                advance(record.name)
    values_crc = 0
    for leaf in stored.values():
        values_crc = zlib.crc32(values_of(leaf).tobytes(), values_crc)
    text = plan.encode()
    meta = varint(len(table)) + varint(len(model)) + bytes(table) + model + text
    packed = _deflate(meta)
    header = MAGIC + pack("<HHI", VERSION, 0, len(records)) + pack("<QQQ", len(packed), len(meta), len(data))
    header += pack("<II", zlib.crc32(packed), values_crc)
    return header + pack("<I", zlib.crc32(header)) + packed + data


def _deflate(data: bytes) -> bytes:
    """The fewest bytes that zlib makes of it: its memory level sets where it may begin a block of new tables."""
    streams = (zlib.compressobj(9, zlib.DEFLATED, -15, level) for level in range(4, 10))  # raw: the checksums are ours
    return min((deflate.compress(data) + deflate.flush() for deflate in streams), key=len)


def _records(leaves: Mapping[str, Stored]) -> Iterator[_Record]:
    """The entries in file order: scales or tables stand before the first leaf that has them, and serve all that do."""
    indices: dict[tuple[object, ...], int] = {}
    count = 0
    for name, leaf in leaves.items():
        if isinstance(leaf, np.ndarray):
            yield _Record(name, leaf.dtype, leaf.shape, 0, _NONE, None, _as_integers(leaf))
            count += 1
            continue
        if isinstance(leaf, Affine):
            auxiliary = _Record("", np.dtype(np.int16), leaf.k.shape, 0, _NONE, None, leaf.k.astype(np.int32))
        else:
            auxiliary = _Record("", leaf.table.dtype, leaf.table.shape, 0, _NONE, None, leaf.table)
        key = (auxiliary.dtype, auxiliary.dims, auxiliary.elements.tobytes())
        if key not in indices:
            indices[key] = count
            yield auxiliary
            count += 1
        if isinstance(leaf, Affine):
            yield _Record(name, leaf.dtype, leaf.q.shape, leaf.axis, _SCALES, indices[key], leaf.q)
        else:
            yield _Record(name, leaf.table.dtype, leaf.index.shape, 0, _TABLE, indices[key], leaf.index)
        count += 1


def _as_integers(values: Array) -> Array:
    """int32 where every element fits, else the elements themselves."""
    if values.dtype.kind == "f":
        return values
    if values.dtype.itemsize >= 4:
        low, high = int(values.min()), int(values.max())
        if low < -(2**31) or high >= 2**31:
            return values
    return values.astype(np.int32)


def _code(record: _Record, prefer: str) -> tuple[str, int, list[bytes]]:
    """The codec, the rows in a chunk and the coded chunks of one entry: whichever codec takes the fewest bytes."""
    rows, cols = matrix_view(record.dims, record.axis)
    elements = np.ascontiguousarray(record.elements).reshape(rows, cols)
    chunk_rows = max(1, min(rows, CHUNK // cols))
    parts = [elements[at : at + chunk_rows] for at in range(0, rows, chunk_rows)]
    if elements.dtype != np.int32 or (record.dtype.kind == "f" and record.reconstruction == _NONE):
        return "lossless", chunk_rows, [native.encode_lossless(part) for part in parts]
    codec, first = native.encode(parts[0], prefer=prefer)
    try:
        return codec, chunk_rows, [first, *(native.encode(part, codec)[1] for part in parts[1:])]
    except OnnxoptError:  # a later chunk holds what the first one's codec cannot
        return "bitpack", chunk_rows, [native.encode(part, "bitpack")[1] for part in parts]


def _table_row(record: _Record, codec: str, chunk_rows: int, chunks: list[bytes]) -> bytes:
    name = record.name.encode()
    dtype = onnx.helper.np_dtype_to_tensor_dtype(record.dtype)
    row = varint(len(name)) + name + bytes((dtype, len(record.dims)))
    row += b"".join(map(varint, record.dims))
    row += bytes((record.reconstruction, record.axis, native.CODECS.index(codec)))
    row += b"" if record.auxiliary is None else varint(record.auxiliary)
    row += varint(chunk_rows)
    return row + b"".join(varint(len(chunk)) + pack("<I", zlib.crc32(chunk)) for chunk in chunks)
