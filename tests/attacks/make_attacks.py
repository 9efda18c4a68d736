"""Writes the attack files: each is valid but for one lie, every checksum right, so that the check meant refuses it.

`python tests/attacks/make_attacks.py` writes them beside itself, the same bytes every time. Nothing of onnxopt is used:
FORMAT.md is all that this knows.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from struct import pack

HERE = Path(__file__).parent

FLOAT, UINT8, INT8, INT16, INT32, INT64, STRING, BOOL = 1, 2, 3, 5, 6, 7, 8, 9
RAW, BITPACK, HUFFMAN, RANS, CONTEXT, LOSSLESS = range(6)
NONE, SCALES, TABLE = range(3)
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
        out += varint(self.chunk_rows)
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
        meta += varint(len(model) if self.model_size is None else self.model_size) + table + model + b"{}"
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


# --- attacks ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Attack:
    """A file, why it is hostile, and a part of what is said about it."""

    name: str
    content: bytes = field(repr=False)
    reason: str
    message: str


def attacks() -> Iterator[Attack]:
    """Every attack; containers come inside an outer model."""
    for name, box, reason, message in (*headers(), *metadata(), *tables(), *codecs(), *models()):
        yield Attack(f"{name}.onnx", outer_model(payload(box.build())), reason, message)
    for name, content, reason, message in outer():
        yield Attack(f"{name}.onnx", content, reason, message)


Lie = tuple[str, Box, str, str]


def headers() -> Iterator[Lie]:
    yield "header_magic", Box(magic=b"onnxopt\1"), "another magic", "not an onnxopt container"
    yield "header_version", Box(version=2), "a version from the future", "version 2"
    yield "header_version_zero", Box(version=0), "no version", "version 0"
    yield "header_flags", Box(flags=0x8000), "a flag from the future", "unknown flags"
    yield "header_checksum", Box(header_crc=1), "the header's checksum", "header: checksum"
    yield "metadata_checksum", Box(meta_crc=1), "the metadata's checksum", "metadata: checksum"
    yield "header_packed_huge", Box(packed_size=TOO_MANY), "2^60 bytes of metadata", "bytes announced"
    yield "header_packed_wraps", Box(packed_size=2**64 - 1), "sizes whose sum wraps around", "bytes announced"
    yield "header_data_huge", Box(data_size=2**64 - 1), "2^64 - 1 bytes of data", "bytes announced"
    yield "header_data_short", Box(data_size=3), "fewer bytes announced than there are", "bytes announced"
    yield "header_trailing", Box(end=b"\0"), "a byte after the data", "bytes announced"
    yield "header_entries_huge", Box(count=2**32 - 1), "2^32 - 1 entries in one record's bytes", "truncated"
    yield "header_entries_few", Box(count=0), "records after the last entry", "bytes left over"
    yield "meta_size_huge", Box(meta_size=TOO_MANY), "2^60 bytes of inflated metadata", "cannot hold"
    big = Box(packed=zeros(1 + 258 * 2000))
    yield "meta_size_bomb", replace(big, meta_size=2**31), "2 GiB claimed for 3 kB", "cannot hold"
    yield "meta_size_large", Box(meta_size=10_000), "more metadata claimed than inflates", "deflate stream"
    yield "meta_size_small", Box(meta_size=10), "less metadata claimed than inflates", "deflate stream"


def metadata() -> Iterator[Lie]:
    bomb = zeros(1 + 258 * 40_000)
    yield "meta_bomb", Box(packed=bomb, meta_size=1 + 258 * 40_000), "10 MB of zeros in 65 kB", "truncated"
    yield "meta_empty", Box(packed=b"", meta_size=0), "no metadata at all", "deflate stream"
    yield "meta_no_deflate", Box(packed=b"\xff" * 20, meta_size=20), "no deflate stream", "deflate stream"
    unfinished = stored(b"\0" * 9)
    yield "meta_unfinished", Box(packed=b"\0" + unfinished[1:], meta_size=9), "no last deflate block", "deflate stream"
    trailing = stored(b"\0\0{}") + b"!"
    yield "meta_trailing", Box(packed=trailing, meta_size=4), "a byte after the deflate stream", "deflate stream"
    yield "table_size_huge", Box(table_size=TOO_MANY), "2^60 bytes of records", "truncated"
    yield "model_size_huge", Box(model_size=2**63), "2^63 bytes of inner model", "truncated"
    yield "table_size_short", Box(table_size=5), "a table that ends inside its record", "truncated"
    over = b"\x80" * 9 + b"\x02"
    yield "varint_overflow", Box(meta=over + b"\0"), "a varint beyond 64 bits", "variable-length"
    yield "varint_eleven", Box(meta=b"\x80" * 10 + b"\0\0"), "a varint of eleven bytes", "variable-length"
    yield "varint_padded", Box(meta=b"\x80\x00\0"), "a varint that is not its shortest form", "variable-length"
    yield "varint_cut", Box(meta=b"\x80"), "a varint that the end cuts off", "truncated"


def tables() -> Iterator[Lie]:
    def one(**changes: object) -> Box:
        return Box((replace(Entry(), **changes),))  # type: ignore[arg-type]

    yield "name_long", one(name_length=TOO_MANY), "a name of 2^60 bytes", "truncated"
    yield "name_zero_byte", one(name=b"w\0v"), "a name that C and Python see differently", "UTF-8"
    yield "name_not_utf8", one(name=b"\xff\xfe"), "a name that is no text", "UTF-8"
    yield "name_surrogate", one(name=b"\xed\xa0\x80"), "half a character pair", "UTF-8"
    yield "name_overlong", one(name=b"\xc0\x80"), "a zero byte in disguise", "UTF-8"
    yield "name_twice", Box((Entry(), Entry())), "two entries of one name", "twice"
    yield "name_newline", one(name=b"a\nb\x1b[2J", codec=254), "a name that writes on the terminal", "a?b?[2J"
    yield "dtype_unknown", one(dtype=99), "an element type that does not exist", "element type"
    yield "dtype_string", one(dtype=STRING), "elements without a size", "element type"
    yield "dtype_zero", one(dtype=0), "no element type", "element type"
    yield "rank_zero", one(dims=()), "a scalar", "rank 0"
    yield "rank_17", one(dims=(1,) * 17), "17 dimensions", "rank 17"
    yield "rank_255", one(rank=255), "255 dimensions", "rank 255"
    yield "dim_zero", one(dims=(2, 0)), "no elements", "impossible shape"
    yield "dims_2_60", one(dims=(TOO_MANY,)), "2^60 elements", "impossible shape"
    yield "dims_overflow", one(dims=(2**32, 2**32)), "2^64 elements, which wraps to none", "impossible shape"
    yield "dims_wrap_to_six", one(dims=(2**63, 2, 6)), "a product that wraps", "impossible shape"
    yield "dim_negative", one(raw_dims=varint(2**64 - 1) + varint(3)), "dimension -1", "impossible shape"
    yield "bomb", one(dims=(2048 * 7 + 1,), chunk_rows=1), "more than 2048 elements a byte", "decompression bomb"
    yield "bomb_2_48", one(dims=(2**24, 2**24), chunk_rows=2**24), "2^48 elements in 7 bytes", "decompression bomb"
    yield "how_unknown", one(how=3), "a reconstruction from the future", "reconstruction 3"
    yield "axis_beyond", one(axis=2), "an axis beyond the rank", "axis 2"
    yield "codec_unknown", one(codec=254), "a codec from the future", "unknown codec 254"
    yield "codec_255", one(codec=255), "the mark of stored planes as a codec", "unknown codec 255"
    yield "chunk_rows_zero", one(chunk_rows=0), "chunks without rows: an endless loop", "chunks of 0 rows"
    yield "chunk_rows_many", one(chunk_rows=3), "chunks of more rows than there are", "chunks of 3 rows"
    yield "chunk_rows_2_64", one(chunk_rows=2**64 - 1), "rows whose sum wraps", "chunks of"
    yield "chunk_missing", one(chunk_rows=1), "fewer chunks than rows need", "truncated"
    yield "chunk_beyond", one(lengths=(8,)), "a chunk beyond the data", "truncated"
    yield "chunk_huge", one(lengths=(2**64 - 1,)), "a chunk of 2^64 - 1 bytes", "truncated"
    yield "chunk_empty", one(lengths=(0,)), "a chunk without bytes", "decompression bomb"
    yield "chunk_checksum", Box(data=b"\x01\x01\x02\x03\x04\x05\x07"), "data that its checksum denies", "checksum"
    yield "data_left", Box(data=Entry().chunks[0] + b"\0"), "data that no entry holds", "left over"
    yield "cast_range", one(chunks=(b"\x02" + pack("<6h", 1, 2, 3, 4, 5, 128),)), "128 as int8", "does not fit"
    yield "cast_negative", one(dtype=UINT8, chunks=(b"\x01" + bytes(5) + b"\xff",)), "-1 as uint8", "does not fit"
    yield "cast_float", one(dtype=FLOAT), "integers as float32 without scales", "cannot be rebuilt"
    yield "bool_two", one(dtype=BOOL), "a bool of 2", "does not fit"
    two = Entry(dtype=BOOL, codec=LOSSLESS, chunks=(b"\x00\xff" + bytes((0, 1, 1, 0, 2, 1)),))
    yield "bool_two_lossless", Box((two,)), "a bool of 2, lossless", "neither 0 nor 1"
    yield (
        "lossless_scaled",
        Box((scale_entry((0, 0)), replace(scaled(), codec=LOSSLESS))),
        "elements times scales",
        "lossless",
    )
    yield from auxiliaries()


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


def auxiliaries() -> Iterator[Lie]:
    fit = "do not fit"
    yield "auxiliary_forward", Box((scaled(1), scale_entry((0, 0)))), "scales that stand behind", "stand before"
    yield "auxiliary_self", Box((scaled(0),)), "an entry as its own scales", "stand before"
    yield "auxiliary_beyond", Box((scale_entry((0, 0)), scaled(2**63))), "scales in entry 2^63", "stand before"
    yield "auxiliary_named", Box((scale_entry((0, 0), b"s"), scaled())), "scales that are a tensor of the model", fit
    yield (
        "auxiliary_dtype",
        Box((Entry(b"", INT8, (2,), chunk_rows=1, chunks=(b"\1\0\0",)), scaled())),
        "int8 scales",
        fit,
    )
    yield "auxiliary_length", Box((scale_entry((0, 0, 0)), scaled())), "three scales for two rows", fit
    flat = replace(scale_entry((0, 0)), dims=(1, 2))
    yield "auxiliary_rank", Box((flat, scaled())), "scales of rank 2", fit
    chain = replace(scaled(0), name=b"", dims=(2,), chunk_rows=1, chunks=(b"\1\0\0",))
    yield "auxiliary_chain", Box((scale_entry((0, 0)), chain, scaled(1))), "scales that have scales", fit
    yield "table_dtype", Box((scale_entry((0, 0)), scaled(how=TABLE))), "a table of int16 for float32", fit
    yield "scale_large", Box((scale_entry((0, 512)), scaled())), "scale 2^128, infinite", "no normal float32"
    yield "scale_small", Box((scale_entry((0, -505)), scaled())), "a denormal scale", "no normal float32"
    yield "scale_int_min", Box((scale_entry((0, -32768)), scaled())), "scale 2^-8192", "no normal float32"
    nan, infinite = pack("<ff", 1, float("nan")), pack("<ff", 1, float("inf"))
    yield "scale_nan", Box((float_entry(nan), scaled())), "scale NaN", "not finite"
    yield "scale_infinite", Box((float_entry(infinite), scaled())), "an infinite scale", "not finite"
    integer = replace(scaled(), dtype=INT32)
    yield "scales_of_integers", Box((scale_entry((0, 0)), integer)), "integers times scales", "cannot be rebuilt"
    table = float_entry(pack("<ffffff", 0, 1, 2, 3, 4, 5))
    yield "table_index", Box((table, scaled(how=TABLE))), "index 6 into a table of six", "index 6"
    below = replace(scaled(how=TABLE), chunks=(b"\1" + bytes(5) + b"\xff",))
    yield "table_index_negative", Box((table, below)), "index -1 into a table", "index -1"
    large = replace(below, chunks=(b"\4" + pack("<6i", 0, 0, 0, 0, 0, -(2**31)),))
    yield "table_index_int_min", Box((table, large)), "index -2^31 into a table", "index -2147483648"


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


def codecs() -> Iterator[Lie]:
    def coded(codec: int, stream: bytes, dims: tuple[int, ...] = (2, 3)) -> Box:
        return Box((Entry(dtype=INT32, dims=dims, codec=codec, chunk_rows=dims[0], chunks=(stream,)),))

    six = bytes(6)
    yield "raw_width", coded(RAW, b"\3" + bytes(18)), "integers of three bytes", "width 3"
    yield "raw_width_zero", coded(RAW, b"\0" + six), "integers of no bytes: a division by zero", "width 0"
    yield "raw_short", coded(RAW, b"\1" + bytes(5)), "five integers of six", "raw: 5 bytes"
    yield "raw_long", coded(RAW, b"\1" + bytes(7)), "seven integers of six", "raw: 7 bytes"

    yield "bitpack_width_33", coded(BITPACK, b"\0\x21" + bytes(25)), "offsets of 33 bits", "33 bits"
    yield "bitpack_width_255", coded(BITPACK, b"\0\xff" + bytes(200)), "offsets of 255 bits", "255 bits"
    yield "bitpack_minimum", coded(BITPACK, svarint(2**40) + b"\0"), "minimum 2^40", "minimum"
    yield "bitpack_short", coded(BITPACK, b"\0\x08" + bytes(5)), "five offsets of six", "truncated"
    yield "bitpack_long", coded(BITPACK, b"\0\x08" + bytes(7)), "seven offsets of six", "left over"
    yield "bitpack_padding", coded(BITPACK, b"\0\x01\xff"), "bits after the last offset", "bits set"

    one = varint(1) + svarint(1) + varint(1) + b"\x01"  # a code of one symbol: 1
    zero_gap = varint(1) + svarint(0) + varint(1) + b"\x01"
    yield "huffman_gap_bits", coded(HUFFMAN, b"\x09\0\0\0"), "gaps of nine bits", "9 bits"
    yield (
        "huffman_tokens",
        coded(HUFFMAN, b"\2" + varint(7) + one + zero_gap + b"\0\0"),
        "seven tokens for six integers",
        "code words",
    )
    yield "huffman_tokens_huge", coded(HUFFMAN, b"\2" + varint(2**63) + one + zero_gap), "2^63 tokens", "code words"
    yield "huffman_symbols", coded(HUFFMAN, b"\2\1" + varint(2**40)), "2^40 symbols", "symbols"
    full = varint(3) + svarint(0) + varint(3)
    yield (
        "huffman_oversubscribed",
        coded(HUFFMAN, b"\2\1" + full + b"\x11\x01" + zero_gap + b"\0"),
        "three words of one bit",
        "complete",
    )
    yield (
        "huffman_incomplete",
        coded(HUFFMAN, b"\2\1" + full + b"\x33\x03" + zero_gap + b"\0"),
        "three words of three bits",
        "complete",
    )
    yield (
        "huffman_lone_long",
        coded(HUFFMAN, b"\2\1" + varint(1) + svarint(1) + varint(1) + b"\x05" + zero_gap + b"\0"),
        "one word of five bits",
        "complete",
    )
    spread = varint(2) + svarint(0) + varint(7)
    yield (
        "huffman_span",
        coded(HUFFMAN, b"\2\1" + spread + bytes(4)),
        "more lengths than symbols could need",
        "code lengths of 7",
    )
    sparse = varint(2) + svarint(2**31 - 1) + varint(0) + varint(0) + b"\x11"
    yield "huffman_symbol_wide", coded(HUFFMAN, b"\2\1" + sparse + zero_gap + b"\0"), "symbol 2^31", "32-bit"
    steps = varint(2) + svarint(0) + varint(0) + varint(2**64 - 1) + b"\x11"
    yield "huffman_step_wraps", coded(HUFFMAN, b"\2\1" + steps + zero_gap + b"\0"), "a step of 2^64", "32-bit"
    wide_gap = varint(1) + svarint(4) + varint(1) + b"\x01"
    yield "huffman_gap_wide", coded(HUFFMAN, b"\2\1" + one + wide_gap + b"\0"), "gap 4 in two bits", "gap"
    negative_gap = varint(1) + svarint(-1) + varint(1) + b"\x01"
    yield "huffman_gap_negative", coded(HUFFMAN, b"\2\1" + one + negative_gap + b"\0"), "gap -1", "gap"
    three = varint(1) + svarint(3) + varint(1) + b"\x01"
    yield (
        "huffman_beyond",
        coded(HUFFMAN, b"\2\2" + one + three + b"\0"),
        "an integer behind the last one",
        "outside the matrix",
    )
    yield (
        "huffman_no_word",
        coded(HUFFMAN, b"\2\1" + one + zero_gap + b"\x80"),
        "a word that the code does not have",
        "no such code word",
    )
    yield "huffman_early_end", coded(HUFFMAN, b"\2\6" + one + zero_gap + b"\0"), "words that end too soon", "truncated"
    yield "huffman_left", coded(HUFFMAN, b"\2\1" + one + zero_gap + b"\0\0"), "a byte after the last word", "left over"
    yield "huffman_padding", coded(HUFFMAN, b"\2\1" + one + zero_gap + b"\x01"), "bits after the last word", "bits set"

    yield "rans_lanes", coded(RANS, rans(head=7)), "128 lanes", "header byte"
    yield "rans_precision", coded(RANS, rans(head=0x80)), "tables of 2^16 slots", "header byte"
    yield "rans_constant_wide", coded(RANS, b"\xf0" + svarint(2**31)), "a constant beyond 32 bits", "constant"
    yield "rans_constant_left", coded(RANS, b"\xf0\0\0"), "a byte after the constant", "left over"
    yield "rans_base", coded(RANS, rans(base=2**31 - 1)), "symbols beyond 32 bits", "32 bits"
    yield "rans_class_flag", coded(RANS, rans(classes=b"\x08")), "a reserved bit", "class counts"
    yield "rans_low_bits", coded(RANS, rans(classes=b"\x80\x11")), "17 low bits", "low bits"
    yield (
        "rans_map_span",
        coded(RANS, rans(classes=b"\1", maps=varint(0) + varint(1) + b"\0")),
        "classes of no rows: a division by zero",
        "class map",
    )
    yield (
        "rans_map_period",
        coded(RANS, rans(classes=b"\1", maps=varint(1) + varint(0))),
        "a map of no rows: a division by zero",
        "class map",
    )
    yield (
        "rans_map_huge",
        coded(RANS, rans(classes=b"\1", maps=varint(1) + varint(TOO_MANY))),
        "a map of 2^60 rows",
        "class map",
    )
    yield (
        "rans_map_class",
        coded(RANS, rans(classes=b"\2", maps=varint(1) + varint(2) + b"\x0f")),
        "class 3 of three",
        "class 3",
    )
    yield (
        "rans_map_padding",
        coded(RANS, rans(classes=b"\1", maps=varint(1) + varint(2) + b"\xf0")),
        "bits after the map",
        "padding",
    )
    yield "rans_table_code", coded(RANS, rans(code=5)), "a resolution beyond the last", "table code"
    past = Bits().put(1, 1).put(2, 2).put(0, 2).bytes()
    yield "rans_table_past", coded(RANS, rans(table=past)), "levels of symbols that do not exist", "alphabet"
    empty = Bits().put(0, 1).put(0, 2).bytes()
    yield (
        "rans_table_empty",
        coded(RANS, rans(table=empty)),
        "a table without symbols: frequencies that sum to 0",
        "no symbols",
    )
    unary = Bits().put(0, 1).put(2, 2).put(2**600 - 1, 600).bytes()
    yield "rans_table_unary", coded(RANS, rans(table=unary)), "an endless unary number", "out of range"
    high = Bits().put(0, 1).put(2, 2).put(2**40 - 1, 41).put(0, 1).bytes()
    yield "rans_table_level", coded(RANS, rans(table=high)), "a level that overflows its weight", "out of range"
    escape = Bits().put(0, 0).put(1, 1).put(0, 1).put(255, 8).bytes()
    yield (
        "rans_escape_level",
        coded(RANS, rans(head=8, table=escape)),
        "an escape that overflows its weight",
        "out of range",
    )
    table = Bits().put(0, 0).put(1, 1).put(0, 1).put(1, 8).bytes()
    many = varint(7) + svarint(0) + b"\x08"
    yield (
        "rans_escapes_many",
        coded(RANS, rans(head=8, table=table, tail=many + bytes(7))),
        "seven escapes for six integers",
        "escaped",
    )
    wide = varint(1) + svarint(0) + b"\x21"
    yield (
        "rans_escapes_wide",
        coded(RANS, rans(head=8, table=table, tail=wide + bytes(5))),
        "escapes of 33 bits",
        "escape list",
    )
    cut = varint(6) + svarint(0) + b"\x20"
    yield (
        "rans_escapes_cut",
        coded(RANS, rans(head=8, table=table, tail=cut, states=b"", words=bytes(9))),
        "an escape list cut short",
        "truncated",
    )
    none = varint(0) + svarint(0) + b"\0"
    escaping = rans(head=8, table=table, tail=none, states=pack("<I", (1 << 16) + 255), words=bytes(20))
    yield "rans_escapes_none", coded(RANS, escaping), "an escape without its integer", "more escapes"
    over = varint(1) + svarint(2**31 - 1) + b"\x08" + b"\xff"
    beyond = rans(head=8, table=table, tail=over, states=pack("<I", (1 << 16) + 255), words=bytes(20))
    yield "rans_escape_value", coded(RANS, beyond), "an escaped integer beyond 32 bits", "32 bits"
    yield "rans_state", coded(RANS, rans(states=pack("<I", 65535))), "a state below its interval", "state"
    yield "rans_states_cut", coded(RANS, rans(states=b"\0\0")), "a state cut short", "truncated"
    yield "rans_words_cut", coded(RANS, rans(), (40, 40)), "words that end too soon", "truncated"
    yield (
        "rans_left",
        coded(RANS, rans(states=pack("<I", 1 << 16), words=bytes(40))),
        "words after the last integer",
        "rans",
    )
    yield "rans_low_cut", coded(RANS, rans(classes=b"\x80\x10", states=b"")), "low bits cut short", "truncated"

    yield "context_scale", coded(CONTEXT, b"\xff\x00\x01" + six), "a scale beyond the last", "scale 255"
    yield "context_distance", coded(CONTEXT, b"\0\0\0" + six), "distance 0", "distance"
    yield "context_flags", coded(CONTEXT, b"\0\0\x21" + six), "a reserved bit", "flags"
    yield "context_centre", coded(CONTEXT, b"\0\0\x11" + svarint(2**31) + six), "a centre beyond 32 bits", "centre"
    yield "context_header", coded(CONTEXT, b"\0"), "a header cut short", "truncated"
    yield "context_early_end", coded(CONTEXT, b"\x94\xff\x01\x7f"), "decisions that end too soon", "truncated"
    yield "context_left", coded(CONTEXT, b"\0\0\x01" + bytes(60)), "bytes after the last decision", "left over"

    def lossless(stream: bytes, dims: tuple[int, ...] = (2, 3)) -> Box:
        return coded(LOSSLESS, stream, dims)

    yield "lossless_mode", lossless(b"\4"), "a mode from the future", "mode 4"
    yield "lossless_codec", lossless(b"\0\x07\x01\x00"), "a plane of codec 7", "codec 7"
    yield "lossless_nested", lossless(b"\0\x05\x02\x00\x00"), "a plane that is lossless again, and so on", "codec 5"
    yield "lossless_plane_cut", lossless(b"\0\xff\0\0"), "a stored plane cut short", "truncated"
    yield "lossless_plane_length", lossless(b"\0\0" + varint(TOO_MANY)), "a coded plane of 2^60 bytes", "truncated"
    plane = b"\0" + varint(13) + b"\2" + pack("<6h", 0, 0, 0, 0, 0, 256)
    yield "lossless_plane_range", lossless(b"\0" + plane), "256 in a plane of bytes", "256 in a plane"
    whole = b"\xff" + six
    yield "lossless_left", lossless(b"\0" + 4 * whole + b"\0"), "a byte after the planes", "left over"
    byte = replace(Entry(), codec=LOSSLESS, chunks=(b"\1" + plane,))
    yield "lossless_integer", Box((byte,)), "256 in one byte", "does not fit"
    yield "lossless_palette_size", lossless(b"\2" + varint(TOO_MANY)), "a palette of 2^60", "palette"
    palette = b"\2" + varint(2) + 4 * b"\xff\0\0"
    yield (
        "lossless_palette_index",
        lossless(palette + b"\0\x07\1\0\1\0\1\2\0"),
        "index 2 into a palette of two",
        "outside a palette",
    )
    yield (
        "lossless_palette_negative",
        lossless(palette + b"\0\x07\1\0\1\0\1\xff\0"),
        "index -1 into a palette",
        "outside a palette",
    )
    yield "lossless_palette_empty", lossless(b"\2\0\0\x07\1" + six), "a palette of nothing", "outside a palette"
    marks = b"\3\0\x07\1\0\1\0\1\2\0"  # two elements are stored
    two = marks + b"\0" + 3 * b"\xff\0\0"  # all but their last plane
    yield "lossless_mark", lossless(b"\3\0\x07\1\0\1\0\1\3\0"), "an element marked 3", "mark 3"
    yield "lossless_mark_negative", lossless(b"\3\0\x07\1\0\1\0\1\xff\0"), "an element marked -1", "mark -1"
    yield "lossless_marks_length", lossless(b"\3\0" + varint(TOO_MANY)), "marks in 2^60 bytes", "truncated"
    yield "lossless_marks_nested", lossless(b"\3\5\1\3"), "marks that are lossless, and so on", "codec 5"
    yield "lossless_sparse_none", lossless(marks), "no elements where two are stored", "truncated"
    yield "lossless_sparse_cut", lossless(two + b"\xff\0"), "a byte for two elements", "truncated"
    yield "lossless_sparse_left", lossless(two + b"\xff\0\0\0"), "a byte after the elements", "left over"
    yield "lossless_sparse_nested", lossless(marks + marks), "zeros among the elements that are none", "mode 3"


def models() -> Iterator[Lie]:
    yield "values_checksum", Box(values_crc=1), "weights that the checksum of all denies", ""
    yield (
        "inner_garbage",
        Box(values_crc=zlib.crc32(bytes(range(1, 7))), model=b"\xff\xff\xff"),
        "an inner model that is none",
        "",
    )
    elsewhere = (
        proto(1, 10) + proto(2, INT8) + proto(8, b"v") + proto(13, proto(1, b"location") + proto(2, b"/etc/hostname"))
    )
    outside = Box(values_crc=zlib.crc32(bytes(range(1, 7))), model=inner_model(proto(5, elsewhere + proto(14, 1))))
    yield "inner_external", outside, "an inner weight that is a file of the reader's machine", ""


def outer() -> Iterator[tuple[str, bytes, str, str]]:
    good = Box().build()
    for size in (0, 7, 8, 12, 51, 52, 60, len(good) - 1):
        yield f"truncated_{size}", outer_model(payload(good[:size])), f"a container of {size} bytes", ""
    yield "bare_truncated", good[:40], "half a header and no model around it", "not"
    yield "empty", b"", "no bytes", "not a"
    model = outer_model(payload(good))
    yield "outer_truncated", model[:-70], "a model that ends inside its graph", "not a compressed"
    yield "outer_no_payload", outer_model(proto(2, UINT8) + proto(8, b"other")), "no container", "no compressed model"
    yield "outer_no_node", outer_model(payload(good), proto(4, b"Identity")), "no node of ours", "no compressed model"
    yield (
        "outer_domain",
        outer_model(payload(good), NODE + proto(7, b"elsewhere")),
        "a node of another domain",
        "no compressed model",
    )
    yield "outer_dtype", outer_model(payload(good, FLOAT)), "a container of float32", "element type 1"
    yield "outer_no_dtype", outer_model(payload(good, 0)), "a container of no type", "element type 0"
    yield (
        "outer_raw_twice",
        outer_model(payload(good) + proto(9, b"onnxopt\0junk")),
        "two contents, of which the last counts",
        "not an onnxopt container",
    )
    long = proto(1, NODE) + varint(5 << 3 | 2) + varint(TOO_MANY) + payload(good)
    yield "outer_length", model_of(long), "a tensor of 2^60 bytes", "not a compressed"
    wrap = varint(7 << 3 | 2) + varint(2**64 - 1) + proto(1, NODE)
    yield "outer_length_wraps", wrap, "a graph of 2^64 - 1 bytes", "not a compressed"
    yield "outer_varint", b"\x08" + b"\xff" * 11 + model, "a varint of eleven bytes", "not a compressed"
    yield "outer_wire_type", b"\x0f" + model, "wire type 7", "wire type 7"
    yield "outer_group", b"\x0b" * 5000 + model, "5000 nested groups", "wire type 3"
    yield "outer_field_zero", b"\x00\x00" + model, "field 0", "field"
    deep = b""
    for _ in range(2000):
        deep = proto(5, proto(6, proto(1, deep)))  # node: attribute: graph
    yield "outer_deep", model_of(proto(1, deep[:60_000])), "graphs within graphs", "not a compressed"
    yield "external_up", outer_model(external(b"../../../etc/hostname")), "a container outside the model's folder", ""
    yield "external_root", outer_model(external(b"/etc/hostname")), "a container at an absolute path", ""
    huge = external(b"x.bin", (b"offset", b"9" * 40))
    yield "external_offset", outer_model(huge), "an offset that is no 64-bit number", "no number"
    negative = external(b"x.bin", (b"length", b"-1"))
    yield "external_length", outer_model(negative), "length -1", "no number"


if __name__ == "__main__":
    for attack in attacks():
        (HERE / attack.name).write_bytes(attack.content)
