"""A C host runs compressed models: by registering the library, and through onnxopt_create_session."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
import run_model
from compressing import compressed
from onnx import helper, numpy_helper

from onnxopt import native


def two_outputs() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((32, 16)), "v": rng.standard_normal((8, 3, 3, 3))}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("Conv", ["image", "v"], ["z"]),
    ]
    graph = helper.make_graph(
        nodes,
        "test",
        [
            helper.make_tensor_value_info("x", 1, ["n", 32]),
            helper.make_tensor_value_info("image", 1, ["n", 3, 9, 9]),
        ],
        [
            helper.make_tensor_value_info("y", 1, ["n", 16]),
            helper.make_tensor_value_info("z", 1, ["n", 8, 7, 7]),
        ],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_model.build(tmp_path_factory.mktemp("example"))


@pytest.fixture(scope="module")
def runtime() -> Path:
    found = run_model.wheel_library()
    if found is None:
        pytest.skip("this onnxruntime wheel has no C library")
    return found


@pytest.mark.parametrize("registering", [True, False])
def test_prints_what_the_plain_model_gives(program: Path, runtime: Path, tmp_path: Path, registering: bool) -> None:
    model = two_outputs()
    path = tmp_path / "model.onnx"
    path.write_bytes(compressed(model))
    library = native.library_path() if registering else None
    run_model.check(run_model.run(program, runtime, path, library), model)


def test_container_as_external_data(program: Path, runtime: Path, tmp_path: Path) -> None:
    model = two_outputs()
    path = tmp_path / "model.onnx"
    onnx.save(
        onnx.load_model_from_string(compressed(model)),
        path,
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    run_model.check(run_model.run(program, runtime, path, None), model)


@pytest.mark.parametrize("content", [b"", b"no model", b"onnxopt\0"], ids=["empty", "foreign", "cut"])
def test_says_what_is_wrong(program: Path, runtime: Path, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    done = subprocess.run([program, runtime, path], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "onnxopt: not a" in done.stderr
    done = subprocess.run([program, runtime, tmp_path / "none"], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "cannot be opened" in done.stderr
