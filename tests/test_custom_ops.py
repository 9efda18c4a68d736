"""Models with operators of a user's own library."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import all_ways
import numpy as np
import onnx
import onnxruntime
import pytest
from builders import model, weights
from onnx import helper
from run_model import NATIVE
from typer.testing import CliRunner, Result

import onnxopt
from onnxopt.cli.command import app
from onnxopt.data import custom_ops, quiet_session

X = {"x": all_ways.random(3, 32)}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library of ``my.ops::Negate``."""
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler for the library of a custom operator")
    path = tmp_path_factory.mktemp("custom") / "libnegate.so"
    source = Path(__file__).with_name("negate.cc")
    command = [compiler, "-std=c++17", "-shared", "-fPIC", f"-I{NATIVE / 'src'}", str(source), "-o", str(path)]
    subprocess.run(command, check=True)
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Negate", ["h"], ["n"], domain="my.ops"),
             helper.make_node("MatMul", ["n", "v"], ["y"])]  # fmt: skip
    made = model(nodes, {"w": weights(32, 32), "v": weights(32, 32, seed=1)}, {"x": ["n", 32]}, {"y": ["n", 32]})
    made.opset_import.append(helper.make_opsetid("my.ops", 1))
    path = tmp_path / "model.onnx"
    onnx.save(made, path)
    return path


def run(*words: object) -> Result:
    return CliRunner().invoke(app, list(map(str, words)))


@pytest.mark.parametrize("ours_first", [True, False])
def test_the_result_runs_with_both_libraries(source: Path, library: Path, ours_first: bool) -> None:
    small = source.with_name("small.onnx")
    result = onnxopt.optimize(source, small, lossless=True, custom_ops=[library])
    assert not result.not_checked
    options = onnxruntime.SessionOptions()
    if ours_first:
        onnxopt.register(options)
    options.register_custom_ops_library(str(library))
    theirs_only = onnxruntime.SessionOptions()
    theirs_only.register_custom_ops_library(str(library))
    with custom_ops([library]):
        (wanted,) = quiet_session(str(source)).run(None, X)
    loaded = onnxopt.load(small, theirs_only)
    if not ours_first:
        onnxopt.register(options)
    registered = onnxruntime.InferenceSession(str(small), options)
    for session in (loaded, registered):
        np.testing.assert_array_equal(session.run(None, X)[0], wanted)


def test_every_session_of_a_command_has_the_library(source: Path, library: Path) -> None:
    small, plain = source.with_name("small.onnx"), source.with_name("plain.onnx")
    done = run("optimize", source, "-o", small, "--custom-ops", library)
    assert done.exit_code == 0, done.output
    assert "not calibrated" not in done.output
    assert "outputs identical" in run("verify", small, "--custom-ops", library).output
    onnxopt.decompress(small, plain)
    with custom_ops([library]):
        np.testing.assert_allclose(
            quiet_session(str(plain)).run(None, X)[0], onnxopt.load(small).run(None, X)[0], rtol=1e-5, atol=1e-5
        )


def test_without_the_library_the_sentence_names_the_option(source: Path) -> None:
    for how in ([], ["--lossless"]):
        error = run("optimize", source, "-o", source.with_name("small.onnx"), *how).exception
        assert isinstance(error, onnxopt.OnnxoptError)
        for words in (f"{source}: has custom operators of the domain 'my.ops'", "the original does not load",
                      "--custom-ops names their library"):  # fmt: skip
            assert words in str(error)


def test_what_is_no_library_is_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "text.so").write_text("no library")
    for name, words in (("gone.so", "which is no file"), ("text.so", "cannot be registered")):
        error = run("optimize", source, "-o", tmp_path / "small.onnx", "--custom-ops", tmp_path / name).exception
        assert isinstance(error, onnxopt.OnnxoptError)
        assert words in str(error)
