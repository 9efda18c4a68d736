"""Containers whose coded integers lie."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from struct import pack

from building import (
    ADAPTIVE,
    BITPACK,
    CONTEXT,
    HUFFMAN,
    INT32,
    LOSSLESS,
    RANS,
    RAW,
    TOO_MANY,
    Bits,
    Box,
    Entry,
    Lie,
    rans,
    svarint,
    varint,
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

    def adaptive(stream: bytes, version: int = 3) -> Box:
        return replace(coded(ADAPTIVE, stream), version=version)

    head = b"\0\0\1"
    yield "adaptive_old", adaptive(head + b"\0", version=2), "a codec that its version lacks", "unknown codec 6"
    yield "adaptive_flags", adaptive(b"\0\0\x81\0"), "a reserved bit", "flags"
    yield "adaptive_length", adaptive(head + varint(TOO_MANY)), "a stream of 2^60 bytes", "truncated"
    yield "adaptive_words", adaptive(head + varint(53) + bytes(53)), "more words than integers", "does not end"
    yield "adaptive_state", adaptive(head + b"\x08" + b"\x7f" * 8), "a state that codes more integers", "does not end"
    yield "adaptive_plain", adaptive(head + b"\0\0"), "plain bits that nothing asks for", "8 are there"

    def lossless(stream: bytes, dims: tuple[int, ...] = (2, 3)) -> Box:
        return coded(LOSSLESS, stream, dims)

    yield "lossless_mode", lossless(b"\7"), "a mode from the future", "mode 7"
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
