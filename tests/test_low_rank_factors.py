"""Low-rank factors and rank selection, numerically."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxopt.calibration.stats import cholesky_feedback
from onnxopt.passes import math

Array = np.ndarray[Any, Any]
small = st.integers(1, 6)


def noise(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


def low_rank(rows: int, columns: int, rank: int, seed: int = 0) -> Array:
    """Of singular values between sqrt(rows columns) and twice that."""
    p, q = (np.linalg.qr(noise(n, rank, seed=seed + i))[0] for i, n in enumerate((rows, columns)))
    return (p * np.sqrt(rows * columns) * np.linspace(2, 1, rank)) @ q.T


def second_moment(inputs: int, seed: int = 0) -> Array:
    """Of inputs that are far from independent."""
    mixed = noise(4 * inputs, inputs, seed=seed) @ (noise(inputs, inputs, seed=seed + 1) / np.arange(1, inputs + 1))
    return mixed.T @ mixed / len(mixed)


def cholesky(second: Array) -> Array:
    return np.linalg.cholesky(second)


# ---- factors -------------------------------------------------------------------------------------------------------


def test_the_root_is_of_the_moment_that_feedback_is_of() -> None:
    second = second_moment(20)
    feedback, variance = cholesky_feedback(second[None].copy(), 0.01)
    root = math.root(feedback[0], variance[0])
    damped = second + 0.01 * np.trace(second) / 20 * np.eye(20)
    np.testing.assert_allclose(root @ root.T, damped, rtol=1e-4, atol=1e-5 * np.trace(damped))


@settings(max_examples=60, deadline=None)
@given(shape=st.tuples(st.integers(1, 20), st.integers(1, 20)), rank=st.integers(1, 20), aware=st.booleans())
def test_svd_errs_by_the_tail_in_the_metric_it_is_given(shape: tuple[int, int], rank: int, aware: bool) -> None:
    rank = min(rank, *shape)
    w = noise(*shape)
    root = cholesky(second_moment(shape[1])) if aware else None
    u, v = math.svd(w, rank, root)
    assert u.shape == (shape[0], rank)
    assert v.shape == (rank, shape[1])
    spectrum = math.spectrum(w, root)
    tail = math.tail(spectrum)
    assert len(tail) == len(spectrum) + 1
    error = w - u @ v
    met = np.linalg.norm(error if root is None else error @ root)
    assert met == pytest.approx(tail[rank], rel=1e-6, abs=1e-7 * tail[0])
    np.testing.assert_allclose(np.linalg.norm(u, axis=0), np.linalg.norm(v, axis=1), rtol=1e-9)


def test_svd_of_what_has_no_such_rank() -> None:
    w = low_rank(12, 9, 2)
    for matrix in (w, w.T, np.zeros((5, 4))):
        u, v = math.svd(matrix, 4)
        np.testing.assert_allclose(u @ v, matrix, atol=1e-9)


def rebuilt(a: Array, core: Array, b: Array) -> Array:
    return np.einsum("tq,qrp,rs->tsp", b, core, a)


@settings(max_examples=40, deadline=None)
@given(shape=st.tuples(small, small, small), aware=st.booleans(), seed=st.integers(0, 9))
def test_tucker_at_full_rank(shape: tuple[int, int, int], aware: bool, seed: int) -> None:
    kernel = noise(*shape, seed=seed)
    outputs, inputs, taps = shape
    root = cholesky(second_moment(inputs * taps)) if aware else None
    ranks = min(inputs, outputs * taps), min(outputs, inputs * taps)
    np.testing.assert_allclose(rebuilt(*math.tucker(kernel, *ranks, root)), kernel, atol=1e-6)


def test_tucker_finds_what_has_its_ranks_and_keeps_between_the_bounds() -> None:
    exact = rebuilt(noise(3, 10), noise(4, 3, 9, seed=1), noise(12, 4, seed=2))
    np.testing.assert_allclose(rebuilt(*math.tucker(exact, 3, 4)), exact, atol=1e-9)
    kernel = noise(12, 10, 9)
    error = np.linalg.norm(kernel - rebuilt(*math.tucker(kernel, 5, 6)))
    of_inputs = math.tail(math.spectrum(kernel.swapaxes(0, 1).reshape(10, -1)))[5]
    of_outputs = math.tail(math.spectrum(kernel.reshape(12, -1)))[6]
    # No less than either unfolding's tail, no more than both (De Lathauwer et al. 2000, property 10).
    assert max(of_inputs, of_outputs) <= error <= np.hypot(of_inputs, of_outputs)


def test_tucker_is_no_worse_than_its_start() -> None:
    """Higher-order orthogonal iteration starts at the higher-order SVD, which truncates each unfolding on its own."""
    better = []
    for seed in range(10):
        kernel = noise(12, 10, 9, seed=seed)
        p = np.linalg.svd(kernel.swapaxes(0, 1).reshape(10, -1))[0][:, :4]
        q = np.linalg.svd(kernel.reshape(12, -1))[0][:, :5]
        start = np.linalg.norm(kernel - np.einsum("tu,usp,sr->trp", q @ q.T, kernel, p @ p.T))
        better.append(start - np.linalg.norm(kernel - rebuilt(*math.tucker(kernel, 4, 5))))
    assert min(better) >= -1e-9
    assert max(better) > 1e-3


@settings(max_examples=40, deadline=None)
@given(shape=st.tuples(small, small, st.integers(1, 3), st.integers(1, 3)), aware=st.booleans())
def test_spatial_at_full_rank(shape: tuple[int, int, int, int], aware: bool) -> None:
    kernel = noise(*shape)
    outputs, inputs, rows, columns = shape
    root = cholesky(second_moment(inputs * rows * columns)) if aware else None
    v, h = math.spatial(kernel, min(inputs * rows, outputs * columns), root)
    np.testing.assert_allclose(np.einsum("trl,rsk->tskl", h, v), kernel, atol=1e-6)


def test_spatial_errs_by_the_tail_of_the_rearranged_kernel() -> None:
    kernel = noise(8, 5, 3, 3)
    tail = math.tail(np.linalg.svd(kernel.transpose(1, 2, 0, 3).reshape(15, 24), compute_uv=False))
    for rank in (1, 4, 9):
        v, h = math.spatial(kernel, rank)
        assert np.linalg.norm(kernel - np.einsum("trl,rsk->tskl", h, v)) == pytest.approx(tail[rank])


@pytest.mark.parametrize("seed", range(5))
def test_kernels_fit_their_inputs_better_than_themselves(seed: int) -> None:
    kernel = noise(9, 8, 3, 3, seed=seed)
    root = cholesky(second_moment(72, seed))

    def error(plain: Array) -> float:
        return float(np.linalg.norm((kernel - plain.reshape(kernel.shape)).reshape(9, -1) @ root))

    for rank in (2, 5):
        flat = kernel.reshape(9, 8, 9)
        plain, aware = (error(rebuilt(*math.tucker(flat, rank, rank, r))) for r in (None, root))
        assert aware < plain
        found = [math.spatial(kernel, rank, r) for r in (None, root)]
        plain, aware = (error(np.einsum("trl,rsk->tskl", h, v)) for v, h in found)
        assert aware < plain


# ---- ranks ---------------------------------------------------------------------------------------------------------


def test_energy() -> None:
    values = np.array([3.0, 2.0, 1.0, 0.0])
    assert [math.energy_rank(values, share) for share in (0, 0.6, 9 / 14, 0.65, 13 / 14, 0.99, 1)] == [
        0, 1, 1, 2, 2, 3, 3,
    ]  # fmt: skip


@pytest.mark.parametrize("size", [(40, 40), (60, 200), (200, 60), (100, 1000)])
@pytest.mark.parametrize("rank", [1, 4, 12])
@pytest.mark.parametrize("level", [0.03, 0.1, 0.3, 1.0])
def test_evbmf_finds_the_rank_under_noise(size: tuple[int, int], rank: int, level: float) -> None:
    """Singular values are sqrt(m n) and more, those of noise (sqrt(m) + sqrt(n)) level and less: all can be told."""
    wanted = low_rank(*size, rank, seed=rank) * (1 if level < 1 else 1.5)
    found = math.evbmf(wanted + level * noise(*size, seed=7))
    assert found == rank


@pytest.mark.parametrize("size", [(30, 30), (50, 400), (256, 100)])
@pytest.mark.parametrize("seed", range(4))
def test_evbmf_of_noise_alone_is_nothing(size: tuple[int, int], seed: int) -> None:
    assert math.evbmf(noise(*size, seed=seed)) == 0


@pytest.mark.parametrize("size", [(20, 20), (20, 50), (50, 20)])
@pytest.mark.parametrize("rank", [1, 5])
def test_evbmf_without_noise_is_the_rank(size: tuple[int, int], rank: int) -> None:
    assert math.evbmf(low_rank(*size, rank)) == rank
    assert math.evbmf(1e-20 * low_rank(*size, rank)) == rank


@pytest.mark.parametrize("level", [1e-8, 1e-4, 1e-3])
def test_evbmf_takes_dead_channels_for_none(level: float) -> None:
    alive = low_rank(60, 200, 5) + 0.3 * noise(60, 200)
    dead = level * np.abs(alive).max()
    w = np.block([[alive, dead * noise(60, 20, seed=1)], [dead * noise(12, 220, seed=2)]])
    assert math.evbmf(w) == math.evbmf(w.T) == 5


def test_evbmf_of_nothing_and_of_one_row() -> None:
    assert math.evbmf(np.zeros((4, 6))) == 0
    assert math.evbmf(noise(1, 50)) in (0, 1)
    assert math.evbmf(noise(1, 1)) in (0, 1)


def test_evbmf_estimates_the_noise() -> None:
    for level in (0.01, 1.0, 100.0):
        found = math.Spectrum.of(level * (low_rank(80, 300, 6) + noise(80, 300))).variance()
        assert found == pytest.approx(level**2, rel=0.05)


def test_the_edge_has_the_published_limits() -> None:
    """Square: t is 2.5129. It lies above what white noise reaches, (1 + sqrt(a))^2, and both meet in 1 where there are
    far more columns than rows."""
    assert math.Spectrum(np.ones(50), 50).edge == pytest.approx((1 + 2.5129) * (1 + 1 / 2.5129), rel=1e-4)
    edges = []
    for columns in (50, 100, 1000, 10**5, 10**8):
        one = math.Spectrum(np.ones(50), columns)
        assert one.edge > (1 + np.sqrt(one.aspect)) ** 2
        edges.append(one.edge)
    assert edges == sorted(edges, reverse=True)
    assert edges[-1] == pytest.approx(1, abs=0.01)


def test_at_the_edge_a_component_is_worth_nothing() -> None:
    """The free energy of a spectrum has no jump where a component passes the edge: keeping it costs what it saves."""
    squares, columns = np.array([4.0]), 3
    one = math.Spectrum(squares, columns)
    variance = squares[0] / columns / one.edge
    below, above = (one.free_energy(variance * (1 + d)) for d in (-1e-9, 1e-9))
    assert below == pytest.approx(above, abs=1e-7)
    assert (one.rank(variance * 0.999), one.rank(variance * 1.001)) == (1, 0)


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(2, 30), columns=st.integers(2, 30), seed=st.integers(0, 99), scale=st.floats(1e-6, 1e6))
def test_evbmf_knows_no_scale_and_no_orientation(rows: int, columns: int, seed: int, scale: float) -> None:
    w = noise(rows, columns, seed=seed) + 3 * np.outer(noise(rows, seed=seed + 1), noise(columns, seed=seed + 2))
    rank = math.evbmf(w)
    assert math.evbmf(w.T) == rank
    assert math.evbmf(scale * w) == rank
