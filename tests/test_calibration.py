"""Calibration statistics against NumPy, for any chunking and any memory limit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import ALL, cnn, mlp, model, weights
from calibrating import MUCH, Array, Calibrated, vectors
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

import onnxopt
from onnxopt.calibration import chunks, collect, stats
from onnxopt.calibration.budget import Budget
from onnxopt.calibration.cache import Cache
from onnxopt.calibration.moments import DAMPING, blocks_of
from onnxopt.calibration.stats import Stats, cholesky_feedback, in_blocks, out_of_blocks, shrinkage
from onnxopt.data import Hints, quiet_session, synthetic
from onnxopt.graph import Graph, normalise


def seen(rows: Array, batch: int = 16) -> Array:
    """Rows of the pieces that are not held back: of every eight the second is."""
    pieces = np.split(rows, range(batch, len(rows), batch))
    return np.concatenate([piece for i, piece in enumerate(pieces) if i % 8 != 1])


def held(rows: Array, batch: int = 16) -> Array:
    pieces = np.split(rows, range(batch, len(rows), batch))
    return np.concatenate([piece for i, piece in enumerate(pieces) if i % 8 == 1])


@given(st.integers(1, 12), st.integers(1, 4), st.integers(0, 99))
@settings(max_examples=50)
def test_with_feedback_errors_cost_what_the_second_moment_says(inputs: int, groups: int, seed: int) -> None:
    """e H e^T is the sum of what each column's own error costs, the rest being passed on."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((groups, 3 * inputs, inputs)) @ rng.standard_normal((groups, inputs, inputs))
    second, damping = x.swapaxes(1, 2) @ x / (3 * inputs), 0.01
    feedback, variance = cholesky_feedback(second.copy(), damping)
    assert not np.tril(feedback).any()
    own = rng.standard_normal((groups, 5, inputs))
    whole = own - own @ feedback  # what each column was given by those before was taken off its error
    damped = second + damping * np.eye(inputs) * (np.trace(second, axis1=1, axis2=2) / inputs)[:, None, None]
    np.testing.assert_allclose(
        ((whole @ damped) * whole).sum(2), (np.square(own) * variance[:, None]).sum(2), rtol=1e-3
    )


def test_moments_are_those_of_all_inputs(tmp_path: Path) -> None:
    samples = vectors(800, 64)
    found = Calibrated(mlp(64), samples, tmp_path / "c")
    moments, x = found.moments("fc1"), seen(samples).astype(np.float64)
    np.testing.assert_allclose(moments.mean[0], x.mean(0), rtol=1e-4, atol=1e-5)
    second = x.T @ x / len(x)  # no bias follows, so the mean counts
    np.testing.assert_allclose(moments.power[0], np.diag(second), rtol=1e-4)
    feedback, variance = cholesky_feedback(second[None].copy(), DAMPING)
    np.testing.assert_allclose(moments.variance, variance, rtol=1e-2)
    assert moments.feedback is not None
    np.testing.assert_allclose(moments.feedback, feedback, rtol=1e-2, atol=1e-3)
    np.testing.assert_allclose(moments.held_back[0], held(samples), rtol=1e-5, atol=1e-5)
    w = found.graph.values("fc1").astype(np.float64)
    assert found.of("fc1").signal == pytest.approx(np.square(x @ w).sum(1).mean(), rel=1e-4)


def test_moments_of_few_vectors_are_damped_more() -> None:
    """Feedback then makes less noise on new vectors than with little damping or with much."""
    rng, inputs = np.random.default_rng(0), 64
    mixing = rng.standard_normal((inputs, inputs)) * np.linspace(0.1, 2, inputs)
    few, many = (rng.standard_normal((count, inputs)) @ mixing for count in (48, 4096))
    second = (few.T @ few / len(few))[None]

    def noise(damping: float) -> float:
        feedback, _ = cholesky_feedback(second.copy(), damping)
        return float(np.square(many - many @ feedback[0].T).sum())

    wanted = float(shrinkage(second, len(few))[0])
    assert noise(wanted) < min(0.9 * noise(DAMPING), 0.95 * noise(100))
    assert noise(wanted) < 1.05 * min(noise(wanted / 3), noise(wanted * 3))
    assert shrinkage((many.T @ many / len(many))[None], len(many))[0] < DAMPING
    assert shrinkage(np.zeros((1, 4, 4)), 3)[0] == 0


def test_a_bias_takes_the_mean_off(tmp_path: Path) -> None:
    samples = vectors(200, 64)
    found = Calibrated(mlp(64), samples, tmp_path / "c")
    a = found.values("a", samples)
    moments, x = found.moments("fc2"), seen(a).astype(np.float64)
    np.testing.assert_allclose(moments.power[0], x.var(0), rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(moments.held_back[0], held(a) - x.mean(0), rtol=1e-3, atol=1e-4)


def test_what_varies_little_is_seen_beside_its_mean(tmp_path: Path) -> None:
    """Float32 products of numbers near 1000 are off by more than such a variance."""
    samples = vectors(200, 64) * np.float32(0.01) + np.float32(1000)
    made = model(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"])],
        {"w": weights(64, 16), "b": weights(16, seed=1)}, {"x": ["n", 64]}, {"y": ["n", 16]},
    )  # fmt: skip
    moments = Calibrated(made, samples, tmp_path / "c").moments("w")
    x = seen(samples).astype(np.float64)
    np.testing.assert_allclose(moments.power[0], x.var(0), rtol=1e-3)
    np.testing.assert_allclose(moments.mean[0], x.mean(0), rtol=1e-6)
    still = Calibrated(made, np.full_like(samples, 7), tmp_path / "still").moments("w")
    assert still.power.max() < 1e-9


def test_a_bias_that_must_stay_takes_nothing_off(tmp_path: Path) -> None:
    found = Calibrated(mlp(64), vectors(64, 64), tmp_path / "c")
    site, values = found.sites["fc2"], found.graph.values("fc2")
    for fixed, bias in ((frozenset[str](), "b2"), (frozenset({"b2"}), None)):
        linear = found.statistics.of(site, values, fixed).linear
        assert linear
        assert linear.bias == bias


@pytest.mark.parametrize("max_ram", [MUCH, 2 * 64**2 * 8])
def test_peaks_are_those_of_all_samples(max_ram: int, tmp_path: Path) -> None:
    """Of what is held back, too, and however many passes it takes."""
    samples = np.random.default_rng(0).standard_normal((48, 3, 16, 16)).astype(np.float32)
    samples[20] *= 9  # of the second piece, which is held back
    found = Calibrated(cnn(), samples, tmp_path / "c", max_ram)
    for path, value in (("w1", "r1"), ("w2", "c2"), ("w3", "y")):
        wanted = np.abs(found.values(value, samples)).max()
        assert found.of(path).peaks() == pytest.approx({value: wanted}, rel=1e-5)


@pytest.mark.parametrize("name", ["w1", "w2", "w3"])
def test_moments_of_convolutions(name: str, tmp_path: Path) -> None:
    samples = np.random.default_rng(0).standard_normal((48, 3, 16, 16)).astype(np.float32)
    found = Calibrated(cnn(), samples, tmp_path / "c")
    linear = found.graph.linears()[name][0]
    x = samples if linear.x == "x" else found.values(linear.x, samples)
    rows = linear.inputs(seen(x), 10**9, np.random.default_rng(0)).astype(np.float64)
    moments = found.moments(name)
    np.testing.assert_allclose(moments.mean, rows.mean(1), rtol=1e-3, atol=1e-4)
    wanted = rows.var(1) if linear.bias else np.square(rows).mean(1)
    np.testing.assert_allclose(moments.power, wanted, rtol=1e-3, atol=1e-4)


def same(a: Stats, b: Stats, gains: float = 1e-3) -> None:
    assert a.moments is not None
    assert b.moments is not None
    np.testing.assert_allclose(a.gain, b.gain, rtol=gains)
    assert a.signal == pytest.approx(b.signal, rel=1e-5)
    for field in ("mean", "power", "variance"):
        np.testing.assert_allclose(getattr(a.moments, field), getattr(b.moments, field), rtol=1e-3, atol=1e-6)


def test_memory_changes_nothing_but_the_number_of_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []
    measure = collect.measure_moments
    monkeypatch.setattr(collect, "measure_moments", lambda *a: (runs.append(len(a[1])), measure(*a)))
    samples = np.random.default_rng(0).standard_normal((48, 3, 16, 16)).astype(np.float32)
    much = Calibrated(cnn(), samples, tmp_path / "much")
    assert runs == [3]
    runs.clear()
    little = Calibrated(cnn(), samples, tmp_path / "little", max_ram=2 * 64**2 * 8)  # of which w3 takes half
    assert len(runs) > 1
    for path in ("w1", "w2", "w3"):
        same(much.of(path), little.of(path))


def test_without_memory_for_second_moments_there_are_variances(tmp_path: Path) -> None:
    samples = vectors(64, 64)
    least = Calibrated(mlp(64), samples, tmp_path / "c", max_ram=1)
    moments = least.moments("fc1")
    assert moments.feedback is None
    np.testing.assert_allclose(moments.power[0], np.square(seen(samples)).mean(0), rtol=1e-4)


def test_with_little_memory_inputs_know_those_of_their_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = vectors(1200, 128)
    whole, some = (Calibrated(mlp(128), samples, tmp_path / str(n), max_ram=2 * 8 * 128 * n) for n in (128, 64))
    one, two = (found.moments("fc1") for found in (whole, some))
    assert (one.blocks, two.blocks) == (1, 2)
    np.testing.assert_allclose(one.power, two.power, rtol=1e-4)
    np.testing.assert_array_equal(one.held_back, two.held_back)
    dense, rows = two.whole(), seen(samples)
    assert dense is not None
    assert not dense[0, :64, 64:].any()
    for number, own in enumerate(np.split(rows, 2, 1)):
        part = slice(64 * number, 64 * number + 64)
        second = (own.T.astype(np.float64) @ own)[None] / len(own)
        feedback, variance = cholesky_feedback(second, DAMPING)
        np.testing.assert_allclose(dense[0, part, part], feedback[0], rtol=0.02, atol=1e-3)
        np.testing.assert_allclose(two.variance[0, part], variance[0], rtol=0.02)
    assert 0.2 < some.of("fc1").signal / whole.of("fc1").signal < 5
    gains = [found.of("fc1").gain * found.of("fc1").signal for found in (whole, some)]
    assert 0.2 < gains[0] / gains[1] < 5
    monkeypatch.setattr(stats, "_WHOLE", 4 * 128**2 - 1)
    assert one.has_whole
    assert one.whole() is one.feedback
    assert not two.has_whole
    assert two.whole() is None


@given(st.integers(1, 20), st.integers(1, 5000), st.integers(1, 2**30), st.sampled_from([None, 64, 2048]))
def test_blocks_are_equally_wide_and_fit(groups: int, inputs: int, most: int, widest: int | None) -> None:
    blocks = blocks_of(groups, inputs, most, widest)
    if blocks is None:
        assert 8 * groups * inputs**2 > most
    else:
        assert inputs % blocks == 0
        assert 8 * groups * inputs * (inputs // blocks) <= most
        assert blocks == 1 or inputs // blocks >= 64


@given(st.integers(1, 3), st.integers(0, 5), st.integers(1, 4), st.integers(1, 4))
def test_blocks_come_apart_and_together(groups: int, vectors: int, blocks: int, width: int) -> None:
    rows = np.arange(groups * vectors * blocks * width).reshape(groups, vectors, blocks * width)
    apart = in_blocks(rows, blocks)
    np.testing.assert_array_equal(apart[blocks - 1], rows[0, :, (blocks - 1) * width :])
    np.testing.assert_array_equal(out_of_blocks(apart, blocks), rows)


def test_chunks_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxopt.calibration.moments.HOLD_BACK", 1)  # none: which ones depends on how they are cut
    samples = np.random.default_rng(0).standard_normal((48, 3, 16, 16)).astype(np.float32)
    whole = Calibrated(cnn(), samples, tmp_path / "whole")
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1)
    cut = Calibrated(cnn(), samples, tmp_path / "cut")
    for path in ("w1", "w2", "w3"):
        same(whole.of(path), cut.of(path), gains=0.3)  # estimated by a random projection for each piece


def shared() -> onnx.ModelProto:
    """x[n, 16] -> MatMul w -> Relu -> MatMul w -> Add b -> y, one weight twice."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "w"], ["s"]),
        helper.make_node("Add", ["s", "b"], ["y"]),
    ]
    return model(nodes, {"w": weights(16, 16), "b": weights(16, seed=1)}, {"x": ["n", 16]}, {"y": ["n", 16]})


def test_a_shared_weight_has_the_moments_of_all_its_inputs(tmp_path: Path) -> None:
    samples = vectors(200, 16)
    found = Calibrated(shared(), samples, tmp_path / "c")
    both = np.concatenate([seen(samples), seen(found.values("r", samples))])
    np.testing.assert_allclose(found.moments("w").power[0], np.square(both).mean(0), rtol=1e-4)
    np.testing.assert_allclose(found.moments("w").mean[0], both.mean(0), rtol=1e-3, atol=1e-4)


def test_a_gain_is_what_noise_does_to_the_outputs(tmp_path: Path) -> None:
    """One layer: noise of its outputs, relative, is that of the model's."""
    made = model(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Reshape", ["h", "s"], ["y"])],
        {"w": weights(64, 16), "s": np.array([-1])}, {"x": ["n", 64]}, {"y": ["m"]},
    )  # fmt: skip
    found = Calibrated(made, vectors(800, 64), tmp_path / "c")
    stats = found.of("w")
    assert stats.gain * stats.signal == pytest.approx(1, rel=0.15)


def odd() -> dict[str, onnx.ModelProto]:
    """Models whose weights are used in ways that are hard to observe."""
    add = helper.make_node("Add", ["h", "b"], ["y"])
    six = weights(6, 6, seed=3)
    return {
        "a number as bias": model(
            [helper.make_node("MatMul", ["x", "w"], ["h"]), add],
            {"w": weights(6, 4), "b": weights(1)}, {"x": ["n", 6]}, {"y": ["n", 4]},
        ),
        "a batch of weights with a bias": model(
            [helper.make_node("MatMul", ["x", "w"], ["h"]), add],
            {"w": weights(3, 6, 4), "b": weights(4)}, {"x": ["n", 6]}, {"y": [3, "n", 4]},
        ),
        "a weight times itself": model(
            [helper.make_node("MatMul", ["w", "w"], ["h"]), helper.make_node("MatMul", ["x", "h"], ["y"])],
            {"w": six}, {"x": ["n", 6]}, {"y": ["n", 6]},
        ),
        "a constant that is multiplied": model(
            [helper.make_node("MatMul", ["v", "w"], ["h"]), helper.make_node("Add", ["x", "h"], ["y"])],
            {"v": weights(6, 8), "w": weights(8, 6)}, {"x": [6, 6]}, {"y": [6, 6]},
        ),
        "a weight and a vector": model(
            [helper.make_node("MatMul", ["w", "x"], ["y"])], {"w": weights(8, 6)}, {"x": [6]}, {"y": [8]},
        ),
        "a weight that is an output": model(
            [helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": six}, {"x": ["n", 6]}, {"y": ["n", 6], "w": [6, 6]},
        ),
        "inputs that are always zero": model(
            [helper.make_node("Mul", ["x", "z"], ["h"]), helper.make_node("MatMul", ["h", "w"], ["y"])],
            {"w": six, "z": np.float32(0)}, {"x": ["n", 6]}, {"y": ["n", 6]},
        ),
        "a weight of zeros": model(
            [helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": 0 * six}, {"x": ["n", 6]}, {"y": ["n", 6]},
        ),
        "a weight with a NaN": model(
            [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("MatMul", ["h", "v"], ["y"])],
            {"w": np.where(np.eye(6), np.nan, six).astype(np.float32), "v": six}, {"x": ["n", 6]}, {"y": ["n", 6]},
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", odd())
def test_odd_models_are_calibrated(name: str, tmp_path: Path) -> None:
    made = odd()[name]
    normalise(made)
    graph = Graph(made)
    data = synthetic(quiet_session(made.SerializeToString()), Hints(made), 32)
    sites = list(graph.sites())
    statistics = collect.calibrate(
        graph, sites, data, Cache(str(tmp_path / "c")), Budget(MUCH), lambda what, share: None
    )
    for site in sites:
        stats = statistics.of(site, graph.values(site.path))
        assert np.isfinite(stats.gain)
        assert stats.gain > 0


SILENT = ("inputs that are always zero", "a weight of zeros", "a weight with a NaN")
"""Models whose outputs are zeros or NaN, whatever the other weights are."""


@pytest.mark.parametrize("name", [*odd(), *ALL])
def test_every_model_is_compressed(name: str, tmp_path: Path) -> None:
    source, small = tmp_path / "m.onnx", tmp_path / "small.onnx"
    onnx.save((odd() | {key: make() for key, make in ALL.items()})[name], source)
    result = onnxopt.optimize(source, small)
    assert result.check
    if name in SILENT:
        assert "not measured" in result.not_calibrated
        assert not result.check.found.error
    else:
        assert not result.not_calibrated
        assert (result.check.found.error or 0.0) <= 0.1
