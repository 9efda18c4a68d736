"""Deep Compression's arithmetic (Han, Mao & Dally 2016): the size of sparse weights as coded relative indices.

Every nonzero has a *gap*, the number of zeros before it, in a few bits. A gap that is too large for them is split by
*fillers*: zeros that are stored like weights. Values and gaps have one Huffman code each. The sizes are for reports;
files hold what the choice of codecs gives, where codec 2 (docs/format/huffman.md) implements the same scheme.
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heapify, heappop, heappush

import numpy as np
import numpy.typing as npt

from onnxopt.encoding import Array, Encoding

Integers = npt.NDArray[np.int64]

_POINTER_BITS = 32
"""Of a row pointer in compressed sparse rows (CSR)."""


def encode(values: Array, gap_bits: int) -> tuple[Integers, Array]:
    """Tokens of ``values[n]``: gaps below ``2^gap_bits``, and the value after each gap; a filler's value is 0.

    Zeros after the last nonzero value are not stored.
    """
    where = np.flatnonzero(values)
    zeros = np.diff(where, prepend=-1) - 1
    fillers, gaps = np.divmod(zeros, 2**gap_bits)  # a filler covers its gap of 2^gap_bits - 1 and itself
    last = np.cumsum(fillers + 1) - 1
    all_gaps = np.full(last[-1] + 1 if len(last) else 0, 2**gap_bits - 1, np.int64)
    all_values = np.zeros(len(all_gaps), values.dtype)
    all_gaps[last], all_values[last] = gaps, values[where]
    return all_gaps, all_values


def decode(gaps: Integers, values: Array, size: int) -> Array:
    """The inverse of `encode`, `size` values. Raises ValueError where a token lies beyond."""
    where = np.cumsum(gaps + 1) - 1
    if len(where) and where[-1] >= size:
        raise ValueError(f"a token is at {where[-1]}, expected less than {size}")
    out = np.zeros(size, values.dtype)
    out[where] = values
    return out


def huffman_bits(symbols: Array) -> int:
    """Bits of the symbols in an optimal prefix code (Huffman 1952), without the code's table.

    A lone symbol takes one bit for each occurrence, as no code word is empty.
    """
    _, counts = np.unique(symbols, return_counts=True)
    if len(counts) < 2:
        return symbols.size
    heap: list[int] = counts.tolist()
    heapify(heap)
    bits = 0
    while len(heap) > 1:
        merged = heappop(heap) + heappop(heap)  # each symbol below gets one more bit
        bits += merged
        heappush(heap, merged)
    return bits


@dataclass(frozen=True, slots=True)
class Sizes:
    """One weight, as a row of the paper's table. Bits are totals unless said otherwise."""

    weights: int
    source_bits: int
    """Of one weight, originally."""
    kept: int
    """Nonzero weights."""
    tokens: int
    """Nonzero weights and fillers."""
    value_bits: int
    """Of one token's value in a fixed width."""
    gap_bits: int
    """Of one token's gap; 0 if nothing is pruned."""
    table_bits: int
    """Of the codebook or the scales."""
    huffman_value_bits: int
    huffman_gap_bits: int
    csr_bits: int
    """Values, indices within the row, and row pointers, all in fixed widths; a row has one first index."""
    csc_bits: int

    @property
    def density(self) -> float:
        """Weights % (P), as a share."""
        return self.kept / self.weights

    @property
    def pruned_bits(self) -> int:
        """P: kept weights in their original type, and gaps."""
        return self.tokens * (self.source_bits + self.gap_bits)

    @property
    def quantized_bits(self) -> int:
        """P + Q: values and gaps in fixed widths, and the table."""
        return self.tokens * (self.value_bits + self.gap_bits) + self.table_bits

    @property
    def coded_bits(self) -> int:
        """P + Q + H."""
        return self.huffman_value_bits + self.huffman_gap_bits + self.table_bits

    @property
    def mean_value_bits(self) -> float:
        """Weight bits (P + Q + H) of a token."""
        return self.huffman_value_bits / max(1, self.tokens)

    @property
    def mean_gap_bits(self) -> float:
        """Index bits (P + Q + H) of a token."""
        return self.huffman_gap_bits / max(1, self.tokens)


def sizes(weight: Encoding, gap_bits: int) -> Sizes:
    """What a stored weight takes with gaps of `gap_bits`: 4 in the paper's tables.

    Raw values keep the width of their type, coded or not.
    """
    symbols = weight.symbols()
    flat = symbols.values.ravel()
    kept = int(np.count_nonzero(flat))
    gap_bits = gap_bits if kept < flat.size else 0
    gaps, values = encode(flat, gap_bits)
    if symbols.few:
        value_bits, coded = _width(len(np.unique(values))), huffman_bits(values)
    else:
        value_bits, coded = symbols.element_bits, symbols.element_bits * len(values)
    rows = len(symbols.values) if symbols.values.ndim > 1 else 1
    columns = flat.size // rows
    csr, csc = (kept * (value_bits + _width(across)) + (along + 1) * _POINTER_BITS
                for along, across in ((rows, columns), (columns, rows)))  # fmt: skip
    return Sizes(
        flat.size, symbols.element_bits, kept, len(gaps), value_bits, gap_bits, symbols.table_bits,
        coded, huffman_bits(gaps) if gap_bits else 0, csr + symbols.table_bits, csc + symbols.table_bits,
    )  # fmt: skip


def _width(count: int) -> int:
    """Bits that distinguish `count` values; at least one."""
    return max(1, (count - 1).bit_length())
