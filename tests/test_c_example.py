"""A C host runs compressed models: by registering the library, and through onnxopt_create_session."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import run_model
from compressing import compressed
from onnx import helper, numpy_helper

from common.lessons import run_by
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


@pytest.mark.slow
def test_the_commands_of_the_readme(runtime: Path, tmp_path: Path) -> None:
    """In a folder that looks like a clone in which a model was compressed."""
    (block,) = run_by("tests/test_c_example.py", "README.md")
    (tmp_path / "small.onnx").write_bytes(compressed(two_outputs()))
    (tmp_path / "onnxopt").mkdir()
    (tmp_path / "onnxopt" / "native").symlink_to(run_model.NATIVE)
    (tmp_path / "bin").mkdir()
    for name, words in (("onnxopt", "-P -m onnxopt.cli"), ("python", "-P")):
        command = tmp_path / "bin" / name
        command.write_text(f'#!/bin/sh\nexec {sys.executable} {words} "$@"\n')
        command.chmod(0o755)
    path = os.pathsep.join((str(tmp_path / "bin"), os.environ["PATH"]))
    done = subprocess.run(["sh", "-e", "-c", block.text], cwd=tmp_path, env=os.environ | {"PATH": path},
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    run_model.check(done.stdout, two_outputs())


@pytest.mark.parametrize("content", [b"", b"no model", b"onnxopt\0"], ids=["empty", "foreign", "cut"])
def test_says_what_is_wrong(program: Path, runtime: Path, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    done = subprocess.run([program, runtime, path], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "onnxopt: not a" in done.stderr
    done = subprocess.run([program, runtime, tmp_path / "none"], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "cannot be opened" in done.stderr
