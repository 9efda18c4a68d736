"""Codec 2, huffman: a reference decoder written from docs/format/huffman.md, for tests."""

import numpy as np
import numpy.typing as npt
from fields import Fields


def _nibbles(fields: Fields, n: int) -> list[int]:
    packed = fields.bytes((n + 1) // 2)
    return [packed[i // 2] >> (4 * (i % 2)) & 15 for i in range(n)]


def _read_code(fields: Fields) -> dict[tuple[int, int], int]:
    """(length, word) -> symbol."""
    n = fields.varint()
    if n == 0:
        return {}
    first = fields.svarint()
    span = fields.varint()
    if span:
        lengths = {first + i: length for i, length in enumerate(_nibbles(fields, span)) if length}
    else:
        symbols = [first]
        for _ in range(n - 1):
            symbols.append(symbols[-1] + fields.varint() + 1)
        lengths = dict(zip(symbols, _nibbles(fields, n), strict=True))
    code = {}
    word = previous = 0
    for symbol, length in sorted(lengths.items(), key=lambda item: (item[1], item[0])):
        word <<= length - previous
        code[length, word] = symbol
        word, previous = word + 1, length
    return code


def decode(data: bytes, rows: int, cols: int) -> npt.NDArray[np.int32]:
    """Integers [rows, cols] of a matrix in Deep Compression's sparse format."""
    fields = Fields(data)
    fields.u8()  # bits of a gap: bounds the gaps, needed by no decoder
    tokens = fields.varint()
    values, gaps = _read_code(fields), _read_code(fields)
    bits = iter(np.unpackbits(np.frombuffer(fields.rest(), np.uint8)).tolist())

    def symbol(code: dict[tuple[int, int], int]) -> int:
        length = word = 0
        while (length, word) not in code or length == 0:
            length, word = length + 1, word << 1 | next(bits)
        return code[length, word]

    out = np.zeros(rows * cols, np.int32)
    at = 0
    for _ in range(tokens):
        at += symbol(gaps)
        out[at] = symbol(values)
        at += 1
    return out.reshape(rows, cols)
