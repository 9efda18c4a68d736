"""The size of sparse weights in Deep Compression (Han, Mao & Dally 2016): Huffman-coded relative indices.

Each nonzero weight stores its *gap*, the number of zeros since the previous one, in a few bits; a longer gap is split
by *fillers*, zeros that are stored like weights. Values and gaps have a Huffman code each. These sizes are for reports
only: files hold what the codecs choose. Codec 2 (docs/format/huffman.md) has the same scheme.
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxopt.encoding import Affine, Array, Blockwise, Codebook, Encoding

Integers = npt.NDArray[np.int64]

_POINTER_BITS = 32
"""Bits of a row pointer in compressed sparse rows."""


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
    """The inverse of `encode`, `size` values. Raises ValueError if a token is outside."""
    where = np.cumsum(gaps + 1) - 1
    if len(where) and where[-1] >= size:
        raise ValueError(f"a token is at {where[-1]}, expected less than {size}")
    out = np.zeros(size, values.dtype)
    out[where] = values
    return out


def huffman_bits(symbols: Array) -> int:
    """Bits of the symbols in their own optimal prefix code (Huffman 1952), without its table.

    A single distinct symbol takes one bit each time.
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
    """One weight, as a row of the paper's table. Bits are totals unless stated otherwise."""

    weights: int
    source_bits: int
    """Of one weight, originally."""
    kept: int
    """Nonzero weights."""
    tokens: int
    """Nonzero weights and fillers."""
    value_bits: int
    """Of one token's value, one of at most 2^value_bits."""
    gap_bits: int
    """Of one token's gap; 0 if nothing is pruned."""
    table_bits: int
    """Of the codebook or the scales."""
    huffman_value_bits: int
    huffman_gap_bits: int
    csr_bits: int
    """Values, column indices and row pointers, in fixed widths; a row has one first index."""
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


def sizes(leaf: Encoding, gap_bits: int) -> Sizes:
    """Sizes of a stored weight with gaps of `gap_bits`, 4 in the paper's tables.

    The values of a plain array keep the width of their type and are not coded.
    """
    symbols, source_bits, table_bits = _symbols(leaf)
    flat = symbols.ravel()
    kept = int(np.count_nonzero(flat))
    gap_bits = gap_bits if kept < flat.size else 0
    gaps, values = encode(flat, gap_bits)
    if isinstance(leaf, np.ndarray):
        value_bits, coded = source_bits, source_bits * len(values)
    else:
        value_bits, coded = _width(len(np.unique(values))), huffman_bits(values)
    rows = symbols.shape[0] if symbols.ndim > 1 else 1
    columns = flat.size // rows
    csr, csc = (kept * (value_bits + _width(across)) + (along + 1) * _POINTER_BITS
                for along, across in ((rows, columns), (columns, rows)))  # fmt: skip
    return Sizes(
        flat.size, source_bits, kept, len(gaps), value_bits, gap_bits, table_bits,
        coded, huffman_bits(gaps) if gap_bits else 0, csr + table_bits, csc + table_bits,
    )  # fmt: skip


def _symbols(leaf: Encoding) -> tuple[npt.NDArray[Any], int, int]:
    """Symbols that are 0 where the weight is 0, bits of one element, and bits of the scales or the codebook."""
    if isinstance(leaf, Affine):
        return leaf.q, 8 * leaf.dtype.itemsize, 8 * leaf.k.nbytes
    if isinstance(leaf, Blockwise):
        return leaf.q, 32, 32 * leaf.k.size
    if isinstance(leaf, Codebook):
        symbol = np.where(leaf.table == 0, 0, np.arange(1, len(leaf.table) + 1))
        return symbol[leaf.index], 8 * leaf.table.itemsize, 8 * leaf.table.nbytes
    return leaf, 8 * leaf.itemsize, 0


def _width(count: int) -> int:
    """Bits that distinguish `count` values; at least one."""
    return max(1, (count - 1).bit_length())
