"""One contract over every quantizing pass, every decision in its space, every site of every small model."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from builders import ALL

from onnxopt.build.execute_plan import execute_plan
from onnxopt.calibration.collect import Statistics
from onnxopt.calibration.stats import Stats
from onnxopt.encoding import relative_error
from onnxopt.errors import OnnxoptError
from onnxopt.graph import Graph, Site, normalise
from onnxopt.passes import QUANTIZING, Pass, base
from onnxopt.results.events import Event
from onnxopt.spec.plan import Plan, Step


def graph_of(name: str) -> Graph:
    model = ALL[name]()
    normalise(model)
    return Graph(model)


def run(graph: Graph, plan: Plan) -> list[Event]:
    return execute_plan(graph, plan, Statistics(None, {}, {}))


def cases() -> Iterator[object]:
    for name in ALL:
        for site in graph_of(name).sites():
            for cls in QUANTIZING.values():
                for decision in cls.space(site, Stats()):
                    yield pytest.param(name, site, decision, id=f"{name}:{site.path}:{decision.step()}")


@pytest.mark.parametrize(("name", "site", "decision"), list(cases()))
def test_every_decision_leaves_a_valid_model(name: str, site: Site, decision: Pass) -> None:
    plan = Plan("", {site.path: decision.step()})
    exported = []
    for _ in range(2):
        graph = graph_of(name)
        (event,) = run(graph, plan)
        inner, encodings = graph.export()
        exported.append((inner.SerializeToString(deterministic=True), encodings[site.path].values().tobytes()))
    assert exported[0] == exported[1]
    assert event.path == site.path
    assert not event.reason
    stored = encodings[site.path].values()
    original = graph_of(name).values(site.path)
    assert stored.shape == original.shape
    assert stored.dtype == original.dtype
    assert event.error == pytest.approx(relative_error(original, stored))


@pytest.mark.parametrize("name", ALL)
def test_what_was_made_a_matrix_becomes_the_weight_again(name: str) -> None:
    graph = graph_of(name)
    linears = graph.linears()
    for site in graph.sites():
        values = graph.values(site.path)
        for linear in (None, *linears.get(site.path, ())):
            rows = base.matrix(values, site, Stats(linear=linear))
            assert rows.ndim == 3
            if linear is None and site.axis is not None:
                assert np.array_equal(rows[0, -1], np.take(values, -1, site.axis).ravel())
            assert np.array_equal(base.tensor(rows, site, Stats(linear=linear)), values)


@pytest.mark.parametrize("cls", QUANTIZING.values(), ids=lambda cls: cls.name)
@pytest.mark.parametrize("name", ALL)
def test_dearer_decisions_have_less_error(cls: type[Pass], name: str) -> None:
    for site in graph_of(name).sites():
        errors = []
        for decision in cls.space(site, Stats()):
            (event,) = run(graph_of(name), Plan("", {site.path: decision.step()}))
            errors.append(event.error)
        assert errors == sorted(errors, reverse=True), site.path


@pytest.mark.parametrize("cls", QUANTIZING.values(), ids=lambda cls: cls.name)
def test_step_text_gives_the_pass_back(cls: type[Pass]) -> None:
    for site in graph_of("cnn").sites():
        for decision in cls.space(site, Stats()):
            assert cls.from_step(Step.parse(str(decision.step()))) == decision


def test_uniform_keeps_to_the_error_asked_for() -> None:
    for site in graph_of("mlp").sites():
        (event,) = run(graph_of("mlp"), Plan("", {site.path: Step("uniform", (("error", 0.03),))}))
        assert event.error == pytest.approx(0.03, rel=0.15)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_a_weight_that_cannot_be_quantized_is_left_with_a_reason(poison: float) -> None:
    graph = graph_of("mlp")
    values = graph.values("fc1").copy()
    values[0, 0] = poison
    for tensor in graph.model.graph.initializer:
        if tensor.name == "fc1":
            tensor.raw_data = values.tobytes()
    (event,) = run(graph, Plan("", {"fc1": Step.parse("uniform{error=0.1}")}))
    assert "infinities or NaNs" in event.reason
    _, encodings = graph.export()
    assert encodings["fc1"].values().tobytes() == values.tobytes()


@pytest.mark.parametrize(
    ("path", "step", "message"),
    [
        ("nowhere", "uniform{error=0.1}", "no weight is called 'nowhere'"),
        ("fc1", "magic", "no pass is called 'magic'"),
        ("fc1", "uniform{bits=3}", "takes error, not bits"),
        ("fc1", "uniform{error=2}", "error is 2"),
        ("fc1", "uniform", "error"),
    ],
)
def test_a_plan_that_cannot_be_applied_says_why(path: str, step: str, message: str) -> None:
    with pytest.raises(OnnxoptError, match=message):
        run(graph_of("mlp"), Plan("", {path: Step.parse(step)}))
