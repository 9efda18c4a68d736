"""Random valid models: the fuzzer makes them, sees what goes wrong, and makes that small."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import fuzz_models
import onnxopt
from fuzzing import checking, running, shrinking
from fuzzing.checking import Finding, check
from fuzzing.comparing import compare
from fuzzing.models import Case, case_of
from fuzzing.running import Row, Summary, one, quiet

SEED, MODELS = 7, 30


@pytest.fixture(autouse=True)
def _silent() -> Iterator[None]:
    with quiet():
        yield


def small_case(operator: str = "Relu") -> Case:
    """``x @ w``, then the operator, then ``@ v``."""
    rng = np.random.default_rng(1)
    weights = [numpy_helper.from_array(rng.normal(0, 0.2, shape).astype(np.float32), name)
               for name, shape in (("w", (16, 24)), ("v", (24, 20)))]  # fmt: skip
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node(operator, ["a"], ["b"]),
             helper.make_node("MatMul", ["b", "v"], ["y"])]  # fmt: skip
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, size]) for name, size in (("x", 16), ("y", 20))]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    feeds = tuple({"x": rng.normal(size=(4, 16)).astype(np.float32)} for _ in range(4))
    return Case(3, model, feeds)


@pytest.mark.slow
def test_some_models_show_nothing() -> None:
    summary = running.fuzz(fuzz_models.numbers(SEED, MODELS), jobs=1)
    assert summary.models == MODELS
    assert summary.findings == []


def test_a_number_gives_one_model_that_stock_runs() -> None:
    cases = [case_of(number) for number in range(3)]
    for number, case in enumerate(cases):
        assert case is not None
        again = case_of(number)
        assert again is not None
        assert again.model == case.model
        assert len(case.outputs()) == len(case.feeds)
    assert len({case.model.SerializeToString() for case in cases if case}) == len(cases)


def test_nothing_is_found_in_a_plain_model(tmp_path: Path) -> None:
    assert check(small_case(), tmp_path, {"lossless": {"lossless": True}}) == []


def changed(change: Callable[[onnx.ModelProto], None]) -> Callable[..., onnxopt.Result]:
    """`optimize` with a fault: what it writes is the source with this change, stored without loss."""
    optimize = onnxopt.optimize

    def faulty(model: Path, output: Path, *_: Any, **options: Any) -> onnxopt.Result:
        wrong = onnx.load(model)
        change(wrong)
        onnx.save(wrong, model.with_name("wrong.onnx"))
        return optimize(model.with_name("wrong.onnx"), output, lossless=True)

    return faulty


def _zero(model: onnx.ModelProto) -> None:
    weight = model.graph.initializer[0]
    weight.CopyFrom(numpy_helper.from_array(np.zeros(weight.dims, np.float32), weight.name))


def _rename(model: onnx.ModelProto) -> None:
    model.graph.output[0].name = model.graph.node[-1].output[0] = "z"


@pytest.mark.parametrize(
    ("change", "mode", "kind"),
    [
        (_zero, "lossless", "difference"),
        (_zero, "data", "silent difference"),
        (_rename, "lossless", "interface"),
    ],
)
def test_a_wrong_result_is_found(
    change: Callable[[onnx.ModelProto], None], mode: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxopt, "optimize", changed(change))
    found = check(small_case(), tmp_path, {mode: {"lossless": True} if mode == "lossless" else {}})
    assert {one.kind for one in found} == {kind}


@pytest.mark.parametrize(
    ("error", "kind"), [(onnxopt.OnnxoptError("no"), "refused"), (ValueError("oh"), "crash"), (KeyError(), "crash")]
)
def test_refusals_and_crashes_are_told_apart(
    error: Exception, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(onnxopt, "optimize", refuse)
    found = check(small_case(), tmp_path, {"data": {}})
    assert [one.kind for one in found] == [kind]


def test_a_documented_limit_is_no_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise onnxopt.OnnxoptError("m.onnx: has a limit")

    monkeypatch.setattr(onnxopt, "optimize", refuse)
    monkeypatch.setattr(checking, "LIMITS", {"has a limit": "reason"})
    assert check(small_case(), tmp_path, {"data": {}}) == []


def test_a_finding_becomes_small(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_tanh(model: Path, output: Path, *_: Any, **options: Any) -> None:
        if any(node.op_type == "Tanh" for node in onnx.load(model).graph.node):
            raise ValueError("Tanh")

    monkeypatch.setattr(onnxopt, "optimize", without_tanh)
    monkeypatch.setattr(checking._Mode, "_result", lambda *_, **__: None)
    small = shrinking.shrink(small_case("Tanh"), Finding(3, "crash", "lossless", "optimize: ValueError: Tanh"))
    assert [node.op_type for node in small.model.graph.node] == ["Tanh"]
    assert not small.model.graph.initializer


def test_a_model_that_takes_too_long_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def forever(*_: Any) -> None:
        while True:
            pass

    monkeypatch.setattr(running, "check", forever)
    assert [found.kind for found in one(1, seconds=0.5).findings] == ["slow"]


@pytest.mark.parametrize(
    ("wanted", "got", "error", "disagreement", "broken"),
    [
        (np.float32([1, np.inf, np.nan]), np.float32([1, np.inf, np.nan]), 0, 0, False),
        (np.float32([1, np.inf]), np.float32([1, 2]), 0.5, 0, False),
        (np.float32([3, 4]), np.float32([3, 3]), 0.2, 0, False),
        (np.float32([0, 0]), np.float32([0, 1]), 1, 0, False),
        (np.zeros((0, 4), np.float32), np.zeros((0, 4), np.float32), 0, 0, False),
        (np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5]), 0, 0.25, False),
        (np.array(["a", "b"]), np.array(["a", "c"]), 0, 0.5, False),
        (np.array([1, 2]), np.array([1, 2, 3]), 0, 1, False),
        (np.array([1, 2]), np.float32([1, 2]), 0, 0, True),
        ([{0: 0.5, 1: 0.5}], [{0: 0.5, 1: 0.5}], 0, 0, False),
        ([{0: 0.5, 1: 0.5}], [{0: 0.5}], 0, 0, True),
        ([np.float32([1])], [np.float32([1]), np.float32([1])], 0, 0, True),
        (np.float32([1, 2]), [np.float32([1, 2])], 0, 0, True),
        ([np.float32([1, 2])] * 2, [np.float32([1, 2])], 0, 0, True),
    ],
)
def test_outputs_are_compared_by_their_elements(
    wanted: Any, got: Any, error: float, disagreement: float, broken: bool
) -> None:
    found = compare([[wanted]], [[got]])
    assert found.error == pytest.approx(error)
    assert found.disagreement == pytest.approx(disagreement)
    assert bool(found.broken) == broken
    assert bool(found.what) == (error > 0 or disagreement > 0 or broken)


def test_the_summary_counts_models_by_kind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def rows(numbers: range, jobs: int) -> Summary:
        summary = Summary()
        found = (Finding(numbers[0], "crash", "data", "optimize: ValueError: axis 3"),)
        summary.add(Row(numbers[0], ("Relu",), ("lossless", "data"), found * 2, 0.5))
        summary.add(Row(numbers[1], ("Relu", "Conv"), ("lossless", "ratio"), (), 0.5))
        return summary

    monkeypatch.setattr(fuzz_models, "fuzz", rows)
    monkeypatch.setattr(sys, "argv", ["fuzz", "--seed", "2", "--count", "2", "--json", str(tmp_path / "f.json")])
    assert fuzz_models.main() == 1
    printed = capsys.readouterr().out
    assert "2 models" in printed
    assert "1 crash" in printed
    written = json.loads((tmp_path / "f.json").read_text())
    assert written["kinds"]["crash"] == 1
    assert written["operators"] == {"Relu": 2, "Conv": 1}
    assert [found["seed"] for found in written["findings"]] == [2_000_000] * 2


def dies_of_odd_numbers(number: int) -> Row:
    if number % 2:
        os.abort()
    return Row(number, ("Relu",))


@pytest.mark.slow
def test_a_process_that_dies_is_a_finding_and_the_run_goes_on() -> None:
    summary = running.fuzz([1, 2, 3, 4], jobs=2, each=dies_of_odd_numbers)
    assert summary.models == 4
    assert {(found.kind, found.seed) for found in summary.findings} == {("killed", 1), ("killed", 3)}
