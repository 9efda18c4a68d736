"""Containers that lie in their header, their metadata or their records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from struct import pack

from building import (
    BOOL,
    FLOAT,
    INT8,
    INT32,
    LOSSLESS,
    STRING,
    TABLE,
    TOO_MANY,
    UINT8,
    Box,
    Entry,
    Lie,
    float_entry,
    scale_entry,
    scaled,
    stored,
    varint,
    zeros,
)


def headers() -> Iterator[Lie]:
    yield "header_magic", Box(magic=b"onnxopt\1"), "another magic", "not an onnxopt container"
    yield "header_version", Box(version=4), "a version from the future", "version 4"
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
    yield "how_unknown", one(how=4), "a reconstruction from the future", "reconstruction 4"
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
