"""How sensitive a model is to what is done to one weight alone: one step, from strong to gentle, weight after weight.

The scan that Han et al. read pruning ratios from (*Learning both weights and connections*, 2015, figure 6), for any
step that plans have.
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
"""Of the data, where the user does not say."""


@dataclass(frozen=True, slots=True)
class Point:
    """One weight at one setting, all others as they are."""

    setting: float
    error: float
    """Noise over signal of the model's outputs."""
    drop: float | None
    """Of the metric; None where there is none."""


@dataclass(frozen=True, slots=True)
class Weight:
    """One weight at every setting."""

    path: str
    shape: tuple[int, ...]
    op: str
    """Type of the node that uses it."""
    points: tuple[Point, ...]
    """Without those that the step could not do."""
    reason: str
    """Why there are fewer points than settings; empty where there are not."""


@dataclass(frozen=True, slots=True)
class Scan:
    """What `scan` found."""

    schema: int = field(default=1, init=False)
    """Version of the JSON; grows when a field changes its meaning or goes."""
    kind: str = field(default="sensitivity", init=False)
    source: Path
    data: str
    """Its name."""
    samples: int
    step: str
    """With ``$x`` for the setting."""
    settings: tuple[float, ...]
    metric: str
    """Its name; empty where there was none."""
    before: float | None
    """The metric of the model as it is."""
    weights: tuple[Weight, ...]


class ScanOptions(TypedDict, total=False):
    """What `scan` takes as keywords."""

    step: str
    """As plans have it, ``$x`` standing for the setting."""
    settings: Sequence[float]
    """What is put there."""
    metric: str | Callable[..., float] | None
    """See `onnxopt.metrics.open_metric`; without one, the noise in the outputs is all that is measured."""
    samples: int
    """Of the data that are enough; they are taken in whole batches."""
    progress: Progress | None
    """Told what is being done, and the share that is done."""


def scan(model: str | os.PathLike[str], data: Spec, **options: Unpack[ScanOptions]) -> Scan:
    """Does a step to every matrix and convolution of a model, one at a time, and measures the outputs.

    Weights alone decide what the step does: nothing is calibrated, and no bias corrects the error.

    Arguments:
        model: path of an ONNX file; batch normalizations are folded first, as when it is compressed.
        data: see `onnxopt.data.open_data`.
        options: see `ScanOptions`.

    Raises OnnxoptError where the step is none, or the model or the metric do not fit the data.
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
    sites = [site for site in graph.sites() if site.axis is not None]
    found = []
    for index, site in enumerate(sites):
        tell(f"scanning {site.path}", index / len(sites))
        found.append(_weight(graph, site, passes, reference))
    name = measure.name if measure else ""
    return Scan(source.path, part.name, reference.samples, step, tuple(passes), name, reference.before, tuple(found))


def _passes(text: str, setting: float) -> list[Pass]:
    """What the step is at a setting. Raises OnnxoptError where it is none, or makes other layers."""
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
    """The model as the engine sees it."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    normalise(copy)
    cleaned, _ = clean(copy)
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
        if np.array_equal(swapped.values, original):  # need not be run
            points.append(Point(setting, 0.0, None if reference.before is None else 0.0))
            continue
        compared = reference.compare(swapped)
        points.append(Point(setting, compared.error, compared.drop))
    return Weight(site.path, site.shape, site.op, tuple(points), reason)


class _Swapped:
    """Runs a model with other values of one weight; the others stay constants, which the runtime optimizes."""

    def __init__(self, model: onnx.ModelProto, path: str) -> None:
        opened = onnx.ModelProto()
        opened.CopyFrom(model)
        tensor = next(t for t in model.graph.initializer if t.name == path)
        opened.graph.input.append(onnx.helper.make_tensor_value_info(path, tensor.data_type, list(tensor.dims)))
        self._path, self._session = path, quiet_session(opened.SerializeToString())
        self.values: Array = np.empty(0)

    def run(self, names: Sequence[str], feeds: Mapping[str, Array]) -> list[Any]:
        """As a session does."""
        return list(self._session.run(names, {**feeds, self._path: self.values}))
