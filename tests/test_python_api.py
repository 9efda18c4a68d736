"""The Python interface: models in memory, results that save, report and show themselves; the examples in docstrings."""

from __future__ import annotations

import doctest
import importlib
import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest
from builders import mlp

import onnxopt
from onnxopt.report.json import to_json
from train_digits import split

ROOT = Path(__file__).resolve().parents[1]
RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(64, mlp().graph.input[0].type.tensor_type.shape.dim[-1].dim_value)).astype(np.float32)


@pytest.mark.parametrize("kept", [lambda model: model, onnx_ir.from_proto], ids=["proto", "ir"])
def test_a_model_in_memory_gives_the_file_of_its_path(kept: object, tmp_path: Path) -> None:
    onnx.save(mlp(), tmp_path / "model.onnx")
    expected = onnxopt.optimize(tmp_path / "model.onnx", tmp_path / "small.onnx", error=0.05)
    got = onnxopt.optimize(kept(mlp()), error=0.05)  # type: ignore[operator]
    assert got.bytes_after == pytest.approx(expected.bytes_after, rel=0.01)  # names may be in another order
    assert got.save(tmp_path / "saved.onnx").read_bytes() == got.output.read_bytes()
    onnxopt.load(tmp_path / "saved.onnx").run(None, {"x": INPUTS})


def test_files_without_a_place_live_as_long_as_the_result(tmp_path: Path) -> None:
    result = onnxopt.optimize(mlp())
    output = result.output
    assert output.is_file()
    assert "folder" not in json.loads(to_json(result))
    del result
    assert not output.exists()


def test_a_result_shows_itself(tmp_path: Path) -> None:
    result = onnxopt.optimize(mlp())
    page = result.report(tmp_path / "page.html")
    assert page == (tmp_path / "page.html").read_text(encoding="utf-8")
    assert result._repr_html_().startswith('<iframe srcdoc="&lt;!DOCTYPE html&gt;')
    assert repr(result).endswith(f"{result.bytes_after} bytes)")


@pytest.mark.parametrize("data", [INPUTS, {"x": INPUTS}, {"x": INPUTS, "labels": np.zeros(64, np.int64)}])
def test_arrays_in_memory_are_data(data: object, tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", INPUTS)
    plans = [onnxopt.plan(mlp(), data=given, error=0.05) for given in (data, tmp_path / "data.npy")]
    assert plans[0].steps == plans[1].steps


def test_one_contract_is_enough() -> None:
    with pytest.raises(onnxopt.OnnxoptError, match="max_drop both say what to keep"):
        onnxopt.optimize(mlp(), contract=onnxopt.Contract(error=0.1), max_drop=1)
    with pytest.raises(onnxopt.OnnxoptError, match="the model is a int, expected a path"):
        onnxopt.optimize(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"no option .maxdrop.; .*did you mean max_drop"):
        onnxopt.optimize(mlp(), maxdrop=1)  # type: ignore[call-arg]


@pytest.mark.parametrize("name", ["onnxopt.api", "onnxopt.runtime.session"])
def test_examples_in_docstrings_print_what_they_show(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "digits.onnx").write_bytes((ROOT / "models" / "digits.onnx").read_bytes())
    images, labels, _, _ = split()
    np.savez(tmp_path / "train.npz", input=images[:300], labels=labels[:300])
    onnxopt.optimize(tmp_path / "digits.onnx", tmp_path / "small.onnx")
    monkeypatch.chdir(tmp_path)
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted and not found.failed
