"""Integers that a model came with: with data they move to coarser ones, in place, and the model stays what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from integer_carriers import INTEGER_CARRIERS
from onnx import numpy_helper

import onnxopt
from onnxopt.data import quiet_session
from onnxopt.graph.float_twin import float_twin
from onnxopt.metrics.output_error import output_error
from onnxopt.spec.overrides import Overrides

NOISE = 0.1
Array = np.ndarray[Any, Any]


def feeds(made: onnx.ModelProto, count: int, seed: int = 0) -> dict[str, Array]:
    """Samples of the model's only input."""
    rng, value = np.random.default_rng(seed), made.graph.input[0].type.tensor_type
    shape = [d.dim_value or count for d in value.shape.dim]
    if value.elem_type == onnx.TensorProto.INT64:
        return {"x": rng.integers(0, 128, shape)}
    return {"x": rng.normal(size=shape).astype(np.float32)}


def save(made: onnx.ModelProto, folder: Path) -> Path:
    np.savez(folder / "x.npz", **feeds(made, 64))
    onnx.save(made, folder / "model.onnx")
    return folder / "model.onnx"


def tensors(file: Path) -> list[Array]:
    """Those of a model, in an order that does not depend on their names and elements."""
    found = map(numpy_helper.to_array, onnx.load(file).graph.initializer)
    return sorted(found, key=lambda one: (str(one.dtype), one.shape))


def weight(file: Path, wanted: Array) -> Array:
    """The only tensor of a type and shape."""
    (found,) = (one for one in tensors(file) if (one.dtype, one.shape) == (wanted.dtype, wanted.shape))
    return found


@pytest.mark.parametrize("name", [name for name in INTEGER_CARRIERS if name != "dequantize_packed"])
def test_integers_move_and_the_model_stays(name: str, tmp_path: Path) -> None:
    made = INTEGER_CARRIERS[name]()
    model, small, plain = save(made, tmp_path), tmp_path / "small.onnx", tmp_path / "plain.onnx"
    data: Any = tmp_path / "x.npz"
    if name == "dynamic_lstm":  # whose batches are another axis
        data = lambda: iter([feeds(made, 64, seed) for seed in (2, 3)])  # noqa: E731
    result = onnxopt.optimize(model, small, data=data, error=NOISE)
    event = next(one for one in result.events if one.path == "w")
    assert event.step.startswith("feedback"), event.reason
    assert event.bytes_after < 0.8 * event.bytes_before
    assert all(one.step != "lossless" or one.reason for one in result.events[:-1])
    onnxopt.decompress(small, plain)
    assert [one.op_type for one in onnx.load(plain).graph.node] == [one.op_type for one in made.graph.node]
    before, after = ({(one.dtype, one.shape) for one in tensors(file)} for file in (model, plain))
    assert before == after
    other = feeds(made, 64, seed=1)
    wanted, got = (quiet_session(str(file)).run(None, other) for file in (model, plain))
    error = output_error(wanted, got)
    assert error is not None
    assert 0 < error < 1.5 * NOISE
    assert onnxopt.verify(small).identical_outputs


@pytest.mark.parametrize("name", INTEGER_CARRIERS)
def test_the_twin_computes_the_same(name: str) -> None:
    made = INTEGER_CARRIERS[name]()
    twin = float_twin(made)
    assert twin is not None
    assert "w" in twin.grids
    given = feeds(made, 8)
    wanted, got = (quiet_session(one.SerializeToString()).run(None, given)[0] for one in (made, twin.model))
    # what rounds its inputs by itself does not in the twin, and one step of the outputs counts where they are rounded
    assert np.linalg.norm(wanted - got) < 0.02 * np.linalg.norm(wanted)


def test_without_data_integers_stay(tmp_path: Path) -> None:
    made = INTEGER_CARRIERS["matmul_integer"]()
    model = save(made, tmp_path)
    onnxopt.optimize(model, tmp_path / "small.onnx")
    onnxopt.decompress(tmp_path / "small.onnx", tmp_path / "plain.onnx")
    w = numpy_helper.to_array(next(one for one in made.graph.initializer if one.name == "w"))
    assert (weight(tmp_path / "plain.onnx", w) == w).all()


def test_a_plan_is_replayed(tmp_path: Path) -> None:
    model = save(INTEGER_CARRIERS["qdq_conv"](), tmp_path)
    plan = onnxopt.plan(model, data=tmp_path / "x.npz", error=NOISE)
    assert "w" in plan.steps
    onnxopt.optimize(model, tmp_path / "small.onnx", data=tmp_path / "x.npz", error=NOISE)
    onnxopt.apply(model, plan, tmp_path / "again.onnx", data=tmp_path / "x.npz")
    assert (tmp_path / "small.onnx").read_bytes() == (tmp_path / "again.onnx").read_bytes()


def test_a_bias_makes_up_for_the_mean(tmp_path: Path) -> None:
    made = INTEGER_CARRIERS["qdq_conv"]()
    model, given = save(made, tmp_path), feeds(made, 64)
    np.savez(tmp_path / "x.npz", x=given["x"] + 0.5)
    onnxopt.optimize(model, tmp_path / "small.onnx", data=tmp_path / "x.npz", error=NOISE)
    onnxopt.decompress(tmp_path / "small.onnx", tmp_path / "plain.onnx")
    b = numpy_helper.to_array(next(one for one in made.graph.initializer if one.name == "b"))
    assert any(
        (one != b).any() for one in tensors(tmp_path / "plain.onnx") if (one.dtype, one.shape) == (b.dtype, b.shape)
    )


def test_a_rule_keeps_integers(tmp_path: Path) -> None:
    model = save(INTEGER_CARRIERS["matmul_integer"](), tmp_path)
    rules = Overrides.parse('[[rule]]\nmatch = "w"\nskip = true\n')
    result = onnxopt.optimize(model, tmp_path / "small.onnx", data=tmp_path / "x.npz", error=NOISE, overrides=rules)
    assert all(event.step in ("lossless", "") for event in result.events)
