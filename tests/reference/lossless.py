"""Codec 5, lossless: a reference decoder written from docs/format/lossless.md, for tests."""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
from fields import Fields

Decoder = Callable[[bytes, int, int], npt.NDArray[np.int32]]

_STORED = 255


def _coded(fields: Fields, codec: int, rows: int, cols: int, codecs: Mapping[int, Decoder]) -> npt.NDArray[np.int32]:
    return codecs[codec](fields.bytes(fields.varint()), rows, cols).reshape(-1)


def _planes(fields: Fields, width: int, rows: int, cols: int, codecs: Mapping[int, Decoder]) -> npt.NDArray[np.uint8]:
    """Elements as bytes [rows * cols, width]."""
    n = rows * cols
    bits = 8 * width
    out = np.zeros(n, np.uint64)
    for b in reversed(range(width if n else 0)):
        codec = fields.u8()
        if codec == _STORED:
            plane = np.frombuffer(fields.bytes(n), np.uint8)
        else:
            plane = _coded(fields, codec, rows, cols, codecs).astype(np.uint8)
        out |= plane.astype(np.uint64) << np.uint64(8 * b)
    if width > 1:
        out = out >> np.uint64(1) | (out & np.uint64(1)) << np.uint64(bits - 1)
    return out.astype("<u8").view(np.uint8).reshape(n, 8)[:, :width]


def _repeats(fields: Fields, width: int, n: int, codecs: Mapping[int, Decoder]) -> npt.NDArray[np.uint8]:
    """Mode 4: elements as bytes [n, width]."""
    m = fields.varint()
    gaps, lengths, distances, ways = (_coded(fields, fields.u8(), 1, m, codecs) for _ in range(4))
    stored = decode(fields.rest(), width, 1, n - int(lengths.sum()), codecs)
    rest = list(np.frombuffer(stored, np.uint8).reshape(-1, width))
    out: list[npt.NDArray[np.uint8]] = []
    for gap, length, distance, way in zip(gaps, lengths, distances, ways, strict=True):
        out += rest[:gap]
        del rest[:gap]
        first = len(out) - distance
        for t in range(length):
            element = out[first - t if way & 1 else first + t].copy()
            element[-1] ^= 0x80 * (way >> (1 + t % 2) & 1)
            out.append(element)
    return np.array(out + rest, np.uint8).reshape(n, width)


def decode(data: bytes, width: int, rows: int, cols: int, codecs: Mapping[int, Decoder]) -> bytes:
    """Elements of `width` bytes, row by row; `codecs` decodes the integer matrices inside, by codec id."""
    fields = Fields(data)
    mode = fields.u8()
    if mode == 0:
        return _planes(fields, width, rows, cols, codecs).tobytes()
    if mode == 1:
        integers = _coded(fields, fields.u8(), rows, cols, codecs)
        return integers.astype(f"<i{width}").tobytes()
    if mode == 3:
        marks = _coded(fields, fields.u8(), rows, cols, codecs)
        out = np.zeros((rows * cols, width), np.uint8)
        out[marks == 2, -1] = 0x80
        others = decode(fields.rest(), width, 1, np.count_nonzero(marks == 1), codecs)
        out[marks == 1] = np.frombuffer(others, np.uint8).reshape(-1, width)
        return out.tobytes()
    if mode == 4:
        return _repeats(fields, width, rows * cols, codecs).tobytes()
    if mode == 5:
        columns = fields.varint()
        turned = decode(fields.rest(), width, columns, rows * cols // columns, codecs)
        return np.frombuffer(turned, f"V{width}").reshape(columns, -1).T.tobytes()
    if mode == 6:
        rotated = _coded(fields, fields.u8(), rows, cols, codecs)
        return (rotated >> 1 | (rotated & 1) << 15).astype("<u2").tobytes()
    size = fields.varint()
    table = _planes(fields, width, 1, size, codecs)
    return table[_coded(fields, fields.u8(), rows, cols, codecs)].tobytes()
