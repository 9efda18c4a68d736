"""The sensitivity scan: correct against NumPy, reproducible, and shown in reports."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from builders import mlp
from rich.console import Console

import onnxopt
from onnxopt import OnnxoptError
from onnxopt.cli import command as cli
from onnxopt.files import write_atomically
from onnxopt.metrics.output_error import output_error
from onnxopt.report import sensitivity as report
from onnxopt.studies.sensitivity import SETTINGS, scan

Array = np.ndarray[Any, Any]
X = np.random.default_rng(0).standard_normal((96, 64)).astype(np.float32)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """x[n, 64] -> MatMul -> Relu -> Gemm -> y[n, 10]."""
    path = tmp_path / "mlp.onnx"
    onnx.save(mlp(), path)
    return path


def batches() -> list[Array]:
    return list(np.split(X, 6))


def weights(path: Path) -> dict[str, Array]:
    return {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


def outputs(w: dict[str, Array], x: Array = X) -> Array:
    return np.maximum(x @ w["fc1"], 0) @ w["fc2"].T + w["b2"]


def pruned(w: Array, keep: float) -> Array:
    return np.where(np.abs(w) >= np.sort(np.abs(w), None)[-round(keep * w.size)], w, 0)


def test_each_weight_alone_as_numpy_has_it(model: Path) -> None:
    found = scan(model, batches, settings=(0.1, 0.6))
    w = weights(model)
    assert [(weight.path, weight.shape, weight.op) for weight in found.weights] == [
        ("fc1", (64, 128), "MatMul"),
        ("fc2", (10, 128), "Gemm"),
    ]
    assert found.samples == 96
    for weight in found.weights:
        for point in weight.points:
            other = outputs({**w, weight.path: pruned(w[weight.path], point.setting)})
            powers = [
                output_error([a], [b]) ** 2 for a, b in zip(np.split(outputs(w), 6), np.split(other, 6), strict=True)
            ]
            assert point.error == pytest.approx(np.mean(powers) ** 0.5, rel=1e-4)
            assert point.drop is None


def test_the_metric_is_that_of_labels(model: Path) -> None:
    w = weights(model)
    labels = np.where(np.arange(96) % 3 == 0, 7, outputs(w).argmax(1))
    data = list(zip(batches(), np.split(labels, 6), strict=True))
    found = scan(model, data, settings=(0.05, 0.5), metric="top1")
    before = 100 * np.mean(outputs(w).argmax(1) == labels)
    assert (found.metric, found.before) == ("top1", pytest.approx(before))
    for weight in found.weights:
        for point in weight.points:
            after = outputs({**w, weight.path: pruned(w[weight.path], point.setting)}).argmax(1)
            assert point.drop == pytest.approx(before - 100 * np.mean(after == labels))
    assert max(point.drop or 0 for weight in found.weights for point in weight.points) > 5


def test_gentler_is_better_and_nothing_is_exactly_nothing(model: Path) -> None:
    for weight in scan(model, batches, metric="top1").weights:
        errors = [point.error for point in weight.points]
        assert [point.setting for point in weight.points] == list(SETTINGS)
        assert errors == sorted(errors, reverse=True)
        assert errors[-2] > errors[-1] == 0
        assert weight.points[-1].drop == 0


def test_any_step_is_scanned_the_same_every_time(model: Path) -> None:
    step = "prune{keep=0.5} > codebook{k=$x}"
    found = scan(model, batches, step=step, settings=(2, 16, 256))
    assert found == scan(model, batches, step=step, settings=(2, 16, 256))
    for weight in found.weights:
        errors = [point.error for point in weight.points]
        assert errors[0] > errors[1] > errors[2] > 0


def test_samples_are_as_many_as_asked_for(model: Path) -> None:
    seen: list[tuple[str, float]] = []
    found = scan(model, batches, settings=(0.5,), samples=20, progress=lambda what, share: seen.append((what, share)))
    assert found.samples == 32  # whole batches
    assert [what for what, _ in seen] == ["running the model as it is", "scanning fc1", "scanning fc2"]
    assert [share for _, share in seen] == [0, 0, 0.5]


def test_what_cannot_be_done_is_said(model: Path) -> None:
    made = onnx.load(model)
    (tensor,) = (t for t in made.graph.initializer if t.name == "fc2")
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros((10, 128), np.float32), "fc2"))
    onnx.save(made, model)
    found = scan(model, batches, step="fixedpoint{bits=$x}", settings=(4, 8))
    assert [(len(weight.points), weight.reason) for weight in found.weights] == [(2, ""), (0, "all zeros")]
    lines = io.StringIO()
    report.print_scan(Console(file=lines, width=80), found)
    assert "fc2: not at every setting: all zeros" in lines.getvalue()
    assert "fc2" in report.render(found)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("prune{keep=0.5}", r"expected \$x where the setting goes"),
        ("prune{keep=$y}", r"expected \$x"),
        ("prune{keep=$x,below=$}", "is not key=value"),
        ("svd{rank=$x}", "svd is no pass that changes a weight in its place; there is codebook, "),
        ("prun{keep=$x}", "prun is no pass"),
        ("prune{kept=$x}", "takes .*keep.*, not kept"),
    ],
)
def test_a_wrong_step_is_one_sentence(model: Path, step: str, message: str) -> None:
    with pytest.raises(OnnxoptError, match=message) as caught:
        scan(model, batches, step=step)
    assert "\n" not in str(caught.value)


def test_a_setting_outside_the_steps_range_is_said(model: Path) -> None:
    with pytest.raises(OnnxoptError, match="keep is 3, expected more than 0 and at most 1"):
        scan(model, batches, settings=(0.5, 3))


def test_a_compressed_model_is_refused(model: Path, tmp_path: Path) -> None:
    onnxopt.optimize(model, tmp_path / "small.onnx", onnxopt.Contract(error=0.5))
    with pytest.raises(OnnxoptError, match="is compressed already"):
        scan(tmp_path / "small.onnx", batches)


def test_the_command_writes_table_json_and_page(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, page = tmp_path / "data.npz", tmp_path / "page.html"
    with write_atomically(data) as temporary, temporary.open("wb") as file:
        np.savez(file, x=X)
    command = ["sensitivity", str(model), "--data", str(data), "--at", "0.1,0.5,1", "-o", str(page)]
    cli.app(command, standalone_mode=False)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    (row,) = (line.split() for line in lines if line.startswith("fc1"))
    cli.app([*command, "--json"], standalone_mode=False)
    result = json.loads(capsys.readouterr().out)
    assert (result["kind"], result["schema"], result["settings"]) == ("sensitivity", 1, [0.1, 0.5, 1.0])
    assert row[1:] == [f"{point['error']:.3f}" for point in result["weights"][0]["points"]]
    text = page.read_text(encoding="utf-8")
    assert len(re.findall(r"<title>fc[12]: [\d.]+ at 0.1, [\d.]+ at 0.5, 0 at 1</title>", text)) == 2
    assert text.count('<th scope="row" class="text">fc') == 2
