"""The bytes that attacks are made of: containers, models and streams in which every field can be set.

Nothing of onnxopt is used: FORMAT.md is all that this knows.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from struct import pack

FLOAT, UINT8, INT8, INT16, INT32, INT64, STRING, BOOL, FLOAT8, INT4 = 1, 2, 3, 5, 6, 7, 8, 9, 17, 22
RAW, BITPACK, HUFFMAN, RANS, CONTEXT, LOSSLESS, ADAPTIVE = range(7)
NONE, SCALES, TABLE, RELATIVE = range(4)
TOO_MANY = 1 << 60


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def svarint(value: int) -> bytes:
    return varint(value << 1 if value >= 0 else -2 * value - 1)


# --- containers ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """One record and its chunks; the defaults make int8[2, 3], raw, one chunk."""

    name: bytes = b"w"
    dtype: int = INT8
    dims: tuple[int, ...] = (2, 3)
    how: int = NONE
    axis: int = 0
    codec: int = RAW
    auxiliary: int | None = None
    relation: bytes = b""
    chunk_rows: int = 2
    chunks: tuple[bytes, ...] = (b"\x01\x01\x02\x03\x04\x05\x06",)
    rank: int | None = None
    name_length: int | None = None
    lengths: tuple[int, ...] | None = None
    raw_dims: bytes | None = None

    def record(self) -> bytes:
        out = varint(len(self.name) if self.name_length is None else self.name_length) + self.name
        out += bytes((self.dtype, len(self.dims) if self.rank is None else self.rank))
        out += b"".join(map(varint, self.dims)) if self.raw_dims is None else self.raw_dims
        out += bytes((self.how, self.axis, self.codec))
        out += b"" if self.auxiliary is None else varint(self.auxiliary)
        out += self.relation + varint(self.chunk_rows)
        lengths = self.lengths or tuple(map(len, self.chunks))
        return out + b"".join(varint(n) + pack("<I", zlib.crc32(c)) for n, c in zip(lengths, self.chunks, strict=True))


def stored(data: bytes) -> bytes:
    """A raw deflate stream that does not compress."""
    parts = [data[at : at + 0xFFFF] for at in range(0, len(data), 0xFFFF)] or [b""]
    return b"".join(bytes((part is parts[-1],)) + pack("<HH", len(part), len(part) ^ 0xFFFF) + part for part in parts)


def zeros(size: int) -> bytes:
    """A raw deflate stream of `size` zeros, 1 + 258 n of them: a literal, then n times "258 bytes, one byte back"."""
    bits, count = 0b1, 1  # the last block
    bits, count = bits | 0b01 << count, count + 2  # fixed codes
    bits, count = bits | 0b00001100 << count, count + 8  # literal 0 is 00110000, most significant bit first
    for _ in range((size - 1) // 258):
        bits, count = bits | 0b10100011 << count, count + 8  # length 258 is 11000101
        bits, count = bits | 0 << count, count + 5  # distance 1
    return (bits).to_bytes((count + 7 + 7) // 8, "little")  # and seven zero bits, the end of the block


@dataclass(frozen=True)
class Box:
    """A container; what is None is made to be right."""

    entries: tuple[Entry, ...] = (Entry(),)
    count: int | None = None
    version: int = 1
    flags: int = 0
    model: bytes = b""
    table: bytes | None = None
    table_size: int | None = None
    model_size: int | None = None
    splices: bytes = b""
    meta: bytes | None = None
    packed: bytes | None = None
    packed_size: int | None = None
    meta_size: int | None = None
    data: bytes | None = None
    data_size: int | None = None
    meta_crc: int = 0  # xor of the right one
    values_crc: int = 0
    header_crc: int = 0  # xor of the right one
    magic: bytes = b"onnxopt\0"
    end: bytes = b""

    def build(self) -> bytes:
        table = b"".join(e.record() for e in self.entries) if self.table is None else self.table
        model = self.model or inner_model()
        meta = varint(len(table) if self.table_size is None else self.table_size)
        meta += varint(len(model) if self.model_size is None else self.model_size)
        meta += varint(len(self.splices)) if self.version >= 2 else b""
        meta += table + model + self.splices + b"{}"
        meta = meta if self.meta is None else self.meta
        packed = stored(meta) if self.packed is None else self.packed
        data = b"".join(c for e in self.entries for c in e.chunks) if self.data is None else self.data
        header = self.magic + pack(
            "<HHI", self.version, self.flags, len(self.entries) if self.count is None else self.count
        )
        header += pack(
            "<QQQ",
            len(packed) if self.packed_size is None else self.packed_size,
            len(meta) if self.meta_size is None else self.meta_size,
            len(data) if self.data_size is None else self.data_size,
        )
        header += pack("<II", zlib.crc32(packed) ^ self.meta_crc, self.values_crc)
        return header + pack("<I", zlib.crc32(header) ^ self.header_crc) + packed + data + self.end


# --- models ----------------------------------------------------------------------------------------------------------


def proto(number: int, value: bytes | int) -> bytes:
    """One protobuf field."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def value_info(name: bytes) -> bytes:
    shape = proto(2, proto(1, proto(1, 1)))  # one dimension of 1
    return proto(1, name) + proto(2, proto(1, proto(1, FLOAT) + shape))


def model_of(graph: bytes) -> bytes:
    opsets = proto(8, proto(1, b"") + proto(2, 13)) + proto(8, proto(1, b"onnxopt") + proto(2, 1))
    return proto(1, 8) + proto(7, graph) + opsets


def inner_model(initializers: bytes = b"") -> bytes:
    node = proto(1, b"x") + proto(2, b"y") + proto(4, b"Identity")
    return model_of(
        proto(1, node) + proto(2, b"g") + initializers + proto(11, value_info(b"x")) + proto(12, value_info(b"y"))
    )


NODE = proto(1, b"onnxopt.container") + proto(1, b"x") + proto(2, b"y")
NODE += proto(4, b"CompressedModel") + proto(7, b"onnxopt")


def payload(container: bytes, dtype: int = UINT8) -> bytes:
    return proto(1, len(container)) + proto(2, dtype) + proto(8, b"onnxopt.container") + proto(9, container)


def outer_model(tensor: bytes, node: bytes = NODE) -> bytes:
    graph = proto(1, node) + proto(2, b"g") + proto(5, tensor)
    return model_of(graph + proto(11, value_info(b"x")) + proto(12, value_info(b"y")))


def external(location: bytes, *more: tuple[bytes, bytes]) -> bytes:
    """A payload that lies in another file."""
    out = proto(1, 9) + proto(2, UINT8) + proto(8, b"onnxopt.container")
    for key, value in ((b"location", location), *more):
        out += proto(13, proto(1, key) + proto(2, value))
    return out + proto(14, 1)


# --- lies -------------------------------------------------------------------------------------------------------------


Lie = tuple[str, Box, str, str]


def scale_entry(ks: tuple[int, ...], name: bytes = b"") -> Entry:
    chunk = b"\x02" + pack(f"<{len(ks)}h", *ks)
    return Entry(name, INT16, (len(ks),), chunk_rows=1, chunks=(chunk,))


def scaled(auxiliary: int = 0, how: int = SCALES) -> Entry:
    return Entry(dtype=FLOAT, how=how, auxiliary=auxiliary)


def float_entry(values: bytes) -> Entry:
    """float32 elements, their planes stored; all are of the form abcd -> rotated left by one bit."""
    words = [int.from_bytes(values[at : at + 4], "little") for at in range(0, len(values), 4)]
    rotated = [(w << 1 | w >> 31) & 0xFFFFFFFF for w in words]
    planes = b"".join(b"\xff" + bytes(w >> 8 * b & 255 for w in rotated) for b in (3, 2, 1, 0))
    return Entry(b"", FLOAT, (len(words),), codec=LOSSLESS, chunk_rows=1, chunks=(b"\0" + planes,))


class Bits:
    """Bit fields, least significant bit first."""

    def __init__(self) -> None:
        self.value = self.count = 0

    def put(self, value: int, width: int) -> Bits:
        self.value |= value << self.count
        self.count += width
        return self

    def bytes(self) -> bytes:
        return self.value.to_bytes((self.count + 7) // 8, "little")


def rans(
    head: int = 0x00,
    base: int = 0,
    symbols: int = 2,
    classes: bytes = b"\0",
    maps: bytes = b"",
    code: int = 0,
    table: bytes | None = None,
    tail: bytes = b"",
    states: bytes = pack("<I", 1 << 16),
    words: bytes = b"",
) -> bytes:
    """A rans stream, one lane, two symbols of equal levels 1: every field can be set."""
    both = Bits().put(0, 1).put(2, 2).put(0, 1).put(0, 1)  # first, count, two differences of 0
    table = both.bytes() if table is None else table
    return (
        bytes((head,))
        + svarint(base)
        + bytes((symbols - 1,))
        + classes
        + maps
        + bytes((code,))
        + table
        + tail
        + states
        + words
    )
