"""Products on integers in blocks, chosen by time: what the clock says is made up here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from builders import model, weights
from onnx import helper

from onnxopt.build import execute_plan
from onnxopt.build.workspace import Workspace
from onnxopt.graph import read
from onnxopt.measure.benchmark import SpeedRatio
from onnxopt.search.contract_search import ContractSearch
from onnxopt.spec.contract import Contract
from onnxopt.spec.overrides import Overrides
from onnxopt.strategies import weight_only as blocks

Array = np.ndarray[Any, Any]


def large() -> onnx.ModelProto:
    """Three products, the last of few weights."""
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], transB=1),
        helper.make_node("Relu", ["h"], ["a"]),
        helper.make_node("MatMul", ["a", "w2"], ["c"]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("MatMul", ["d", "w3"], ["y"]),
    ]
    tensors = {"w1": weights(160, 128, scale=0.1), "b1": weights(160, seed=1), "w2": weights(160, 128, seed=2),
               "w3": weights(128, 10, seed=3)}  # fmt: skip
    return model(nodes, tensors, {"x": ["n", 128]}, {"y": ["n", 10]})


@contextmanager
def searched(folder: Path, rules: str = "", contract: Contract | None = None) -> Iterator[tuple[ContractSearch, Any]]:
    """A tuner that has found the coarsest file of little noise."""
    onnx.save(large(), folder / "m.onnx")
    np.save(folder / "x.npy", weights(256, 128, seed=5) @ weights(128, 128, seed=6) * 0.1)
    engine = Workspace(read(folder / "m.onnx"), False, "balanced", 2**30, lambda what, share: None)
    tuner = ContractSearch(engine, contract or Contract(error=0.1), Overrides.parse(rules))
    tuner.calibrate(folder / "x.npy", None)
    best, met = tuner.run()
    assert met
    try:
        yield tuner, best
    finally:
        engine.close(keep=False)


def clocks(monkeypatch: pytest.MonkeyPatch, times: Sequence[float], ratio: float) -> list[list[bytes]]:
    """Milliseconds of a layer as it is, with 4 and with 8 bits, each in blocks of 128 and of 32, and the whole model's
    time; returns what was timed."""
    seen: list[list[bytes]] = []

    def milliseconds(models: Sequence[bytes], feeds: Mapping[str, Array]) -> list[float]:
        seen.append(list(models))
        return list(times)

    def time_ratio(path: Path, against: Path, *_: object) -> SpeedRatio:
        seen.append([path.read_bytes(), against.read_bytes()])
        return SpeedRatio(str(path), str(against), ratio, ratio - 0.01, ratio + 0.01, True, True)

    monkeypatch.setattr(blocks, "milliseconds", milliseconds)
    monkeypatch.setattr(blocks, "time_ratio", time_ratio)
    return seen


def ops(content: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_model_from_string(content).graph.node]


def test_what_saves_time_alone_and_together_is_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = clocks(monkeypatch, [1.0, 0.9, 0.9, 0.5, 0.6], 0.6)
    with searched(tmp_path) as (tuner, best), blocks.blocked(tuner, best, lambda what, share: None) as found:
        (attempt,) = found.attempts()
        assert attempt.blocks.kept
        assert [(one.path, one.step, one.accepted) for one in attempt.blocks.layers] == [
            ("w1", "nbits{bits=8,block=128}", True), ("w2", "nbits{bits=8,block=128}", True),
        ]  # fmt: skip
        steps = {path: str(step) for path, step in attempt.tuner.plan(attempt.best).steps.items()}
        assert steps["w1"] == steps["w2"] == "nbits{bits=8,block=128}"
        assert steps["w3"].startswith("feedback")
        assert attempt.best.error is not None
        assert attempt.best.error <= 0.1
        assert "nbits" not in str(tuner.plan(best).steps)
    assert [ops(made).count("MatMulNBits") for made in seen[-1]] == [2, 0]
    assert ops(seen[-1][1]) == [node.op_type for node in large().graph.node]


def test_a_size_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That bounds no noise: products may make as much as a file of that size has."""
    clocks(monkeypatch, [1.0, 0.9, 0.9, 0.5, 0.6], 0.6)
    with (
        searched(tmp_path, contract=Contract(target_size=80_000)) as (tuner, best),
        blocks.blocked(tuner, best, lambda what, share: None) as found,
    ):
        (attempt,) = found.attempts()
        assert attempt.blocks.kept
        assert attempt.best.size <= 80_000


@pytest.mark.parametrize(
    ("times", "ratio", "reason"),
    [
        ([1.0, 1.1, 1.0, 0.99, 0.98], 0.5, "no product is faster"),
        ([1.0, 0.5, 0.5, 0.5, 0.5], 1.1, r"takes 1\.100x the time"),
    ],
)
def test_what_saves_no_time_stays(
    times: list[float], ratio: float, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clocks(monkeypatch, times, ratio)
    with searched(tmp_path) as (tuner, best), blocks.blocked(tuner, best, lambda what, share: None) as found:
        assert not list(found.attempts())
        assert re.search(reason, found.blocks.reason)
        assert not any(one.accepted for one in found.blocks.layers)
        assert found.tuner is tuner


def test_what_rules_decide_is_not_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clocks(monkeypatch, [1.0, 0.5, 0.5, 0.5, 0.5], 0.5)
    with (
        searched(tmp_path, '[[rule]]\nmatch = "w1"\nmax_bits = 8\n') as (tuner, best),
        blocks.blocked(tuner, best, lambda what, share: None) as found,
    ):
        (attempt,) = found.attempts()
        assert [one.path for one in attempt.blocks.layers] == ["w2"]
        assert execute_plan.has_slope(attempt.tuner.plan(attempt.best))
