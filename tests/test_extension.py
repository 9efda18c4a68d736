"""One file is enough to extend onnxopt: a toy of each kind, dropped into a copy of the package, works everywhere.

CONTRIBUTING.md explains each kind with its toy as the example.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import mlp, model, weights
from commanding import unstamped
from onnx import helper

import onnxopt
from onnxopt import native
from onnxopt.report.json import to_json

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
TOYS = ROOT / "tests" / "toys"
PACKAGE = Path(onnxopt.__file__).parent

Run = Callable[..., str]


@pytest.fixture
def extended(tmp_path: Path) -> Callable[[str, str], Run]:
    """Copies the package, and a toy into it; gives a function that runs Python with that copy."""

    def extend(toy: str, place: str) -> Run:
        copy = tmp_path / "site" / "onnxopt"
        skipped = shutil.ignore_patterns("lib", "include", "src", "quantizer", "third_party", "fuzz", "tests")
        shutil.copytree(PACKAGE, copy, ignore=skipped)
        (copy / "lib").symlink_to(native.library_path().parent)
        shutil.copy(TOYS / toy, copy / place)

        def run(*words: object) -> str:
            environment = {**os.environ, "PYTHONPATH": str(copy.parent), "COLUMNS": "200"}
            command = [sys.executable, "-P", *map(str, words)]
            done = subprocess.run(command, check=False, env=environment, cwd=ROOT, capture_output=True, text=True)
            assert not done.returncode, done.stdout + done.stderr
            return done.stdout

        return run

    return extend


@pytest.fixture
def source(tmp_path: Path) -> Path:
    onnx.save(mlp(), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def cli(run: Run, *words: object) -> str:
    return run("-c", "from onnxopt.cli import main; main()", *words)


def test_a_pass(extended: Callable[[str, str], Run]) -> None:
    run = extended("pass.py", "passes/quantise/toy.py")
    printed = run("-m", "pytest", "-p", "no:cacheprovider", "tests/test_passes.py", "-k", "toy", "-rA")
    for words in ("toy{bits=4}", "test_dearer_decisions_have_less_error", "test_step_text_gives_the_pass_back[toy]"):
        assert words in printed, words


def test_a_strategy(extended: Callable[[str, str], Run], source: Path) -> None:
    run, output = extended("strategy.py", "strategies/toy.py"), source.with_name("small.onnx")
    words = ("--for", "size", "--error", 0.1)
    result = json.loads(cli(run, "optimize", source, "-o", output, *words, "--json"))
    (toy,) = [one for one in result["strategies"] if one["name"] == "toy"]
    assert toy["kept"]
    assert result["plan"]["steps"]["fc1"] == "uniform{error=0.02}"
    assert result["plan"]["steps"]["fc2"].startswith("feedback")
    assert result["check"]["found"]["error"] <= 0.1
    source.with_name("plan.json").write_text(cli(run, "plan", source, *words))
    cli(run, "apply", source, source.with_name("plan.json"), "-o", source.with_name("applied.onnx"))
    assert unstamped(source.with_name("applied.onnx")) == unstamped(output)
    source.with_name("result.json").write_text(json.dumps(result))
    cli(run, "report", source.with_name("result.json"), "-o", source.with_name("page.html"))
    assert "A grid for the largest weight" in source.with_name("page.html").read_text(encoding="utf-8")


def test_a_metric(extended: Callable[[str, str], Run], source: Path) -> None:
    run = extended("metric.py", "metrics/toy.py")
    np.savez(source.with_name("data.npz"), x=np.random.default_rng(0).standard_normal((200, 64), np.float32))
    assert "toy" in cli(run, "optimize", "--help").partition("--metric")[2].partition("\n")[0]
    words = ("--data", source.with_name("data.npz"), "--metric", "toy", "--max-drop", 5, "--json")
    result = json.loads(cli(run, "optimize", source, "-o", source.with_name("small.onnx"), *words))
    assert result["contract"] == "toy drops by at most 5"
    assert 0 < result["check"]["found"]["drop"] <= 5
    assert result["bytes_after"] < result["bytes_before"] / 3


def test_a_recipe(extended: Callable[[str, str], Run], source: Path) -> None:
    run = extended("recipe.toml", "spec/recipes/toy.toml")
    assert "toy" in cli(run, "optimize", "--help").partition("--recipe")[2].partition("--")[0]
    words = ("--recipe", "toy", "--error", 0.2, "--json")
    result = json.loads(cli(run, "optimize", source, "-o", source.with_name("small.onnx"), *words))
    assert result["recipe"] == "toy"
    assert {step.partition("{")[0] for step in result["plan"]["steps"].values()} == {"uniform"}


def test_a_section_of_the_page(extended: Callable[[str, str], Run], source: Path) -> None:
    run = extended("section.py", "report/sections/toy.py")
    result = onnxopt.optimize(source, source.with_name("small.onnx"))
    source.with_name("result.json").write_text(to_json(result))
    cli(run, "report", source.with_name("result.json"), "-o", source.with_name("page.html"))
    page = source.with_name("page.html").read_text(encoding="utf-8")
    assert '<a href="#toy">Toy section</a>' in page
    assert f"{len(result.plan.steps)} by feedback." in page
    assert page.index('id="table"') < page.index('id="toy"') < page.index('id="again"')


def test_a_clean_up(extended: Callable[[str, str], Run], source: Path) -> None:
    run = extended("cleanup.py", "graph/cleanup/toy.py")
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Relu", ["a"], ["b"]),
             helper.make_node("MatMul", ["b", "w"], ["y"])]  # fmt: skip
    onnx.save(model(nodes, {"w": weights(64, 64)}, {"x": ["n", 64]}, {"y": None}), source)
    output = source.with_name("small.onnx")
    assert json.loads(cli(run, "optimize", source, "-o", output, "--json"))["cleaned"]["toy"] == 1
    assert [node.op_type for node in onnxopt.decompress(output).graph.node] == ["Relu", "MatMul"]


def test_a_data_reader(extended: Callable[[str, str], Run], source: Path) -> None:
    run = extended("reader.py", "data/readers/toy.py")
    data, output = source.with_name("data.tsv"), source.with_name("small.onnx")
    np.savetxt(data, np.random.default_rng(0).standard_normal((200, 64)), delimiter="\t")
    words = ("--data", data, "--error", 0.2, "--json")
    result = json.loads(cli(run, "optimize", source, "-o", output, *words))
    assert str(data) in result["calibrated"]
    assert result["plan"]["data"]
    assert 0 < result["check"]["found"]["error"] <= 0.3


def test_the_guide_shows_every_toy_as_it_is() -> None:
    """Where this fails, copy the toy's text into its code block in CONTRIBUTING.md."""
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    shown = dict(re.findall(r"<!-- (tests/toys/\S+) -->\n```\w*\n(.*?)```\n", guide, re.DOTALL))
    toys = [path for path in TOYS.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert shown == {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in toys}
