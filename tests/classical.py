"""Shared helpers of the tests of prune, codebook and fixedpoint: single weights, and real layers with inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from builders import model, weights
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import helper

from common import realdata
from onnxopt.calibration.budget import Budget
from onnxopt.calibration.cache import Cache
from onnxopt.calibration.collect import Statistics, calibrate
from onnxopt.calibration.stats import Stats
from onnxopt.data import open_data, quiet_session
from onnxopt.graph import Graph, Site, normalise
from onnxopt.graph.cleanup import clean
from onnxopt.passes import Pass

Array = np.ndarray[Any, Any]

needs_data = pytest.mark.skipif(
    not realdata.MODELS.is_dir(), reason=f"no models in {realdata.MODELS}; ONNXOPT_DATA names their folder"
)


@st.composite
def matrices(draw: st.DrawFn) -> Array:
    """Weights [inputs, outputs] of any density, not all zero, with ties, spread over some magnitudes."""
    shape = draw(st.tuples(st.integers(1, 12), st.integers(16, 40)))
    dtype = draw(st.sampled_from([np.float32, np.float16]))
    few = st.sampled_from([0.0, 0.0, 0.5, -0.5, 1.25])
    values = hnp.arrays(np.float64, shape, elements=st.one_of(few, st.floats(-8, 8, allow_subnormal=False)))
    w = draw(values) * draw(st.sampled_from([1.0, 2.0**-9]))
    w[draw(hnp.arrays(np.float64, shape, elements=st.floats(0, 1))) < draw(st.floats(0, 1))] = 0
    w.flat[0] = 1
    return w.astype(dtype)


def one_weight(w: Array) -> tuple[Graph, Site]:
    """x @ w, its inputs along the first axis."""
    made = model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": w}, {"x": [1, len(w)]}, {"y": [1, w.shape[1]]})
    normalise(made)
    graph = Graph(made)
    return graph, next(iter(graph.sites()))


def applied(w: Array, *passes: Pass) -> Array:
    """What is stored of the weight after the passes, one on the other."""
    graph, site = one_weight(w)
    for one in passes:
        one.apply(graph, site, Stats())
    return graph.encoding("w").values()


def correlated(samples: int, width: int) -> Array:
    """Inputs with much in common, and a mean."""
    rng = np.random.default_rng(0)
    return (rng.standard_normal((samples, width)) @ (rng.standard_normal((width, width)) + 1) + 1).astype(np.float32)


class Calibrated:
    """A model's graph, and what was measured of its weights."""

    def __init__(self, made: onnx.ModelProto, start: Any, folder: Path) -> None:
        normalise(made)
        made, *_ = clean(made)
        self.graph = Graph(made)
        self.sites = [site for site in self.graph.sites() if site.axis is not None]
        data = open_data(start, quiet_session(made.SerializeToString()))
        self.statistics: Statistics = calibrate(
            self.graph, list(self.graph.sites()), data, Cache(str(folder)), Budget(2**30), lambda what, share: None
        )

    def of(self, site: Site) -> Stats:
        return self.statistics.of(site, self.graph.values(site.path))

    def applied(self, site: Site, *passes: Pass) -> Array:
        """What is stored of one weight after the passes, one on the other, in float64."""
        self.graph.reset()
        for one in passes:
            one.apply(self.graph, site, self.of(site))
        return self.graph.encoding(site.path).values().astype(np.float64)

    def noise(self, site: Site, got: Array) -> float:
        """Of the model's outputs, on inputs that were held back, the mean aside where a bias takes it up."""
        stats = self.of(site)
        assert stats.linear is not None
        assert stats.moments is not None
        error = stats.linear.matrix(got - self.graph.values(site.path))
        made = stats.moments.held_back.astype(np.float64) @ error.swapaxes(1, 2)
        return float(np.square(made).sum() / made.shape[1] * stats.gain)


def small(folder: Path) -> Calibrated:
    """x[n, 64] -> Gemm -> Relu -> Gemm with biases, on correlated inputs."""
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], transB=1),
        helper.make_node("Relu", ["h"], ["a"]),
        helper.make_node("Gemm", ["a", "w2", "b2"], ["y"], transB=1),
    ]
    tensors = {
        "w1": weights(160, 64), "b1": weights(160, seed=1), "w2": weights(24, 160, seed=2), "b2": weights(24, seed=3),
    }  # fmt: skip
    made = model(nodes, tensors, {"x": ["n", 64]}, {"y": ["n", 24]})
    samples = correlated(512, 64)
    return Calibrated(made, lambda: np.split(samples, 16), folder)


def real(name: str, images: int, folder: Path) -> Calibrated:
    """A shared model on images of its training part."""
    start = realdata.TASKS[name].batches("train", images)
    return Calibrated(onnx.load(realdata.MODELS / f"{name}.onnx"), start, folder)


def entropy(values: Array) -> float:
    """Bits a weight, order 0."""
    _, counts = np.unique(values, return_counts=True)
    return float(-(counts * np.log2(counts / values.size)).sum() / values.size)
