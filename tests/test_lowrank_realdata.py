"""Factors that know a layer's inputs against factors that do not, on real layers and images they were not fitted to."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxopt.cleanup import clean
from onnxopt.data import quiet_session
from onnxopt.graph import Graph, normalise
from onnxopt.passes import Structural
from onnxopt.passes.spatial import Spatial
from onnxopt.passes.svd import Svd
from onnxopt.passes.tucker import Tucker
from onnxopt.stats import Moments, Stats, factor

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
import realdata

Array = np.ndarray[Any, Any]

needs_data = pytest.mark.skipif(
    not realdata.MODELS.is_dir(), reason=f"no models in {realdata.MODELS}; ONNXOPT_DATA names their folder"
)
SEEN, UNSEEN, ROWS = 192, 96, 20_000


def opened(model: str) -> onnx.ModelProto:
    made = onnx.load(realdata.MODELS / f"{model}.onnx")
    normalise(made)
    return clean(made)[0]


def ending_at(model: onnx.ModelProto, *names: str) -> onnx.ModelProto:
    """The model with these values as its outputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return copy


def images(model: str, count: int) -> Array:
    return np.concatenate([*realdata.TASKS[model].batches("train", count)()])


def statistics(graph: Graph, path: str, feeds: dict[str, Array]) -> Stats:
    (linear,) = graph.linears()[path]
    (x,) = quiet_session(ending_at(graph.model, linear.x).SerializeToString()).run(None, feeds)
    rows = linear.inputs(x, ROWS, np.random.default_rng(0)).astype(np.float64)
    mean = rows.mean(1)
    centred = rows - mean[:, None] if linear.bias else rows
    feedback, variance = factor(centred.swapaxes(1, 2) @ centred / rows.shape[1], 0.01)
    power = np.square(centred).mean(1).astype(np.float32)
    return Stats(1.0, linear, Moments(mean, power, feedback, variance, rows[:, :0].astype(np.float32)), 1.0)


def errors(model: str, path: str, decisions: list[Structural]) -> list[tuple[float, float]]:
    """Noise over signal in the layer's outputs on unseen images, factored without and with statistics."""
    made, every = opened(model), images(model, SEEN + UNSEEN)
    (name,) = (value.name for value in made.graph.input)
    graph = Graph(made)
    (site,) = [s for s in graph.sites() if s.path == path]
    stats = statistics(graph, path, {name: every[:SEEN]})
    assert stats.linear is not None
    y, unseen = stats.linear.y, {name: every[SEEN:]}

    def outputs(inner: onnx.ModelProto) -> Array:
        return np.asarray(quiet_session(ending_at(inner, y).SerializeToString()).run(None, unseen)[0], np.float64)

    wanted, found = outputs(graph.model), []
    for decision in decisions:
        pair = []
        for known in (Stats(), stats):
            other = Graph(opened(model))
            decision.apply(other, site, known)
            pair.append(float(np.linalg.norm(outputs(other.model) - wanted) / np.linalg.norm(wanted - wanted.mean(0))))
        found.append((pair[0], pair[1]))
    return found


@needs_data
@pytest.mark.parametrize(
    ("model", "shape", "decisions", "most"),
    [
        ("lenet5", (50, 20, 5, 5), [Svd(8), Svd(20), Tucker(6, 15), Tucker(10, 25), Spatial(8), Spatial(20)], 0.7),
        ("lenet5", (500, 800), [Svd(8), Svd(32), Svd(100), Tucker(20, 60), Tucker(40, 120)], 0.7),
        ("resnet32", (16, 16, 3, 3), [Svd(3), Svd(8), Tucker(6, 6), Tucker(10, 10), Spatial(6), Spatial(12)], 0.97),
        ("resnet32", (64, 64, 3, 3), [Svd(16), Svd(32), Tucker(20, 20), Tucker(40, 40), Spatial(24)], 0.97),
        pytest.param("mobilefacenet", (512, 128, 1, 1), [Svd(16), Svd(32), Svd(64)], 0.97, marks=pytest.mark.slow),
        pytest.param("mobilefacenet", (128, 512), [Svd(8), Svd(24), Svd(64)], 0.97, marks=pytest.mark.slow),
    ],
    ids=lambda value: (
        value if isinstance(value, str) else "x".join(map(str, value)) if isinstance(value, tuple) else ""
    ),
)
def test_knowing_the_inputs_errs_less(
    model: str, shape: tuple[int, ...], decisions: list[Structural], most: float
) -> None:
    sites = [site.path for site in Graph(opened(model)).sites() if site.shape == shape]
    found = errors(model, sites[-1], decisions)
    for decision, (plain, aware) in zip(decisions, found, strict=True):
        print(f"{decision.step()}: {plain:.3f} {aware:.3f}")
        assert aware <= most * plain, decision
