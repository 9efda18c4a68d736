"""What is promised without data holds on inputs that nobody has shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from builders import cnn, mlp, weights
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console

import onnxopt
from onnxopt.calibration.stats import Stats
from onnxopt.data import Batch, Data, quiet_session
from onnxopt.data.stream import Pending, joined
from onnxopt.encoding import Affine
from onnxopt.graph import Graph, normalise
from onnxopt.passes.quantise.feedback import Feedback
from onnxopt.report import html
from onnxopt.report.json import plain
from onnxopt.report.table import print_result
from onnxopt.results.result import Result
from onnxopt.search import slope
from onnxopt.search.slope import Trial
from onnxopt.search.worst_law import evaluator_of

node = helper.make_node
Array = np.ndarray[Any, Any]


def row_noise(weight: Affine, values: Array, axis: int) -> Array:
    """Noise over signal of each row."""
    error = np.square(weight.values().astype(np.float64) - values)
    others = tuple(a for a in range(values.ndim) if a != axis)
    return np.asarray(np.sqrt(error.mean(others) / np.square(values, dtype=np.float64).mean(others)))


@pytest.mark.parametrize("bound", [0.01, 0.05])
def test_a_row_keeps_its_own_signal_at_any_slope(bound: float) -> None:
    """Whatever the gain says of it: rows a thousand times smaller than others, too."""
    made = mlp(64)
    normalise(made)
    graph = Graph(made)
    site = next(one for one in graph.sites() if len(one.shape) == 2)
    assert site.axis is not None
    values = graph.values(site.path) * np.geomspace(1e-3, 1, site.shape[site.axis], dtype=np.float32)
    graph.adjust(site.path, values)
    for coarse in (1e-3, 1e3):
        Feedback(coarse).apply(graph, site, Stats(row_noise=bound))
        weight = graph.encodings[site.path]
        assert isinstance(weight, Affine)
        assert row_noise(weight, values, site.axis).max() < 1.3 * bound
    Feedback(1e3).apply(graph, site, Stats())
    assert not graph.encoding(site.path).values().any(), "with data, the gain alone decides"


class Scaled:
    """The model with outputs that are wrong by a share of what its inputs are."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._session = quiet_session(model.SerializeToString())

    def run(self, names: Sequence[str], feeds: Mapping[str, Array]) -> list[Any]:
        share = 0.1 if np.abs(feeds["x"]).max() > 50 else 0.001
        return [output * (1 + share * np.sign(output)) for output in self._session.run(list(names), dict(feeds))]


def test_the_worst_law_counts() -> None:
    made = mlp(64)
    samples = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)

    def law(scale: float) -> Data:
        return Data("law", lambda: iter([Pending(8, lambda: Batch({"x": scale * samples}))]), lambda: str(scale))

    session, laws = quiet_session(made.SerializeToString()), (law(1), law(100), law(0.01))
    errors = [evaluator_of(session, one).compare(Scaled(made)).error for one in laws]
    found = evaluator_of(session, joined(laws, "laws", 0.1)).compare(Scaled(made))
    assert found.error == max(errors) == errors[1]
    assert found.samples == 24


def test_a_search_ends_where_rows_have_their_coarsest_steps() -> None:
    """From there on, a coarser slope changes nothing."""
    trials = []

    def measure(at: float) -> Trial:
        trials.append(Trial(at, 1000, min(0.01, at), None))
        return trials[-1]

    best = slope.meet_error(measure, 1e-3, 0.02)
    assert best is not None
    assert best.error == 0.01
    assert len(trials) < 6


def words(frequent: int) -> onnx.ModelProto:
    """Means of words over a sentence, and what two layers make of them; the first two words, of padding, are zeros."""
    table = 3 * weights(400, 32)
    table[:frequent] = 0
    tensors = {"table": table, "a": weights(32, 48), "b": weights(48, 12, seed=1)}
    nodes = [
        node("Gather", ["table", "ids"], ["w"]), node("ReduceMean", ["w"], ["m"], axes=[1], keepdims=0),
        node("MatMul", ["m", "a"], ["h"]), node("Tanh", ["h"], ["t"]), node("MatMul", ["t", "b"], ["y"]),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes, "words", [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", "t"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 12])],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_model_of_texts_keeps_its_vectors(tmp_path: Path) -> None:
    source, small = tmp_path / "words.onnx", tmp_path / "small.onnx"
    onnx.save(words(2), source)
    result = onnxopt.optimize(source, small)
    assert result.check
    ids = np.random.default_rng(1).integers(100, 140, (50, 9))
    wanted = quiet_session(str(source)).run(None, {"ids": ids})[0].astype(np.float64)
    got = onnxopt.load(small).run(None, {"ids": ids})[0]
    assert np.linalg.norm(got - wanted) < 0.06 * np.linalg.norm(wanted)
    assert result.bytes_before / result.bytes_after > 3


def shown(result: Result) -> str:
    text = StringIO()
    print_result(Console(file=text, width=100), result)
    return " ".join(text.getvalue().split())


def test_reports_say_what_measurements_rest_on(tmp_path: Path) -> None:
    source = tmp_path / "m.onnx"
    onnx.save(mlp(64), source)
    result = onnxopt.optimize(source, tmp_path / "small.onnx")
    said = "without data, all is measured on synthetic signals of 5 kinds, of which the worst counts; --data with a few"
    assert plain(result)["rests_on"] == result.rests_on
    assert result.rests_on.startswith(said)
    assert result.rests_on.endswith("makes it surer and the file smaller")
    assert "all is measured on synthetic signals" in shown(result)
    assert "Without data, all is measured on synthetic signals" in html.render(plain(result))
    assert "rests on" not in shown(replace(result, rests_on=""))


def test_images_are_trusted_and_data_is_more_so(tmp_path: Path) -> None:
    source = tmp_path / "m.onnx"
    onnx.save(cnn(), source)
    result = onnxopt.optimize(source, tmp_path / "small.onnx")
    assert result.rests_on == (
        "without data, all is measured on synthetic images; --data with a few hundred real inputs makes it surer"
    )
    samples = np.random.default_rng(0).standard_normal((64, 3, 16, 16)).astype(np.float32)
    data = [{"x": part} for part in np.split(samples, 8)]
    assert not onnxopt.optimize(source, tmp_path / "small.onnx", data=data).rests_on
