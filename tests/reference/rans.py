"""Reference decoder of codec 3 (rans), straight from docs/format/rans.md: slow and plain, for tests only."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

CONSTANT = 0xF0
LOW = 1 << 16  # lanes' states are in [LOW, 2^32)
POW2 = [256, 267, 279, 292, 304, 318, 332, 347, 362, 378, 395, 412, 431, 450, 470, 490]  # round(2^(8 + i / 16))


@dataclass
class Cursor:
    """Reads fields from the start of `data` onwards."""

    data: bytes
    at: int = 0

    def take(self, n: int) -> bytes:
        """The next n bytes."""
        if self.at + n > len(self.data):
            raise ValueError("truncated")
        self.at += n
        return self.data[self.at - n : self.at]

    def u8(self) -> int:
        """One byte."""
        return self.take(1)[0]

    def varint(self) -> int:
        """LEB128: seven bits a byte, least significant first."""
        value = shift = 0
        while True:
            byte = self.u8()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def svarint(self) -> int:
        """Zigzag: 0, -1, 1, -2, ... as 0, 1, 2, 3, ..."""
        z = self.varint()
        return z >> 1 if z % 2 == 0 else -(z >> 1) - 1


class Bits:
    """Reads bit fields, least significant bit first; takes bytes from the cursor only as it needs them."""

    def __init__(self, cursor: Cursor) -> None:
        """Starts at the cursor's next byte."""
        self.cursor = cursor
        self.pending = 0
        self.count = 0

    def get(self, width: int) -> int:
        """The next field."""
        while self.count < width:
            self.pending |= self.cursor.u8() << self.count
            self.count += 8
        value = self.pending & ((1 << width) - 1)
        self.pending >>= width
        self.count -= width
        return value


def width_for(n: int) -> int:
    """Bits that hold any number in 0 .. n - 1."""
    return (n - 1).bit_length()


def read_map(cursor: Cursor, classes: int, length: int) -> list[int]:
    """Class of each row or column."""
    if classes == 1:
        return [0] * length
    span, period = cursor.varint(), cursor.varint()
    bits = Bits(cursor)
    table = [bits.get(width_for(classes)) for _ in range(period)]
    return [table[i // span % period] for i in range(length)]


def read_levels(bits: Bits, direct: int, escape: bool, predictor: int, rice: int) -> list[int]:
    """One table's levels, 0 where the symbol is absent."""
    levels = [0] * direct
    first = bits.get(width_for(direct))
    count = bits.get(width_for(direct + 1))
    for s in range(first, first + count):
        if s == first:
            predicted = 1
        elif predictor == 0 or s == first + 1:
            predicted = levels[s - 1]
        else:
            predicted = min(max(2 * levels[s - 1] - levels[s - 2], 0), 255)
        unary = 0
        while bits.get(1):
            unary += 1
        z = unary << rice | bits.get(rice)
        levels[s] = predicted + (z // 2 if z % 2 == 0 else -(z // 2) - 1)
    if escape:
        levels.append(bits.get(8))
    return levels


def frequencies(levels: list[int], resolution: int, precision: int) -> list[int]:
    """One slot to each present symbol, the others shared in proportion to 2^(level / 2^resolution)."""
    weights = [POW2[((k - 1) << (4 - resolution)) & 15] << ((k - 1) >> resolution) if k else 0 for k in levels]
    shared = (1 << precision) - sum(k > 0 for k in levels)
    total = sum(weights)
    out, below = [], 0
    for level, weight in zip(levels, weights, strict=True):
        given = below * shared // total
        below += weight
        out.append(1 + below * shared // total - given if level else 0)
    return out


def decode(data: bytes, rows: int, cols: int) -> npt.NDArray[np.int32]:
    """The integers [rows, cols] that `data` codes."""
    cursor = Cursor(data)
    head = cursor.u8()
    if head == CONSTANT:
        return np.full((rows, cols), cursor.svarint(), np.int32)
    lanes, escape, precision = 1 << (head & 7), bool(head & 8), 8 + (head >> 4)
    base = cursor.svarint()
    direct = cursor.u8() + 1 - escape
    classes = cursor.u8()
    low_bits = cursor.u8() if classes & 0x80 else 0
    row_classes, col_classes = (classes & 7) + 1, (classes >> 4 & 7) + 1
    row_class = read_map(cursor, row_classes, rows)
    col_class = read_map(cursor, col_classes, cols)

    code = cursor.u8()
    resolution, predictor, rice = code & 7, code >> 3 & 1, code >> 4
    bits = Bits(cursor)
    tables = []  # each: slot -> (symbol, frequency, slot within the symbol)
    for _ in range(row_classes * col_classes):
        freqs = frequencies(read_levels(bits, direct, escape, predictor, rice), resolution, precision)
        tables.append([(s, f, i) for s, f in enumerate(freqs) for i in range(f)])
    escapes: list[int] = []
    if escape:
        count, lowest, width = cursor.varint(), cursor.svarint(), cursor.u8()
        bits = Bits(cursor)
        escapes = [lowest + bits.get(width) for _ in range(count)]
    bits = Bits(cursor)
    low = [bits.get(low_bits) for _ in range(rows * cols)]

    state = [int.from_bytes(cursor.take(4), "little") for _ in range(lanes)]
    next_escape = iter(escapes)
    out = np.empty(rows * cols, np.int32)
    for i in range(rows * cols):
        x = state[i % lanes]
        table = tables[row_class[i // cols] * col_classes + col_class[i % cols]]
        symbol, freq, offset = table[x & ((1 << precision) - 1)]
        x = freq * (x >> precision) + offset
        if x < LOW:
            x = x << 16 | int.from_bytes(cursor.take(2), "little")
        state[i % lanes] = x
        high = next(next_escape) if symbol == direct else base + symbol
        out[i] = high << low_bits | low[i]
    if cursor.at != len(data) or state != [LOW] * lanes or next(next_escape, None) is not None:
        raise ValueError("the stream does not end where its integers do")
    return out.reshape(rows, cols)
