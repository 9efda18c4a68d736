"""What version 2 of the container adds, with lies: repeats, columns, rotated elements, relative weights, splices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from struct import pack

from building import (
    BOOL,
    FLOAT,
    FLOAT8,
    INT4,
    INT8,
    INT32,
    LOSSLESS,
    RANS,
    RAW,
    RELATIVE,
    TOO_MANY,
    Box,
    Entry,
    Lie,
    inner_model,
    varint,
)


def version2() -> Iterator[Lie]:
    """All of them."""
    yield from repeats()
    yield from modes()
    yield from relatives()
    yield from splices()
    yield from small()


def lossless(stream: bytes, dims: tuple[int, ...] = (2, 3), dtype: int = INT32) -> Box:
    return Box((Entry(dtype=dtype, dims=dims, codec=LOSSLESS, chunk_rows=dims[0], chunks=(stream,)),), version=2)


def row(*values: int) -> bytes:
    """A coded matrix [1, n] in codec 0."""
    return b"\0" + varint(1 + 4 * len(values)) + b"\4" + pack(f"<{len(values)}i", *values)


def repeating(gap: int, length: int, distance: int, ways: int, stored: int = 2) -> Box:
    """Six elements of which one repeat makes some, and `stored` are stored."""
    planes = 4 * (b"\xff" + bytes(stored))
    return lossless(b"\4\1" + row(gap) + row(length) + row(distance) + row(ways) + b"\0" + planes)


def repeats() -> Iterator[Lie]:
    there, beyond = "is not there", "beyond the tensor"
    yield "repeats_many", lossless(b"\4" + varint(TOO_MANY)), "2^60 repeats", "repeats of 6 elements"
    yield "repeats_seven", lossless(b"\4\7" + 4 * row(*7 * (0,))), "seven repeats of six elements", "7 repeats"
    yield "repeat_of_nothing", repeating(0, 4, 1, 0), "a repeat at the start", there
    yield "repeat_distance", repeating(2, 4, 3, 0), "a repeat of element -1", there
    yield "repeat_distance_zero", repeating(2, 4, 0, 0), "a repeat of itself", there
    yield "repeat_distance_negative", repeating(2, 4, -1, 0), "a repeat of what comes later", there
    yield "repeat_backward", repeating(2, 4, 1, 1), "a repeat that is read backward beyond the start", there
    yield "repeat_ways", repeating(2, 4, 1, 8), "a way from the future", there
    yield "repeat_ways_negative", repeating(2, 4, 1, -1), "all ways, and more", there
    yield "repeat_long", repeating(2, 5, 1, 0), "a repeat beyond the last element", beyond
    yield "repeat_length_negative", repeating(2, -1, 1, 0), "a repeat of length -1", beyond
    yield "repeat_gap", repeating(7, 1, 1, 0), "a gap beyond the last element", beyond
    yield "repeat_gap_negative", repeating(-1, 1, 1, 0), "a gap of -1", beyond
    yield "repeats_stored_cut", repeating(2, 3, 1, 0), "one stored element less than there are", "truncated"
    yield "repeats_stored_left", repeating(2, 4, 1, 0, 3), "one stored element more than there are", "malformed"
    yield "repeats_nested", lossless(b"\4\0" + 4 * row() + b"\4\0"), "repeats among what does not repeat", "mode 4"
    yield "repeats_cut", lossless(b"\4\1" + row(2)), "repeats cut short", "truncated"


def modes() -> Iterator[Lie]:
    planes = b"\0" + 4 * (b"\xff" + bytes(6))
    yield "columns_zero", lossless(b"\5\0" + planes), "no columns: a division by zero", "0 columns"
    yield "columns_four", lossless(b"\5\4" + planes), "four columns of six elements", "4 columns"
    yield "columns_many", lossless(b"\5" + varint(TOO_MANY) + planes), "2^60 columns", "columns of 6 elements"
    yield "columns_nested", lossless(b"\5\2\5\2" + planes), "columns of columns, and so on", "mode 5"
    yield "rotated_wide", lossless(b"\6" + row(*6 * (1,))), "rotated elements of four bytes", "2 expected"
    half = lossless(b"\6" + row(0, 0, 0, 0, 0, 65536), dtype=10)
    yield "rotated_large", half, "65536 in two bytes", "does not fit"
    negative = lossless(b"\6" + row(0, 0, 0, 0, 0, -1), dtype=10)
    yield "rotated_negative", negative, "-1 in two bytes without a sign", "does not fit"


FLOATS = Entry(b"", FLOAT, codec=LOSSLESS, chunks=(b"\0" + 4 * (b"\xff" + bytes(6)),))


def relative(**how: object) -> Entry:
    """float32[2, 3] relative to entry 0."""
    return replace(Entry(dtype=FLOAT, how=RELATIVE, auxiliary=0, relation=b"\0"), **how)


def relatives() -> Iterator[Lie]:
    def pair(other: Entry = FLOATS, version: int = 2, **how: object) -> Box:
        return Box((other, relative(**how)), version=version)

    yield "relative_version", pair(version=1), "version 2 in a file of version 1", "reconstruction 3"
    yield "relative_self", Box((relative(),), version=2), "an entry relative to itself", "stand before"
    chain = Box((FLOATS, relative(name=b""), relative(auxiliary=1)), version=2)
    yield "relative_chain", chain, "relative to something relative", "does not fit"
    yield "relative_dtype", pair(dtype=INT8), "int8 relative to float32", "does not fit"
    yield "relative_size", pair(dims=(2, 4)), "eight elements relative to six", "does not fit"
    yield "relative_form", pair(relation=b"\4"), "a relation from the future", "relation 4"
    yield "relative_scale_cut", pair(relation=b"\2"), "no scale", ""
    infinite = pack("<Bf", 2, float("inf"))
    yield "relative_infinite", pair(relation=infinite), "an infinite scale", "not finite"
    integers = Entry(b"", INT32, chunks=(b"\1" + bytes(6),))
    scaled = pair(integers, dtype=INT32, relation=pack("<Bf", 2, 0.5))
    yield "relative_integers", scaled, "integers times a scale", "other elements than float32"
    yield "relative_lossless", pair(codec=LOSSLESS), "elements as differences", "lossless"
    flags = Entry(b"", BOOL, codec=RAW, chunks=(b"\1" + bytes((1, 1, 1, 1, 1, 1)),))
    yield "relative_bool", pair(flags, dtype=BOOL), "a bool of 2 or more", "neither 0 nor 1"


def splices() -> Iterator[Lie]:
    def spliced(*numbers: int, pieces: Entry | None = None) -> Box:
        entry = pieces or Entry(b"", chunks=(b"\1abcdef",))
        return Box((entry,), version=2, splices=b"".join(map(varint, numbers)))

    size = len(inner_model())
    yield "splice_entry", spliced(1, 0, 1), "a piece of no entry", "in no entry"
    yield "splice_gap", spliced(0, size + 1, 1), "a gap beyond the model", "truncated"
    yield "splice_length", spliced(0, 0, 7), "seven bytes of six", "longer than what there is"
    yield "splice_twice", spliced(0, 0, 4, 0, 0, 3), "seven bytes of six, in two pieces", "longer than what there is"
    yield "splice_huge", spliced(0, 0, 2**64 - 1), "a piece whose end wraps", "longer than what there is"
    yield "splice_cut", spliced(0, 0), "a splice without a length", "truncated"
    yield "splice_named", spliced(0, 0, 1, pieces=Entry()), "a piece of a weight", "holds no pieces"
    bomb = Entry(b"", dims=(2, 2000), codec=RANS, chunks=(b"\xf0\0\0",))
    yield "splice_bomb", spliced(0, 0, 1, pieces=bomb), "4000 bytes of three", "no pieces"


def small() -> Iterator[Lie]:
    """Elements of 8 bits and of 4 bits, two in a byte."""
    three = Entry(name=b"v", dtype=INT4, dims=(2, 3), chunk_rows=1, chunks=(b"\1\1\2\3",))
    halves = replace(three, name=b"w", how=RELATIVE, auxiliary=0, relation=b"\0")
    yield "small_version", Box((three,)), "4 bits in a file of version 1", "element type"
    yield "small_relative", Box((three, halves), version=2), "half bytes that follow from others", "no reconstruction"
    yield "small_rows", Box((replace(three, chunk_rows=2),), version=2), "two rows of what is one", "chunks of 2 rows"
    yield "small_short", Box((replace(three, chunks=(b"\1\1\2",)),), version=2), "two pairs of three", "raw: 2 bytes"
    eight = replace(three, dtype=FLOAT8, dims=(1,), chunks=(b"\2\0\1",))
    yield "small_wide", Box((eight,), version=2), "256 in a byte", "does not fit"
