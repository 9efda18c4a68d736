"""Error feedback: less output noise than plain rounding, on held-back inputs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from builders import cnn, mlp, model, weights
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from onnxopt import native
from onnxopt.build.execute_plan import execute_plan
from onnxopt.calibration.budget import Budget
from onnxopt.calibration.cache import Cache
from onnxopt.calibration.collect import Statistics, calibrate
from onnxopt.calibration.stats import Stats
from onnxopt.data import open_data, quiet_session
from onnxopt.encoding import Affine, step_of
from onnxopt.errors import OnnxoptError
from onnxopt.graph import Graph, Site, normalise
from onnxopt.passes.quantise.feedback import _RATE, Feedback
from onnxopt.spec.plan import Plan, Step

Array = np.ndarray[Any, Any]


def correlated(*shape: int, seed: int = 0) -> Array:
    """Samples whose elements have much in common, along the second axis."""
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((shape[1], shape[1])) + 2
    return np.moveaxis(rng.standard_normal(shape).swapaxes(1, -1) @ mixed, -1, 1).astype(np.float32)


@pytest.fixture(scope="module", params=["mlp", "blocks", "cnn"])
def measured(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Graph, Statistics]:
    made, shape, memory = {
        "mlp": (mlp(64), (512, 64), 2**30),
        "blocks": (mlp(128), (512, 128), 2 * 8 * 128 * 64),  # for blocks of 64 inputs
        "cnn": (cnn(), (64, 3, 16, 16), 2**30),
    }[request.param]
    normalise(made)
    graph = Graph(made)
    samples = correlated(*shape)
    data = open_data(lambda: np.split(samples, 16), quiet_session(made.SerializeToString()))
    cache = Cache(str(tmp_path_factory.mktemp("statistics")))
    return graph, calibrate(graph, list(graph.sites()), data, cache, Budget(memory), lambda what, share: None)


def noise(error: Array, stats: Stats) -> float:
    """Of the model's outputs, on what was held back."""
    assert stats.linear is not None
    assert stats.moments is not None
    made = stats.moments.held_back.astype(np.float64) @ stats.linear.matrix(error).swapaxes(1, 2)
    return float(np.square(made).sum() * stats.gain)


def applied(graph: Graph, site: Site, decision: Feedback, stats: Stats) -> Affine:
    graph.reset()
    decision.apply(graph, site, stats)
    weight = graph.encodings[site.path]
    assert isinstance(weight, Affine)
    return weight


def steps_of(weight: Affine) -> Array:
    """The step of every weight."""
    shape = [-1 if axis == weight.axis else 1 for axis in range(weight.q.ndim)]
    return np.broadcast_to(step_of(weight.k).astype(np.float64).reshape(shape), weight.q.shape)


@pytest.mark.parametrize("slope", [1e-9, 1e-7, 1e-6, 1e-5, 1e-4])
def test_it_is_never_worse_than_rounding(measured: tuple[Graph, Statistics], slope: float) -> None:
    """On inputs that were held back, with the same grids and the same price of bits; for some much better."""
    graph, statistics = measured
    better = []
    for site in list(graph.sites()):
        graph.reset()
        w = graph.values(site.path)
        stats = statistics.of(site, w)
        if stats.linear is None or stats.moments is None:
            continue
        weight = applied(graph, site, Feedback(slope), stats)
        step = stats.linear.matrix(steps_of(weight))[:, :, 0]
        price = 2 * np.log(2) * slope / stats.gain * _RATE
        q, _, _ = native.quantize(stats.linear.matrix(w.astype(np.float64)), None, stats.moments.power, step, price)
        rounded = stats.linear.tensor(q * step[..., None])
        ours, theirs = noise(weight.values() - w, stats), noise(rounded - w, stats)
        assert ours <= theirs * (1 + 1e-3) + 1e-12
        better.append(ours < 0.7 * theirs)
    assert any(better)


@pytest.mark.parametrize("slope", [1e-8, 1e-7, 1e-6])
def test_the_promise_is_kept(measured: tuple[Graph, Statistics], slope: float) -> None:
    """What the statistics promise is about what happens on inputs that they were not computed from."""
    graph, statistics = measured
    graph.reset()
    plan = Plan("", {site.path: Feedback(slope).step() for site in graph.sites()})
    promised = [event for event in execute_plan(graph, plan, statistics) if event.predicted is not None]
    assert promised
    for event in promised:
        assert event.predicted is not None
        assert event.measured is not None
        assert event.predicted / 2 < event.measured < 2 * event.predicted, event.path


def test_finer_slopes_make_less_noise(measured: tuple[Graph, Statistics]) -> None:
    graph, statistics = measured
    for path in [site.path for site in graph.sites()]:
        found = []
        for slope in (1e-4, 1e-5, 1e-6, 1e-7, 1e-8):
            (event,) = execute_plan(graph, Plan("", {path: Feedback(slope).step()}), statistics)
            found.append(event.error)
        assert found == sorted(found, reverse=True), path


def test_the_bias_takes_up_what_the_error_is_on_average(measured: tuple[Graph, Statistics]) -> None:
    graph, statistics = measured
    for path, (linear, *_) in graph.linears().items():
        site = next((site for site in graph.sites() if site.path == path), None)
        if linear.bias is None or site is None:
            continue
        graph.reset()
        w, bias = graph.values(path), graph.values(linear.bias)
        stats = statistics.of(site, w)
        weight = applied(graph, site, Feedback(1e-5), stats)
        assert stats.moments is not None
        error = linear.matrix(w.astype(np.float64) - weight.values())
        shift = np.einsum("goi,gi->go", error, stats.moments.mean).ravel()
        assert np.abs(shift).max() > 0
        np.testing.assert_allclose(graph.values(linear.bias) - bias, shift, rtol=1e-3, atol=1e-5)


@given(st.integers(2, 16), st.floats(1e-12, 1.0), st.integers(0, 9))
@settings(max_examples=60)
def test_integers_keep_to_max_bits(bits: int, slope: float, seed: int) -> None:
    made = mlp(32, seed)
    graph = Graph(made)
    for site in list(graph.sites()):
        weight = applied(graph, site, Feedback(slope, bits), Stats())
        assert np.abs(weight.q).max() < 2 ** (bits - 1)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_max_bits_hold_with_statistics_too(measured: tuple[Graph, Statistics], bits: int) -> None:
    graph, statistics = measured
    plan = Plan("", {site.path: Step("feedback", (("slope", 1e-12), ("max_bits", bits))) for site in graph.sites()})
    execute_plan(graph, plan, statistics)
    encodings = {path: weight for path, weight in graph.encodings.items() if isinstance(weight, Affine)}
    assert encodings
    for path, weight in encodings.items():
        assert np.abs(weight.q).max() < 2 ** (bits - 1), path
        assert np.abs(weight.q).max() >= 2 ** (bits - 1) / 4, path  # and the grid is no coarser than it has to be


@pytest.mark.parametrize(
    ("values", "reason"),
    [(np.full((8, 8), np.nan), "infinities or NaNs"), (np.full((8, 8), -np.inf), "infinities or NaNs"),
     (np.zeros((8, 8)), "all zeros")],
)  # fmt: skip
def test_what_cannot_be_quantized_is_left_with_a_reason(values: Array, reason: str) -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    made = model([node], {"w": values.astype(np.float32)}, {"x": ["n", 8]}, {"y": ["n", 8]})
    graph = Graph(made)
    (event,) = execute_plan(graph, Plan("", {"w": Feedback(1e-3).step()}), Statistics(None, {}, {}))
    assert reason in event.reason
    assert not graph.encodings


def test_a_weight_that_hardly_reaches_an_output_is_quantized_coarsely(measured: tuple[Graph, Statistics]) -> None:
    """Its bits cost more than float32 holds."""
    graph, statistics = measured
    site = next(iter(graph.sites()))
    graph.reset()
    stats = replace(statistics.of(site, graph.values(site.path)), gain=1e-50)
    assert not applied(graph, site, Feedback(1e-4), stats).q.any()


def test_a_dead_output_costs_nothing() -> None:
    """A channel of zeros, and one that is a millionth of the others, get no fine grid."""
    w = weights(64, 64)
    w[:, 3], w[:, 5] = 0, w[:, 5] * 1e-6
    graph = Graph(model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": w}, {"x": [1, 64]}, {"y": [1, 64]}))
    (site,) = graph.sites()
    weight = applied(graph, site, Feedback(1e-5), Stats())
    assert not weight.q[:, [3, 5]].any()
    assert weight.q[:, 4].any()


@pytest.mark.parametrize("text", ["feedback{slope=0}", "feedback{slope=-1}", "feedback{slope=1,max_bits=1}",
                                  "feedback{slope=1,max_bits=17}", "feedback"])  # fmt: skip
def test_wrong_arguments_are_named(text: str) -> None:
    with pytest.raises(OnnxoptError, match=r"slope|max_bits"):
        Feedback.from_step(Step.parse(text))


def test_a_weight_in_parts_is_as_good_as_in_one(
    measured: tuple[Graph, Statistics], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part has a histogram of its own, so integers differ a little."""
    graph, statistics = measured
    site = max(graph.sites(), key=lambda one: one.elements)
    values, decision = graph.values(site.path), Feedback(1e-6)
    stats = statistics.of(site, values)
    whole, predicted = applied(graph, site, decision, stats), decision.predict(values, site, stats)
    monkeypatch.setattr("onnxopt.calibration.stats._PART", site.elements // 3)
    parts = applied(graph, site, decision, stats)
    assert parts.q.shape == whole.q.shape and len(parts.k) == len(whole.k)
    assert decision.predict(values, site, stats) == pytest.approx(predicted, rel=1e-6)
    errors = [noise(values - one.values(), stats) for one in (whole, parts)]
    assert errors[1] == pytest.approx(errors[0], rel=0.1)
