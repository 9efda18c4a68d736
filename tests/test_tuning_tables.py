"""Tuning of models that look up rows of weights, as of words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import weights
from differences import node
from onnx import TensorProto, helper, numpy_helper

import onnxopt
from onnxopt import Contract

WORDS, KNOWN = 512, 24
"""Rows of the table, and the first ones that are in the samples."""


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """ids[n, 6] -> rows of a table -> MatMul -> Tanh -> their mean -> MatMul -> y[n, 8]."""
    nodes = [
        node("Gather", ["words", "ids"], ["rows"]),
        node("MatMul", ["rows", "first"], ["h"]),
        node("Tanh", ["h"], ["t"]),
        node("ReduceMean", ["t"], ["m"], axes=[1], keepdims=0),
        node("MatMul", ["m", "last"], ["y"]),
    ]
    tensors = {"words": weights(WORDS, 32), "first": weights(32, 64, seed=1), "last": weights(64, 8, seed=2)}
    graph = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8])],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def ids(samples: int, least: int, most: int) -> np.ndarray:
    return np.random.default_rng(least).integers(least, most, (samples, 6))


@pytest.mark.parametrize("contract", [Contract(error=0.2), Contract(target_ratio=6)])
def test_words_that_no_sample_has_keep_their_values(encoder: Path, tmp_path: Path, contract: Contract) -> None:
    """The price of their bits alone would make zeros of them."""
    np.save(tmp_path / "ids.npy", ids(1024, 0, KNOWN))
    said: list[str] = []
    untuned, tuned = tmp_path / "untuned.onnx", tmp_path / "tuned.onnx"
    onnxopt.optimize(encoder, untuned, contract, tmp_path / "ids.npy")
    done = onnxopt.optimize(encoder, tuned, contract, tmp_path / "ids.npy", tune="8epochs",
                            progress=lambda what, share: said.append(what))  # fmt: skip
    assert any("words is not tuned: inputs look up its rows" in line for line in said)
    assert done.plan is not None
    assert contract.error is None or "tuned" in str(done.plan.steps)
    assert "tuned" not in str(done.plan.steps["words"])
    before, after = (decompressed(file, tmp_path / "plain.onnx") for file in (untuned, tuned))
    np.testing.assert_array_equal(before, after)


def decompressed(file: Path, plain: Path) -> np.ndarray:
    """The table as it is in a compressed file."""
    onnxopt.decompress(file, plain)
    (found,) = (numpy_helper.to_array(t) for t in onnx.load(plain).graph.initializer if t.dims == [WORDS, 32])
    plain.unlink()
    return found
