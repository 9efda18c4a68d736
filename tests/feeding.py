"""Models that only take inputs, and what a stream of data gives: what the tests of data need."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

from onnxopt.data import Data, quiet_session


def taking(elem: int = TensorProto.FLOAT, **inputs: list[int | str | None]) -> onnxruntime.InferenceSession:
    """A model with these inputs that gives them back."""
    names = list(inputs)
    graph = helper.make_graph(
        [helper.make_node("Identity", [name], [f"{name}_out"]) for name in names],
        "test",
        [helper.make_tensor_value_info(name, elem, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(f"{name}_out", elem, None) for name in names],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return quiet_session(made.SerializeToString())


def everything(data: Data) -> list[tuple[dict[str, list[Any]], Any]]:
    return [
        (
            {name: array.tolist() for name, array in batch.feeds.items()},
            None if batch.labels is None else batch.labels.tolist(),
        )
        for batch in data
    ]


def seen(data: Data) -> list[int]:
    return [label for batch in data for label in np.ravel(batch.labels).tolist()]


VECTORS = taking(x=["n", 4])
