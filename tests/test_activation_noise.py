"""Noise of rounded activations: fake quantization measures the effect of real rounding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from builders import model
from factoring import graph_of
from onnx import helper
from test_pairs import X, expected, in_integers, residual

from onnxopt.calibration.activation_noise import FakeQuantProbe, histograms, measure
from onnxopt.data import Data, open_data, quiet_session
from onnxopt.graph import QuantParams, settings, with_fake_quant

VALUES = ["x", "r1", "c2", "r2", "r3", "g"]


@pytest.fixture
def data(tmp_path: Path) -> Data:
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(2).standard_normal((64, *X.shape[1:]), np.float32))
    onnx.save(residual(), tmp_path / "model.onnx")
    return open_data(str(tmp_path / "data.npz"), quiet_session(str(tmp_path / "model.onnx")))


def test_fake_quantization_that_is_off_changes_nothing() -> None:
    session = quiet_session(with_fake_quant(residual(), VALUES).SerializeToString())
    (y,) = session.run(["y"], {"x": X, **settings(VALUES, {})})
    (wanted,) = quiet_session(residual().SerializeToString()).run(None, {"x": X})
    np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-6)


def test_fake_quantization_rounds_as_pairs_do() -> None:
    made, graph = in_integers(residual(), X)
    (y,) = quiet_session(made.SerializeToString()).run(None, {"x": X})
    assert np.linalg.norm(y - expected(graph, X)) < 0.02 * np.linalg.norm(y)


def test_histograms_are_streamed_and_leave_out_other_types(data: Data) -> None:
    found = histograms(graph_of(residual()).model, ["x", "r1"], data)
    assert {name: elements for name, (_, elements) in found.items()} == {"x": 8 * 144, "r1": 8 * 144}
    assert found["r1"][0].low == 0
    assert found["x"][0].count == 64 * 8 * 144


def test_the_method_with_the_least_noise_is_kept(data: Data) -> None:
    graph = graph_of(residual())
    found, together = measure(graph.model, VALUES, data, "uint8", lambda share: None)
    assert set(found) == set(VALUES)
    assert 0.3 < together < 3  # small noises add up
    probe = FakeQuantProbe(graph.model, VALUES, data, 64)
    for name, one in found.items():
        assert 0.4 < probe.noise({name: one.pair}) / one.noise < 2.5  # predicted to first order
        low, high = one.pair.reach
        coarser = QuantParams.over(4 * low, 4 * high, "uint8")
        assert probe.noise({name: coarser}) > one.noise
    again, _ = measure(graph.model, VALUES, data, "uint8", lambda share: None)
    assert again == found


def test_signed_grids_are_symmetric_where_values_have_two_signs(data: Data) -> None:
    found, _ = measure(graph_of(residual()).model, VALUES, data, "int8", lambda share: None)
    assert abs(found["x"].pair.zero) <= 1
    assert found["r1"].pair.zero == -128


def test_a_value_of_another_type_is_left_out(tmp_path: Path) -> None:
    nodes: list[Any] = [helper.make_node("Cast", ["x"], ["d"], to=onnx.TensorProto.DOUBLE),
                        helper.make_node("Cast", ["d"], ["y"], to=onnx.TensorProto.FLOAT)]  # fmt: skip
    made = model(nodes, {}, {"x": ["n", 4]}, {"y": ["n", 4]})
    onnx.save(made, tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", x=np.ones((8, 4), np.float32))
    data = open_data(str(tmp_path / "data.npz"), quiet_session(str(tmp_path / "model.onnx")))
    assert set(histograms(made, ["x", "d"], data)) == {"x"}
