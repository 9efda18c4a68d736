"""Sizes of relative indices: by hand, and against the native codec."""

from __future__ import annotations

import numpy as np
import pytest
from builders import sparse
from classical import Array, entropy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxopt import native
from onnxopt.encoding import Affine, Codebook, Raw
from onnxopt.passes.math.relative_index import decode, encode, huffman_bits, sizes


def grid(q: Array) -> Affine:
    return Affine(q.astype(np.int32), np.zeros(1, np.int16), 0, np.dtype(np.float32))


@given(sparse(), st.integers(1, 8))
@settings(deadline=None)
def test_tokens_give_the_values_back(values: Array, bits: int) -> None:
    gaps, tokens = encode(values, bits)
    assert ((gaps >= 0) & (gaps < 2**bits)).all()
    assert (gaps[tokens == 0] == 2**bits - 1).all()  # fillers
    assert (decode(gaps, tokens, values.size) == values).all()


def test_the_papers_figure() -> None:
    """Nonzeros at 1, 4 and 15, three bits: the last is eleven on, so a filler zero stands eight on."""
    values = np.zeros(16, np.int32)
    values[[1, 4, 15]] = 34, 9, 17
    gaps, tokens = encode(values, 3)
    assert gaps.tolist() == [1, 2, 7, 2]
    assert tokens.tolist() == [34, 9, 0, 17]


def test_a_token_outside_is_refused() -> None:
    with pytest.raises(ValueError, match="at 5, expected less than 5"):
        decode(np.array([2, 2]), np.array([1, 1]), 5)


@pytest.mark.parametrize(
    ("counts", "bits"),
    [
        ([45, 13, 12, 16, 9, 5], 224),  # Cormen et al., Introduction to Algorithms, 16.3
        ([8, 4, 2, 1, 1], 8 + 8 + 6 + 4 + 4),  # powers of two: the entropy itself
        ([3], 3),
        ([], 0),
        ([5, 1], 6),
    ],
)
def test_huffman_codes_by_hand(counts: list[int], bits: int) -> None:
    assert huffman_bits(np.repeat(np.arange(len(counts)), counts)) == bits


@given(hnp.arrays(np.int32, st.integers(2, 500), elements=st.integers(-9, 9)))
def test_huffman_is_within_a_bit_of_the_entropy(symbols: Array) -> None:
    bits = huffman_bits(symbols) / symbols.size
    assert entropy(symbols) - 1e-9 <= bits < entropy(symbols) + 1 + 1e-9


def test_sizes_by_hand() -> None:
    """Ten of forty weights, 1 six times, -1 three times, 3 once: gaps 3, but for one of 19 that takes a filler."""
    q = np.zeros((4, 10), np.int32)
    where = [3, 7, 8, 9, 10, 11, 12, 13, 14, 34]
    q.flat[where] = [1, -1, 1, 1, -1, 1, 1, -1, 1, 3]
    found = sizes(grid(q), 4)
    assert (found.weights, found.kept, found.tokens) == (40, 10, 11)
    assert found.density == 0.25
    assert (found.value_bits, found.gap_bits, found.table_bits) == (2, 4, 16)  # -1, 0, 1, 3; one scale of int16
    assert found.pruned_bits == 11 * 36
    assert found.quantized_bits == 11 * 6 + 16
    # Values: 6 x 1, 3 x -1, one filler, one 3: code words of 1, 2, 3 and 3 bits.
    assert found.huffman_value_bits == 6 + 6 + 3 + 3
    # Gaps: 3 3 0 0 0 0 0 0 0 15 3, so seven of 0, three of 3, one of 15: 1, 2 and 2 bits.
    assert found.huffman_gap_bits == 7 + 6 + 2
    assert found.coded_bits == 18 + 15 + 16
    assert found.csr_bits == 10 * (2 + 4) + 5 * 32 + 16
    assert found.csc_bits == 10 * (2 + 2) + 11 * 32 + 16
    assert found.mean_value_bits == 18 / 11
    assert found.mean_gap_bits == 15 / 11


def test_the_zero_of_a_table_is_what_is_not_stored() -> None:
    q = np.array([[2, 1, 1, 1], [1, 0, 1, 1]], np.int32)
    found = sizes(Codebook(q, np.array([0.5, 0.0, 0.25], np.float32)), 4)
    assert (found.kept, found.tokens, found.table_bits) == (2, 2, 96)
    without = sizes(Codebook(q, np.array([0.5, 1.0, 0.25], np.float32)), 4)
    assert (without.kept, without.gap_bits, without.huffman_gap_bits) == (8, 0, 0)  # nothing is pruned: no index
    floats = sizes(Raw(np.array([0.5, 0.0, 0.0, 1.0], np.float32)), 4)
    assert (floats.kept, floats.value_bits, floats.huffman_value_bits) == (2, 32, 64)


@given(sparse(), st.sampled_from([4, 5, 8]))
@settings(deadline=None)
def test_codes_never_cost_more_than_fixed_widths(values: Array, bits: int) -> None:
    found = sizes(grid(values), bits)
    assert found.kept <= found.tokens <= found.kept + values.size // 2**bits
    assert found.huffman_value_bits <= max(found.tokens, found.tokens * found.value_bits)
    assert found.huffman_gap_bits <= found.tokens * found.gap_bits
    assert found.coded_bits <= found.quantized_bits <= found.pruned_bits + found.table_bits


@pytest.mark.parametrize("density", [0.03, 0.12, 0.4])
def test_the_native_codec_takes_as_much(density: float) -> None:
    """Its tables apart; it tries every width of gaps."""
    rng = np.random.default_rng(0)
    q = np.where(rng.random((500, 800)) < density, np.rint(rng.laplace(0, 4, (500, 800))), 0).astype(np.int32)
    _, coded = native.encode(q, "huffman")
    found = (sizes(grid(q), bits) for bits in range(2, 9))
    bits = min(each.huffman_value_bits + each.huffman_gap_bits for each in found)
    assert 0 <= len(coded) - bits / 8 < 400


@pytest.mark.parametrize("density", [0.0005, 0.003, 0.03, 0.12, 0.4, 0.9])
@pytest.mark.parametrize("values", [2, 15, 200])
def test_rows_in_fixed_widths_are_never_the_smaller(density: float, values: int) -> None:
    """CSR and CSC pay for a row's begin and for every index in full, so what is kept is the coder's."""
    rng = np.random.default_rng(0)
    for shape in ((500, 800), (64, 576)):
        q = np.where(rng.random(shape) < density, rng.integers(1, values + 1, shape), 0).astype(np.int32)
        found, (_, coded) = sizes(grid(q), 4), native.encode(q)
        assert 8 * len(coded) < min(found.csr_bits, found.csc_bits) - found.table_bits
