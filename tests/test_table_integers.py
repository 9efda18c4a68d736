"""The comparison with the runtime's own quantizer: what it counts, what it keeps, and that no claim is made up."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import model, weights
from onnx import helper

import onnxopt
from onnxopt.measure.benchmark import SpeedRatio

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
import realdata
import table_integers
from kernels import Kernels, kernels
from static_int8 import METHODS, Reader, int8
from table_integers import CLAIMS, File, Row, Store, Times, Work, claims_table, main_table, methods_table


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


def test_results_belong_to_the_content_of_files(tmp_path: Path) -> None:
    small, store = tmp_path / "small.onnx", tmp_path / "store.json"
    small.write_bytes(b"one")
    Store(store).put("file", [small], {"size": 3})
    assert Store(store).get("file", [small]) == {"size": 3}
    assert Store(store).get("times", [small]) is None
    small.write_bytes(b"two")
    assert Store(store).get("file", [small]) is None


def test_only_what_is_not_known_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    contents = itertools.count()

    def make(what: str, output: Path) -> None:
        done.append(what)
        output.write_bytes(bytes([next(contents)]))

    def race(model: str, files: list[Path]) -> Times:
        done.append(f"time {len(files)}")
        return dataclasses.replace(ROW.times, ours=None, versus=None) if len(files) < 3 else ROW.times

    source = tmp_path / "source.onnx"
    source.write_bytes(b"source")
    monkeypatch.setattr(realdata, "path_of", lambda model: source)
    monkeypatch.setattr(realdata.Task, "batches", lambda self, part, count, labelled: None)
    monkeypatch.setattr(table_integers, "int8", lambda source, output, data, method: make(method, output))
    monkeypatch.setattr(table_integers, "optimize", lambda model, baseline, output: make("ours", output))
    monkeypatch.setattr(table_integers, "inspect", lambda model, path: file(path.stat().st_size, len(path.name)))
    monkeypatch.setattr(table_integers, "race", race)
    parts = table_integers.PARTS
    for again, wanted, said in (
        ((), ("baseline", "time"), [*METHODS, "time 2"]),
        ((), parts, ["ours", "time 3"]),
        ((), parts, []),
        (("ours",), ("ours", "time"), ["ours", "time 3"]),
        (("time",), ("time",), ["time 3"]),
        (("baseline",), ("baseline",), [*METHODS]),
    ):
        done.clear()
        for part in wanted:
            Work("resnet20", tmp_path).do(part, part in again)
        assert done == said
    row = Work("resnet20", tmp_path).row()
    assert row is not None
    assert (row.method, row.times) == ("Percentile", None)  # the files are new, so no times are known
    Work("resnet20", tmp_path).do("time", False)
    assert Work("resnet20", tmp_path).row() == dataclasses.replace(row, times=ROW.times)


def test_samples_are_read_piece_by_piece() -> None:
    reader = Reader("x", [np.full(1, i) for i in range(5)])
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


def test_the_document_has_the_tables() -> None:
    text = table_integers.DOCUMENT.read_text(encoding="utf-8")
    assert all(f"<!-- table:{name} -->" in text for name in table_integers.TABLES)
