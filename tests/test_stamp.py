"""Files say which request made them, so that pipelines know what is stale."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import mlp
from commanding import refused, run

import onnxopt
from onnxopt import Contract, api
from onnxopt.build.stamp import NOT_OPTIONS, Stamp
from onnxopt.graph import STAMP
from onnxopt.request import Request
from onnxopt.spec.overrides import Overrides
from onnxopt.spec.recipes import Recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stamp")
    onnx.save(mlp(), path / "model.onnx")
    onnx.save(mlp(seed=1), path / "other.onnx")
    for seed, name in enumerate(("x.npy", "y.npy")):
        np.save(path / name, np.random.default_rng(seed).standard_normal((64, 64), np.float32))
    assert run("optimize", "model.onnx", "-o", "small.onnx", "--lossless", cwd=path).returncode == 0
    return path


def test_everything_that_changes_a_file_changes_one_digest(folder: Path) -> None:
    data = folder / "x.npy"
    first = api.stamp(folder / "model.onnx", None, data)
    assert first == api.stamp(folder / "model.onnx", None, str(data), progress=print)
    assert first.changed(api.stamp(folder / "other.onnx", None, data)) == ["model"]
    assert first.changed(api.stamp(folder / "model.onnx", None, folder / "y.npy")) == ["data"]
    assert first.changed(api.stamp(folder / "model.onnx", None, data, evaluation=folder / "y.npy")) == ["data"]
    for contract, options in ((Contract(error=0.1), {}), (None, {"effort": "fast"}), (None, {"goal": "size"})):
        assert first.changed(api.stamp(folder / "model.onnx", contract, data, **options)) == ["options"]


def test_options_are_told_from_others_by_what_they_say_alone() -> None:
    """Not by where they lie in memory, which is another place in every process; nor by the order of a set."""
    overrides, recipe = Overrides.parse('[[rule]]\nop = ["Conv", "Gemm"]\nmax_bits = 4'), Recipe.open("microbrain")
    request = Request(overrides=overrides, recipe=recipe, goal="speed", activations=8, device="vnni")
    for one in fields(request):
        if one.name not in NOT_OPTIONS:
            text = repr(getattr(request, one.name))
            assert " at 0x" not in text, one.name
            assert "set(" not in text, one.name


def test_new_versions_make_other_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = api.stamp(folder / "model.onnx")
    monkeypatch.setattr("onnxruntime.__version__", "0.0")
    assert first.changed(api.stamp(folder / "model.onnx")) == ["versions"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("model.onnx --check small.onnx --lossless", 0, "is what this request makes"),
        ("model.onnx --check small.onnx", 1, "different options"),
        ("other.onnx --check small.onnx --lossless", 1, "different model"),
        ("model.onnx --check small.onnx --data x.npy --lossless", 1, "different data"),
        ("model.onnx --check none.onnx", 1, "No such file"),
        ("model.onnx --check x.npy", 1, "cannot be read"),
        ("model.onnx --check model.onnx", 1, "does not say which request made it"),
    ],
)
def test_check(folder: Path, words: str, code: int, said: str) -> None:
    done = run("optimize", *words.split(), cwd=folder)
    assert done.returncode == code
    assert said in done.stdout
    found = json.loads(run("optimize", *words.split(), "--json", cwd=folder).stdout)
    assert found["current"] is (code == 0)
    assert (said in found["reason"]) is (code == 1)


def test_check_writes_nothing(folder: Path) -> None:
    done = run("optimize", "model.onnx", "--check", "small.onnx", "-o", "new.onnx", cwd=folder)
    refused(done, "--output and --check contradict each other")


def test_the_result_and_the_file_say_the_same(folder: Path) -> None:
    again = run("optimize", "model.onnx", "-o", "again.onnx", "--lossless", "--json", cwd=folder)
    stamp = str(Stamp.read(folder / "small.onnx"))
    assert json.loads(again.stdout)["request"] == stamp
    assert (folder / "again.onnx").read_bytes() == (folder / "small.onnx").read_bytes()


def test_a_plain_model_says_nothing_of_it(folder: Path) -> None:
    """It is the source again, with the metadata that the source has."""
    assert STAMP not in {entry.key for entry in onnxopt.decompress(folder / "small.onnx").metadata_props}
    result = onnxopt.optimize(folder / "model.onnx", folder / "api.onnx", lossless=True)
    assert result.request == ""
    assert not onnx.load(folder / "api.onnx").metadata_props
