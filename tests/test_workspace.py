"""A workspace depends on what it was made of, not on what was asked of another one before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import mlp

from onnxopt.build.preparation import prepare
from onnxopt.data import open_data, quiet_session
from onnxopt.graph import read
from onnxopt.request import Request
from onnxopt.spec.plan import Step

STEPS = {"fc1": Step.parse("svd{rank=4}")}


@pytest.mark.parametrize("data_first", [False, True])
def test_the_same_steps_with_and_without_data(tmp_path: Path, data_first: bool) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(mlp(), path)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((64, 64), np.float32))
    data = open_data(tmp_path / "x.npy", quiet_session(str(path)))
    with prepare(read(path), Request()) as work:
        both = [work.calibrated(data), work] if data_first else [work, work.calibrated(data)]
        made = [one.with_steps(STEPS) for one in both]
    assert [one.digest for one in made] == [one.digest for one in both]
    assert [one.data for one in made] == [one.data for one in both]
    assert [set(one.form.factored.steps) for one in made] == [{"fc1"}, {"fc1"}]
