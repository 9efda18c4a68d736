"""The comparison with the runtime's own quantizer: what it counts, and how claims are computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import model, weights
from onnx import helper

import onnxopt
from common import int8_files
from common.int8_files import File, Row, Times
from common.kernels import Kernels, kernels
from common.static_int8 import METHODS, Reader, int8
from onnxopt import OnnxoptError
from onnxopt.measure.benchmark import SpeedRatio
from tables.integers import CLAIMS, claims_table, main_table, methods_table


def pair(ratio: float, significant: bool = True) -> SpeedRatio:
    return SpeedRatio("a", "b", ratio, ratio - 0.01, ratio + 0.01, significant, True)


def file(size: int, metric: float) -> File:
    return File(size, metric, Kernels(19, 20, 1))


ROW = Row(
    "resnet20",
    file(4000, 90.0),
    {"MinMax": file(1000, 88.0), "Entropy": file(1001, 89.0)},
    file(500, 89.5),
    Times(1.0, pair(0.5), pair(0.45), pair(0.9)),
)
"""Where all holds that is claimed of this model."""


def cells(table: str) -> list[list[str]]:
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_best_calibration_is_compared_with() -> None:
    assert ROW.method == "Entropy"
    assert ROW.lost(ROW.baseline) == 1.0
    floating, theirs, ours = cells(main_table([ROW]))
    assert floating[:5] == ["resnet20", "float", "90.00", "", "4"]
    assert theirs[1:7] == ["`quantize_static`, Entropy", "89.00", "1.00", "1", "19 of 20", "1"]
    assert ours[-2:] == ["0.45 (0.44 to 0.46)", "0.90 (0.89 to 0.91)"]
    (methods,) = cells(methods_table([ROW]))
    assert methods[:4] == ["resnet20", "90.00", "88.00", "89.00"]


def test_what_is_not_measured_is_left_empty() -> None:
    row = dataclasses.replace(ROW, ours=None, times=None)
    assert [line[-3:] for line in cells(main_table([row]))] == [["", "", ""]] * 2
    assert all(line[1:] == ["none", "none"] for line in cells(claims_table([row])))


WORSE = (
    dataclasses.replace(ROW, times=Times(1.0, pair(0.5), pair(0.55), pair(1.1))),
    dataclasses.replace(ROW, times=Times(1.0, pair(0.5), pair(0.45), pair(0.9, significant=False))),
    dataclasses.replace(ROW, ours=file(500, 89.4)),
    dataclasses.replace(ROW, ours=file(501, 89.5)),
    dataclasses.replace(ROW, times=Times(1.0, pair(0.5), pair(0.56), pair(1.0))),
    dataclasses.replace(ROW, model="mobilenet_v1_0.25", ours=file(500, 88.99)),
)
"""For each claim in turn a model on which it does not hold."""


@pytest.mark.parametrize("i", range(len(CLAIMS)))
def test_claims_are_computed(i: int) -> None:
    _, holds, fails = cells(claims_table([ROW, dataclasses.replace(WORSE[i], model="mobilenet_v1_0.25")]))[i]
    about_this_model = i < 5
    assert holds == ("resnet20" if about_this_model else "none")
    assert fails == "mobilenet_v1_0.25"


def test_claims_say_nothing_where_there_is_nothing_to_gain() -> None:
    small = dataclasses.replace(ROW, source=file(4000, 89.2), times=Times(1.0, pair(0.9), pair(0.9), pair(1.0)))
    assert [claim.holds(small) for claim in CLAIMS] == [True, False, None, True, None, None]


class Measurements:
    """In the place of what is kept: files of known accuracy, and a contract that can be missed."""

    def __init__(self, missed: bool) -> None:
        self._missed = missed

    def made(self, make: Callable[..., object], model: str, what: str | int) -> Path:
        if make is int8_files.compressed:
            assert what == 1001  # bytes of the best baseline
            if self._missed:
                raise OnnxoptError("missed")
            return Path("ours")
        return Path(str(what))

    def once(self, function: Callable[..., object], model: str, *paths: Path) -> File | Times:
        if function is int8_files.race:
            assert [path.name for path in paths[:2]] == ["resnet20.onnx", "Entropy"]
            assert ROW.times is not None
            return ROW.times if len(paths) > 2 else dataclasses.replace(ROW.times, ours=None, versus=None)
        files = {"Entropy": file(1001, 89.0), "ours": file(500, 89.5), "resnet20.onnx": file(4000, 90.0)}
        return files.get(paths[0].name, file(1000, 88.0))


@pytest.mark.parametrize("missed", [False, True])
def test_the_best_baseline_is_raced_against(monkeypatch: pytest.MonkeyPatch, missed: bool) -> None:
    for name in ("ONNXOPT", "RUNTIME"):
        monkeypatch.setattr(int8_files, name, Measurements(missed))
    row = int8_files.measured("resnet20")
    assert (row.method, row.ours) == ("Entropy", None if missed else ROW.ours)
    assert row.times is not None
    assert (row.times.versus is None) == missed


def test_samples_are_read_piece_by_piece() -> None:
    reader = Reader([{"x": np.full(1, i)} for i in range(5)])
    assert len(reader) == 5
    reader.set_range(1, 3)
    assert [int(feeds["x"][0]) for feeds in reader] == [1, 2]


def cnn() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "w2"], ["y"], "gemm", transB=1),
    ]
    tensors = {"w1": weights(32, 16, 3, 3), "w2": weights(10, 32, seed=1)}
    return model(nodes, tensors, {"x": ["n", 16, 8, 8]}, {"y": ["n", 10]}, opset=11)


@pytest.mark.parametrize("method", METHODS)
def test_the_runtime_multiplies_in_integers_what_its_quantizer_makes(tmp_path: Path, method: str) -> None:
    source, quantized, small = (tmp_path / name for name in ("source.onnx", "quantized.onnx", "small.onnx"))
    onnx.save(cnn(), source)
    assert kernels(source) == Kernels(0, 2, 0)
    data = np.random.default_rng(0).normal(size=(6, 16, 8, 8)).astype(np.float32)
    int8(source, quantized, lambda: [data], method)
    onnx.checker.check_model(quantized)
    assert kernels(quantized).integer == 2
    onnxopt.optimize(quantized, small, lossless=True)
    assert kernels(small) == kernels(quantized)
