"""Small models with a factorised layer, and statistics of its inputs."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import onnx
from builders import model, weights
from hypothesis import assume
from hypothesis import strategies as st
from onnx import helper

from onnxopt.calibration.stats import Moments, Stats, cholesky_feedback
from onnxopt.data import quiet_session
from onnxopt.graph import Graph, normalise
from onnxopt.passes import Structural

Array = np.ndarray[Any, Any]
FULL = 1e-5
"""Relative error that is float32's rounding."""


def graph_of(made: onnx.ModelProto) -> Graph:
    copy = onnx.ModelProto()
    copy.CopyFrom(made)
    normalise(copy)
    return Graph(copy)


def run(made: onnx.ModelProto, feeds: dict[str, Array]) -> list[Array]:
    return [np.asarray(y) for y in quiet_session(made.SerializeToString()).run(None, feeds)]


def factored(made: onnx.ModelProto, decision: Structural, path: str = "w", stats: Stats | None = None) -> Graph:
    """The model's graph with a weight factored; its parts are sites, and nothing else has gone."""
    graph = graph_of(made)
    (site,) = [s for s in graph.sites() if s.path == path]
    before = {name for name, _ in graph.weights()}
    parts = decision.apply(graph, site, stats or Stats())
    after = {name for name, _ in graph.weights()}
    assert before - after == {path}
    assert all(name.startswith(f"{path}@") for name in after - before)
    assert {part.path for part in parts} <= after - before
    return graph


def shapes(graph: Graph, path: str = "w") -> dict[str, tuple[int, ...]]:
    """Of the parts, by name."""
    found = {t.name: tuple(t.dims) for t in graph.model.graph.initializer}
    return {name.removeprefix(f"{path}@"): dims for name, dims in found.items() if name.startswith(f"{path}@")}


def assert_same(made: onnx.ModelProto, graph: Graph, feeds: dict[str, Array], tolerance: float = FULL) -> None:
    for wanted, got in zip(run(made, feeds), run(graph.model, feeds), strict=True):
        assert got.shape == wanted.shape
        assert np.linalg.norm(got - wanted) <= tolerance * np.linalg.norm(wanted)


def one_node(op: str, x: Array, w: Array, *more: Array, index: int = 1, **attributes: Any) -> onnx.ModelProto:
    """x and a weight, in this order or the other, and a bias."""
    inputs = ["x", "w"] if index else ["w", "x"]
    biases = {f"b{i}": b for i, b in enumerate(more)}
    node = helper.make_node(op, [*inputs, *biases], ["y"], "layer", **attributes)
    return model([node], {"w": w, **biases}, {"x": x.shape}, {"y": None})


def statistics(graph: Graph, path: str, x: Array) -> Stats:
    """Of a weight on x, about the mean where there is a bias; its gain is 1."""
    (linear,) = graph.linears()[path]
    rows = linear.inputs(x, 10**9, np.random.default_rng(0)).astype(np.float64)
    mean = rows.mean(1)
    centred = rows - mean[:, None] if linear.bias else rows
    feedback, variance = cholesky_feedback(centred.swapaxes(1, 2) @ centred / rows.shape[1], 1e-6)
    power = np.square(centred).mean(1).astype(np.float32)
    moments = Moments(mean, power, feedback, variance, rows[:, :0].astype(np.float32))
    outputs = centred @ linear.matrix(graph.values(path)).swapaxes(1, 2)
    return Stats(1.0, linear, moments, float(np.square(outputs).sum() / rows.shape[1]))


def correlated(shape: tuple[int, ...], seed: int) -> Array:
    """Inputs whose channels mix few sources, far from zero on average."""
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(shape[1], shape[1])) * np.geomspace(1, 0.02, shape[1])
    return (np.einsum("cs,ns...->nc...", mix, rng.normal(size=shape)) + 0.7).astype(np.float32)


@st.composite
def convolutions(draw: st.DrawFn, least_rank: int = 1) -> tuple[onnx.ModelProto, Array, int]:
    """A Conv that the runtime takes, an input, its groups."""
    rank = draw(st.integers(least_rank, 3))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    inputs, outputs = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    sizes = st.lists(st.integers(1, 3), min_size=rank, max_size=rank)
    kernel, strides, dilations = draw(sizes), draw(sizes), draw(sizes)
    attributes: dict[str, Any] = {"group": groups, "strides": strides, "dilations": dilations}
    padding = draw(st.sampled_from(["none", "pads", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if padding == "pads":
        attributes["pads"] = draw(st.lists(st.integers(0, 2), min_size=2 * rank, max_size=2 * rank))
    elif padding != "none":
        attributes["auto_pad"] = padding
    if padding.startswith("SAME"):
        attributes["dilations"] = [1] * rank  # the runtime takes no other
    if draw(st.booleans()):
        attributes["kernel_shape"] = kernel
    assume(groups * outputs * inputs * prod(kernel) >= 16)
    seed = draw(st.integers(0, 99))
    size = [(k - 1) * d + 1 + draw(st.integers(0, 4)) for k, d in zip(kernel, dilations, strict=True)]
    x = weights(2, groups * inputs, *size, seed=seed)
    w = weights(groups * outputs, inputs, *kernel, seed=seed + 1)
    bias = [weights(groups * outputs, seed=seed + 2)] if draw(st.booleans()) else []
    return one_node("Conv", x, w, *bias, **attributes), x, groups
