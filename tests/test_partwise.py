"""A model that runs part by part computes what it computes as a whole, with the weights of the time."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from builders import branches, cnn, residual
from onnx import numpy_helper

from onnxopt.data import quiet_session
from onnxopt.encoding import Array
from onnxopt.graph import Partwise, expose


@pytest.mark.parametrize("model", [cnn(), residual()], ids=["cnn", "residual"])
def test_values_are_those_of_the_whole_model(model: onnx.ModelProto) -> None:
    """The weights change once half of the nodes have run: those before keep the old ones."""
    (value,), random = model.graph.input, np.random.default_rng(0)
    shape = [dim.dim_value or 3 for dim in value.type.tensor_type.shape.dim]
    feeds = [{value.name: random.standard_normal(shape).astype(np.float32)} for _ in range(2)]
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    now, half = dict(weights), len(model.graph.node) // 2
    parts = Partwise(model, feeds, lambda name: now[name])
    later = {name for node in model.graph.node[half:] for name in node.input if name in weights}
    mixed = onnx.ModelProto()
    mixed.CopyFrom(model)
    for tensor in mixed.graph.initializer:
        if tensor.name in later:
            tensor.CopyFrom(numpy_helper.from_array(_doubled(weights[tensor.name]), tensor.name))
    names = [node.output[0] for node in model.graph.node]
    session = quiet_session(expose(mixed, names))
    wanted = [dict(zip(names, session.run(names, one), strict=True)) for one in feeds]
    for index, node in enumerate(model.graph.node):
        if index == half:
            now |= {name: _doubled(weights[name]) for name in later}
        for values, whole in zip(parts.before(index), wanted, strict=True):
            for name in node.input:
                if name in whole:
                    np.testing.assert_allclose(values[name], whole[name], rtol=1e-5, atol=1e-5)


def test_models_with_subgraphs_are_not_taken() -> None:
    assert Partwise.takes(cnn())
    assert not Partwise.takes(branches())


def _doubled(weight: Array) -> Array:
    return weight * 2 if weight.dtype.kind == "f" else weight
