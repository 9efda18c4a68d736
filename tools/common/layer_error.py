"""What low-rank factorisation of one layer of a real model does to the layer's outputs, on images held back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx

from common import realdata
from onnxopt.calibration.stats import Moments, Stats, cholesky_feedback
from onnxopt.data import quiet_session
from onnxopt.graph import Graph, normalise
from onnxopt.graph.cleanup import clean
from onnxopt.passes import Structural

Array = np.ndarray[Any, Any]

SEEN, UNSEEN = 192, 96
"""Images: for the statistics, for the error."""
ROWS = 20_000
"""Input vectors at most."""


def opened(model: str) -> onnx.ModelProto:
    """A shared model, normalised and cleaned."""
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
    """Training images, prepared for the model."""
    return np.concatenate([*realdata.TASKS[model].batches("train", count)()])


def statistics(graph: Graph, path: str, feeds: dict[str, Array]) -> Stats:
    """Statistics of the inputs of a weight's layer."""
    (linear,) = graph.linears()[path]
    (x,) = quiet_session(ending_at(graph.model, linear.x).SerializeToString()).run(None, feeds)
    rows = linear.inputs(x, ROWS, np.random.default_rng(0)).astype(np.float64)
    mean = rows.mean(1)
    centred = rows - mean[:, None] if linear.bias else rows
    outputs = centred @ linear.matrix(graph.values(path)).swapaxes(1, 2)
    feedback, variance = cholesky_feedback(centred.swapaxes(1, 2) @ centred / rows.shape[1], 0.01)
    power = np.square(centred).mean(1).astype(np.float32)
    moments = Moments(mean, power, feedback, variance, rows[:, :0].astype(np.float32))
    return Stats(1.0, linear, moments, float(np.square(outputs).sum() / rows.shape[1]))


def promises(model: str, shape: tuple[int, ...], decisions: Sequence[Structural]) -> list[float | None]:
    """The last of each three of `errors`, as the statistics predict it."""
    graph, feeds = Graph(opened(model)), images(model, SEEN)
    site = [site for site in graph.sites() if site.shape == shape][-1]
    (name,) = (value.name for value in graph.model.graph.input)
    stats = statistics(graph, site.path, {name: feeds})
    return [decision.predict(graph.values(site.path), site, stats) for decision in decisions]


def errors(model: str, shape: tuple[int, ...], decisions: Sequence[Structural]) -> list[tuple[float, ...]]:
    """Noise over signal in the outputs of the last layer of this shape.

    For each decision: factors without statistics; the same with the bias corrected by the mean error; with statistics.
    """
    made, every = opened(model), images(model, SEEN + UNSEEN)
    (name,) = (value.name for value in made.graph.input)
    graph = Graph(made)
    site = [site for site in graph.sites() if site.shape == shape][-1]
    stats = statistics(graph, site.path, {name: every[:SEEN]})
    assert stats.linear is not None
    assert stats.moments is not None
    mean_only = replace(stats, moments=replace(stats.moments, feedback=None))
    y, unseen = stats.linear.y, {name: every[SEEN:]}

    def outputs(inner: onnx.ModelProto) -> Array:
        return np.asarray(quiet_session(ending_at(inner, y).SerializeToString()).run(None, unseen)[0], np.float64)

    wanted = outputs(graph.model)
    found: list[tuple[float, ...]] = []
    for decision in decisions:
        triple = []
        for known in (Stats(), mean_only, stats):
            other = Graph(opened(model))
            decision.apply(other, site, known)
            noise = np.linalg.norm(outputs(other.model) - wanted)
            triple.append(float(noise / np.linalg.norm(wanted - wanted.mean(0))))
        found.append(tuple(triple))
    return found
