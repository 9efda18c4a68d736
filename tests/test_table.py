"""Terminal tables: what is in them is whole, whatever the model's names are and the terminal can show."""

from __future__ import annotations

import io
from pathlib import Path

import onnx
import pytest
from builders import mlp, model, weights
from onnx import helper
from rich.console import Console

import onnxopt
from onnxopt import Contract, Result
from onnxopt.report.table import print_result
from onnxopt.report.text import shortened
from onnxopt.spec.overrides import Overrides

BLOCKS = "\N{FULL BLOCK}\N{LEFT HALF BLOCK}"


def printed(result: Result, width: int = 80, encoding: str = "utf-8") -> str:
    file = io.TextIOWrapper(io.BytesIO(), encoding)
    print_result(Console(width=width, file=file), result)
    file.flush()
    return file.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    folder = tmp_path_factory.mktemp("table")
    onnx.save(mlp(128), folder / "model.onnx")
    return onnxopt.optimize(folder / "model.onnx", folder / "small.onnx")


def test_the_trial_that_was_written_is_marked(result: Result) -> None:
    assert result.kept is not None
    (line,) = [line for line in printed(result).splitlines() if line.endswith("written")]
    number, slope, *_ = line.split()
    assert result.trials[int(number) - 1] == result.kept
    assert float(slope) == pytest.approx(result.kept.slope, rel=0.01)


def test_bars_are_as_long_as_weights_are_large(result: Result) -> None:
    lengths = {event.path: event.bytes_after for event in result.events}
    shown = {line.split()[0]: sum(map(line.count, BLOCKS)) for line in printed(result).splitlines() if line}
    assert shown["fc1"] == 8
    assert lengths["fc1"] == max(lengths.values())
    assert shown["fc2"] < 8 * lengths["fc2"] / lengths["fc1"] + 1


def test_where_there_are_no_blocks_there_are_no_bars(result: Result) -> None:
    assert not set(BLOCKS) & set(printed(result, encoding="latin-1"))


@pytest.mark.parametrize("width", [80, 120])
def test_long_names_leave_numbers_whole(width: int, tmp_path: Path) -> None:
    names = [f"/backbone/stage{i}/block.[bold].convolution.weight_{i}" for i in (1, 2)]
    nodes = [helper.make_node("Conv", ["x", names[0]], ["h"]), helper.make_node("Conv", ["h", names[1]], ["y"])]
    tensors = {names[0]: weights(128, 16, 1, 1), names[1]: weights(192, 128, 1, 1)}
    onnx.save(model(nodes, tensors, {"x": [1, 16, 12, 12]}, {"y": None}), tmp_path / "model.onnx")
    found = onnxopt.optimize(tmp_path / "model.onnx", tmp_path / "small.onnx")
    lines = printed(found, width).splitlines()
    assert max(map(len, lines)) <= width
    for name, event in zip(names, found.events, strict=False):
        (line,) = [line for line in lines if line.split("  ")[0].endswith(name[-8:])]
        assert line.startswith("/back")
        assert f"{event.measured:.3f}" == line.split()[-1]
        assert "x".join(map(str, event.shape)) in line


def test_the_ends_of_a_long_name_stay() -> None:
    assert shortened("conv1.weight", 12) == "conv1.weight"
    assert shortened("layer1.0.conv1.weight", 12) == "laye\N{HORIZONTAL ELLIPSIS}.weight"
    assert len(shortened("x" * 100, 37)) == 37


def test_chains_are_compared_with_their_layers(tmp_path: Path) -> None:
    onnx.save(mlp(128), tmp_path / "model.onnx")
    rules = Overrides.parse('[[rule]]\nmatch = "fc1"\nstep = "svd{rank=16}"\n')
    found = onnxopt.optimize(tmp_path / "model.onnx", tmp_path / "small.onnx", Contract(error=1.0), overrides=rules)
    words = "fc1 svd 16 32.8 k -> 6.14 k 5.33 32.8 k -> 6.14 k 5.33"
    assert words in [" ".join(line.split()) for line in printed(found).splitlines()]
