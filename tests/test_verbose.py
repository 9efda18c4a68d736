"""`-v` prints every step and its reason."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from builders import mlp, model, weights
from onnx import helper

import onnxopt
from onnxopt import Contract, Result


def told(source: Path, *args: Any, **options: Any) -> tuple[list[str], Result]:
    """What `optimize` says, each sentence once."""
    seen: list[str] = []
    output = source.with_name("small.onnx")
    result = onnxopt.optimize(source, output, *args, **options, progress=lambda what, share: seen.append(what))
    return list(dict.fromkeys(seen)), result


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(mlp(128), path)
    return path


def test_inputs_are_made_up_for_there_is_no_data(source: Path) -> None:
    said, result = told(source)
    assert said[0] == f"calibrating on {result.calibrated}, because no data was given"
    np.save(source.with_name("x.npy"), np.random.default_rng(0).standard_normal((64, 128), np.float32))
    said, result = told(source, None, source.with_name("x.npy"))
    assert said[0] == f"calibrating on {result.calibrated}"


@pytest.mark.parametrize("contract", [Contract(error=0.04), Contract(target_ratio=25)])
def test_a_try_follows_from_the_last_one(contract: Contract, source: Path) -> None:
    said, result = told(source, contract)
    tries = [what.partition(": ")[2] for what in said if what.startswith("try ")]
    reasons = ["what the statistics promise"]
    for trial in result.trials[:-1]:
        if trial.error is not None:
            reasons.append(f"the last one left noise {trial.error:.3g}, 0.04 is allowed")
        else:
            reasons.append(f"the last one has {trial.size} bytes, {source.stat().st_size // 25} are allowed")
    assert len(reasons) > 1
    assert tries == reasons
    assert f"writing the best of {len(tries)} tries for: {contract}" in said


def test_every_bit_is_kept_where_the_check_forbids_any_drop(source: Path) -> None:
    """The search sees inputs that the model is sure of, the check those that it is not."""
    x = np.random.default_rng(0).standard_normal((4096, 128), np.float32)
    (scores,) = onnxopt.load(source).run(None, {"x": x})
    labels, ordered = scores.argmax(1), np.sort(scores, 1)
    order = np.argsort(ordered[:, -1] - ordered[:, -2])
    files = []
    for name, chosen in (("unsure", order[:256]), ("sure", order[-512:])):
        files.append(source.with_name(f"{name}.npz"))
        np.savez(files[-1], x=x[chosen], labels=labels[chosen])
    unsure, sure = files
    said, result = told(source, Contract(max_drop=0), sure, evaluation=unsure)
    assert "the last one drops by 0 +- " in said[said.index(next(s for s in said if s.startswith("try 2")))]
    assert said.index("keeping every bit, because quantization makes the metric drop and no drop is allowed") > 0
    assert result.check is not None
    assert result.check.found.error == 0


def test_weights_are_weighed_by_size_where_nothing_runs(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Reshape", ["h", "to"], ["y"])]
    tensors = {"w": weights(64, 64), "to": np.array([7], np.int64)}
    onnx.save(model(nodes, tensors, {"x": ["n", 64]}, {"y": [7]}), tmp_path / "m.onnx")
    said, result = told(tmp_path / "m.onnx")
    assert result.not_calibrated
    assert f"weighing weights by their size, because no inputs run: {result.not_calibrated}" in said


def test_a_copy_is_kept_where_nothing_is_gained(tmp_path: Path) -> None:
    relu = helper.make_node("Relu", ["x"], ["y"])
    onnx.save(model([relu], {}, {"x": [1, 4]}, {"y": [1, 4]}), tmp_path / "tiny.onnx")
    said, result = told(tmp_path / "tiny.onnx")
    assert result.unchanged
    assert said[-1] == "keeping a copy of the source, because compression does not make it smaller"


def test_a_step_is_a_line_on_standard_error(source: Path) -> None:
    program = Path(sys.executable).with_name("onnxopt")
    command = [program, "optimize", source, "-o", source.with_name("small.onnx"), "-v"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    lines = done.stderr.splitlines()
    assert lines[0].startswith("calibrating on ")
    assert all(line.partition(" ")[0] in ("calibrating", "measuring", "try", "writing", "checking") for line in lines)
