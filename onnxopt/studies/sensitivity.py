"""Sensitivity of a model to single weights: applies one step to one weight at a time, from strong to gentle.

Generalises the scan from which Han et al. read pruning ratios (*Learning both weights and connections*, 2015, figure 6)
to any step of a plan.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any, TypedDict, Unpack

import numpy as np
import onnx

from onnxopt import runtime
from onnxopt.calibration.stats import Stats
from onnxopt.data import Spec, open_data, quiet_session
from onnxopt.encoding import Array
from onnxopt.errors import OnnxoptError
from onnxopt.graph import Graph, Site, is_compressed, normalise, read
from onnxopt.graph.cleanup import clean
from onnxopt.metrics import Metric, open_metric
from onnxopt.passes import QUANTIZING, Pass, Skip
from onnxopt.search.evaluator import Evaluator
from onnxopt.spec.plan import Step

Progress = Callable[[str, float], None]

STEP = "prune{keep=$x}"
SETTINGS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0)
SAMPLES = 256
"""Default number of samples."""


@dataclass(frozen=True, slots=True)
class Point:
    """One weight at one setting, with all other weights unchanged."""

    setting: float
    error: float | None
    """Noise over signal of the model's outputs; None if they show none, because they are labels."""
    drop: float | None
    """Drop of the metric; None without a metric."""


@dataclass(frozen=True, slots=True)
class Weight:
    """One weight at every setting."""

    path: str
    shape: tuple[int, ...]
    op: str
    """Type of the node that uses the weight."""
    points: tuple[Point, ...]
    """Excludes settings that the step could not apply."""
    reason: str
    """Why there are fewer points than settings; empty if all are there."""


@dataclass(frozen=True, slots=True)
class Scan:
    """The result of `scan`."""

    schema: int = field(default=1, init=False)
    """Version of the JSON; increases when a field changes its meaning or is removed."""
    kind: str = field(default="sensitivity", init=False)
    source: Path
    data: str
    """Name of the data."""
    samples: int
    step: str
    """The step, with ``$x`` in place of the setting."""
    settings: tuple[float, ...]
    metric: str
    """Name of the metric; empty without a metric."""
    before: float | None
    """The metric of the unchanged model."""
    weights: tuple[Weight, ...]


class ScanOptions(TypedDict, total=False):
    """Keyword arguments of `scan`."""

    step: str
    """The step as in plans, with ``$x`` in place of the setting."""
    settings: Sequence[float]
    """Values for ``$x``."""
    metric: str | Callable[..., float] | None
    """See `onnxopt.metrics.open_metric`. Without a metric, only the noise in the outputs is measured."""
    samples: int
    """Number of samples to use, rounded up to whole batches."""
    progress: Progress | None
    """Callback with the current activity and the share that is done."""


def scan(model: str | os.PathLike[str], data: Spec, **options: Unpack[ScanOptions]) -> Scan:
    """Applies a step to every matrix and convolution of a model, one at a time, and measures the outputs.

    The step uses the weights only: there is no calibration and no bias correction.

    Arguments:
        model: path of an ONNX file. Batch normalizations are folded first, as in compression.
        data: see `onnxopt.data.open_data`.
        options: see `ScanOptions`.

    Raises OnnxoptError if the step is invalid, or if the model or the metric does not fit the data.
    """
    step, samples, metric = options.get("step", STEP), options.get("samples", SAMPLES), options.get("metric")
    passes = {setting: _passes(step, setting) for setting in options.get("settings", SETTINGS)}
    if not passes or samples < 1:
        raise OnnxoptError(f"{samples} samples, {len(passes)} settings: expected one of each at least")
    source = read(model)
    if is_compressed(source.model):
        raise OnnxoptError(f"{source.path}: is compressed already; `onnxopt decompress` gives the plain model back")
    graph = _opened(source.model)
    measure: Metric | None = open_metric(metric) if metric is not None else None
    original = runtime.load_checked(source.path)
    part = open_data(data, original).take(samples)
    tell = options.get("progress") or (lambda what, share: None)
    tell("running the model as it is", 0.0)
    reference = Evaluator(original, part, measure)
    if measure is None and not reference.measurable:
        raise OnnxoptError(f"{source.path}: has no float output that shows noise on {part.name}; name a metric of "
                           "its labels, as in --metric mypackage.mydata:score")  # fmt: skip
    sites = [site for site in graph.sites() if site.axis is not None]
    found = []
    for index, site in enumerate(sites):
        tell(f"scanning {site.path}", index / len(sites))
        found.append(_weight(graph, site, passes, reference))
    name = measure.name if measure else ""
    return Scan(source.path, part.name, reference.samples, step, tuple(passes), name, reference.before, tuple(found))


def _passes(text: str, setting: float) -> list[Pass]:
    """The passes of the step at a setting. Raises OnnxoptError if the step is invalid or structural."""
    template = Template(text)
    if template.get_identifiers() != ["x"]:
        raise OnnxoptError(f"step {text!r}: expected $x where the setting goes, as in {STEP}")
    step = Step.parse(template.safe_substitute(x=f"{setting:g}"))
    unknown = [one.name for one in step if one.name not in QUANTIZING]
    if unknown:
        raise OnnxoptError(f"step {text!r}: {unknown[0]} is no pass that changes a weight in its place; there is "
                           f"{', '.join(sorted(QUANTIZING))}")  # fmt: skip
    return [QUANTIZING[one.name].from_step(one) for one in step]


def _opened(model: onnx.ModelProto) -> Graph:
    """The normalised and cleaned model, as the engine uses it."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    normalise(copy)
    cleaned, *_ = clean(copy)
    return Graph(cleaned)


def _weight(graph: Graph, site: Site, passes: Mapping[float, Sequence[Pass]], reference: Evaluator) -> Weight:
    original, swapped = graph.values(site.path), _Swapped(graph.model, site.path)
    points, reason = [], ""
    for setting, decisions in passes.items():
        graph.reset()
        try:
            for decision in decisions:
                decision.apply(graph, site, Stats())
        except Skip as skip:
            reason = str(skip)
            continue
        swapped.values = graph.encoding(site.path).values()
        if np.array_equal(swapped.values, original):  # no run needed
            points.append(Point(setting, 0.0, None if reference.before is None else 0.0))
            continue
        compared = reference.compare(swapped)
        points.append(Point(setting, compared.error, compared.drop))
    return Weight(site.path, site.shape, site.op, tuple(points), reason)


class _Swapped:
    """Runs a model with other values of one weight. The others stay constants, which the runtime optimizes."""

    def __init__(self, model: onnx.ModelProto, path: str) -> None:
        opened = onnx.ModelProto()
        opened.CopyFrom(model)
        tensor = next(t for t in model.graph.initializer if t.name == path)
        opened.graph.input.append(onnx.helper.make_tensor_value_info(path, tensor.data_type, list(tensor.dims)))
        self._path, self._session = path, quiet_session(opened.SerializeToString())
        self.values: Array = np.empty(0)

    def run(self, names: Sequence[str], feeds: Mapping[str, Array]) -> list[Any]:
        """Runs the model, as a session does."""
        return list(self._session.run(names, {**feeds, self._path: self.values}))
