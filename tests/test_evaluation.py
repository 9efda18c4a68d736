"""`evaluate` against scikit-learn, and its command."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from builders import cnn, mlp
from onnx import TensorProto, helper, numpy_helper
from scoring import check_against_sklearn

import onnxopt
import train_digits
from common import realdata
from onnxopt import cli
from onnxopt.data import Array
from onnxopt.errors import OnnxoptError
from onnxopt.measure.evaluation import Evaluation, evaluate

DIGITS = Path(__file__).resolve().parents[1] / "models" / "digits.onnx"


# ---- models --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits' test part, with labels and without, and the model compressed, a little and too much."""
    folder = tmp_path_factory.mktemp("digits")
    _, _, images, labels = train_digits.split()
    np.savez(folder / "test.npz", input=images, labels=labels)
    np.save(folder / "images.npy", images)
    onnxopt.optimize(DIGITS, folder / "small.onnx")
    model = onnx.load(DIGITS)
    rng = np.random.default_rng(0)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        noisy = values + rng.normal(0, 1.5 * values.std(), values.shape)
        tensor.CopyFrom(numpy_helper.from_array(noisy.astype(np.float32), tensor.name))
    onnx.save(model, folder / "noisy.onnx")
    return folder


@pytest.fixture
def type_(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """Runs `onnxopt evaluate` and gives its exit code, standard output and standard error."""

    def typed(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["onnxopt", "evaluate", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return int(end.value.code or 0), *capsys.readouterr()

    return typed


def test_models_side_by_side(folder: Path) -> None:
    paths = [DIGITS, folder / "small.onnx", folder / "noisy.onnx"]
    found = evaluate(paths, folder / "test.npz")
    _, _, images, labels = train_digits.split()
    assert (found.samples, found.labelled) == (len(labels), len(labels))
    assert [model.path for model in found.models] == paths
    scores = [onnxopt.load(path).run(None, {"input": images})[0] for path in paths]
    right = [s.argmax(1) == labels for s in scores]
    for path, own, hits, model in zip(paths, scores, right, found.models, strict=True):
        assert model.size == path.stat().st_size
        assert model.classification is not None
        check_against_sklearn(model.classification, own, labels)
        if model is found.models[0]:
            assert model.deviation is None
            continue
        deviation = model.deviation
        assert deviation is not None
        assert deviation.agreement is not None
        assert deviation.paired is not None
        assert deviation.agreement.value == pytest.approx((own.argmax(1) == scores[0].argmax(1)).mean())
        assert deviation.paired.lost == (right[0] & ~hits).sum()
        assert deviation.paired.won == (~right[0] & hits).sum()
        assert deviation.paired.difference.value == pytest.approx(hits.mean() - right[0].mean())
    small, noisy = (model.deviation for model in found.models[1:])
    assert small is not None
    assert small.paired is not None
    assert small.noise < 0.05
    assert small.divergence is not None
    assert small.divergence < 0.01
    assert "no" in small.paired.verdict
    assert noisy is not None
    assert noisy.paired is not None
    assert noisy.paired.verdict == "worse"


def test_a_model_does_not_differ_from_itself(folder: Path) -> None:
    deviation = evaluate([DIGITS, DIGITS], folder / "test.npz").models[1].deviation
    assert deviation is not None
    assert deviation.agreement is not None
    assert deviation.paired is not None
    assert (deviation.noise, deviation.divergence, deviation.agreement.value) == (0, 0, 1)
    assert (deviation.paired.p, deviation.paired.verdict) == (1, "no difference")


def test_data_is_read_once_and_models_run_batch_by_batch(folder: Path) -> None:
    stored = np.load(folder / "test.npz")
    starts, held = [], []

    def batches() -> Iterator[tuple[Array, Array]]:
        starts.append(1)
        for i in range(0, 360, 60):
            yield stored["input"][i : i + 60], stored["labels"][i : i + 60]
            held.append(i)

    streamed, whole = (evaluate([DIGITS, folder / "small.onnx"], d) for d in (batches, folder / "test.npz"))
    assert len(starts) == 1
    assert len(held) == 6
    assert [m.classification for m in streamed.models] == [m.classification for m in whole.models]


def test_other_types_and_names_of_inputs_are_served(tmp_path: Path) -> None:
    plain, other = mlp(16), mlp(16)
    onnx.save(plain, tmp_path / "plain.onnx")
    nodes, entry = other.graph.node, other.graph.input[0]
    nodes.insert(0, onnx.helper.make_node("Cast", ["half"], ["x"], to=TensorProto.FLOAT))
    entry.name, entry.type.tensor_type.elem_type = "half", TensorProto.FLOAT16
    onnx.save(other, tmp_path / "half.onnx")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(40, 16)).astype(np.float32))
    deviation = evaluate([tmp_path / "plain.onnx", tmp_path / "half.onnx"], tmp_path / "x.npy").models[1].deviation
    assert deviation is not None
    assert 0 < deviation.noise < 0.01


@pytest.mark.parametrize(("ends", "vectors"), [("LpNormalization", True), ("Tanh", True), ("Softmax", False)])
def test_embeddings_are_compared_by_cosine_and_are_no_scores(tmp_path: Path, ends: str, vectors: bool) -> None:
    for seed in (0, 1):
        weights = np.random.default_rng(0).normal(size=(16, 8)) + 0.02 * seed * np.eye(16, 8)
        nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node(ends, ["h"], ["n"], axis=-1),
                 helper.make_node("Div", ["n", "k"], ["y"])]  # fmt: skip
        if ends == "Tanh":
            del nodes[1].attribute[:]
        x, y = (
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size]) for name, size in (("x", 16), ("y", 8))
        )
        tensors = [
            numpy_helper.from_array(weights.astype(np.float32), "w"),
            numpy_helper.from_array(np.float32(2), "k"),
        ]
        graph = helper.make_graph(nodes, "g", [x], [y], tensors)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
                  tmp_path / f"{seed}.onnx")  # fmt: skip
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(40, 16)).astype(np.float32))
    deviation = evaluate([tmp_path / "0.onnx", tmp_path / "1.onnx"], tmp_path / "x.npy").models[1].deviation
    assert deviation is not None
    assert (deviation.cosine is not None) == (deviation.agreement is None) == vectors
    assert deviation.cosine is None or 0.9 < deviation.cosine < 1


def test_without_scores_only_the_error_is_measured(tmp_path: Path, type_: Callable[..., tuple[int, str, str]]) -> None:
    for seed in (0, 1):
        onnx.save(cnn(seed), tmp_path / f"{seed}.onnx")
    np.savez(tmp_path / "x.npz", x=np.ones((20, 3, 16, 16), np.float32), labels=np.zeros(20, int))
    found = evaluate([tmp_path / "0.onnx", tmp_path / "1.onnx"], tmp_path / "x.npz")
    assert found.models[0].classification is None
    deviation = found.models[1].deviation
    assert deviation is not None
    assert deviation.noise > 0.1
    assert deviation.agreement is deviation.divergence is deviation.paired is None
    code, shown, _ = type_(tmp_path / "0.onnx", tmp_path / "1.onnx", "--data", tmp_path / "x.npz")
    assert code == 0
    assert "noise/signal" in shown
    assert "only differences between the outputs" in shown
    assert "top-1" not in shown.replace("same top-1", "")


def test_external_data_counts_into_the_size(tmp_path: Path) -> None:
    onnx.save(mlp(16), tmp_path / "one.onnx")
    onnx.save(mlp(16), tmp_path / "two.onnx", save_as_external_data=True, size_threshold=0, location="two.data")
    np.save(tmp_path / "x.npy", np.ones((20, 16), np.float32))
    one, two = evaluate([tmp_path / "one.onnx", tmp_path / "two.onnx"], tmp_path / "x.npy").models
    assert one.size == (tmp_path / "one.onnx").stat().st_size
    assert two.size == sum((tmp_path / f"two.{end}").stat().st_size for end in ("onnx", "data"))


# ---- the command ---------------------------------------------------------------------------------------------------


def test_the_tables_fit_80_columns(folder: Path, type_: Callable[..., tuple[int, str, str]]) -> None:
    long = folder / "small-with-a-name-that-says-all.onnx"
    long.write_bytes((folder / "small.onnx").read_bytes())
    paths = (DIGITS, folder / "small.onnx", long, folder / "noisy.onnx")
    code, shown, errors = type_(*paths, "--data", folder / "test.npz")
    assert (code, errors) == (0, "")
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in shown, "no number and no name is cut"
    assert "test.npz: 360 samples" in shown.replace("\n", "")
    assert "against digits.onnx:" in lines
    assert any(line.startswith("noisy.onnx") and line.rstrip().endswith("worse") for line in lines)
    assert any(line.startswith("small.onnx") and "no " in line for line in lines)
    header = lines.index("noisy.onnx, by class:") + 1
    assert len(lines[header + 1 : header + 11]) == 10
    assert "noisy.onnx, samples by class (rows) and answer (columns):" in lines
    found = evaluate(folder / "noisy.onnx", folder / "test.npz").models[0].classification
    assert found is not None
    eight = lines[lines.index("noisy.onnx, samples by class (rows) and answer (columns):") + 10]
    counts = {answer: count for label, answer, count in found.confusion if label == 8}
    assert eight.split() == ["8", *(str(counts.get(i, ".")) for i in range(10))]


def test_json_has_everything(folder: Path, type_: Callable[..., tuple[int, str, str]]) -> None:
    code, shown, _ = type_(DIGITS, folder / "noisy.onnx", "--data", folder / "test.npz", "--json")
    assert code == 0
    found: dict[str, Any] = json.loads(shown)
    wanted: Evaluation = evaluate([DIGITS, folder / "noisy.onnx"], folder / "test.npz")
    first, second = found["models"]
    assert first["deviation"] is None
    assert second["deviation"]["paired"]["p"] < 0.001
    assert wanted.models[1].classification is not None
    assert second["classification"]["confusion"] == [list(t) for t in wanted.models[1].classification.confusion]
    assert sum(count for _, _, count in second["classification"]["confusion"]) == 360
    assert len(second["classification"]["by_class"]) == 10


def test_many_classes_are_shown_by_the_worst(tmp_path: Path, type_: Callable[..., tuple[int, str, str]]) -> None:
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [
                onnx.helper.make_node("Mul", ["x", "x"], ["square"]),
                onnx.helper.make_node("Sub", ["square", "square"], ["nothing"]),  # NaN where the square overflows
                onnx.helper.make_node("Add", ["x", "nothing"], ["y"]),
            ], "g",
            [onnx.helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 40])],
            [onnx.helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 40])],
        ), opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8,
    )  # fmt: skip
    onnx.save(model, tmp_path / "m.onnx")
    scores = np.tile(np.eye(40, dtype=np.float32), (2, 1))
    scores[7, 7] = -1  # taken for class 0
    scores[50] = 1e30  # of class 10
    scores[39] = scores[79] = np.eye(40, dtype=np.float32)[38]
    np.savez(tmp_path / "d.npz", x=scores, labels=np.tile([*range(39), 38], 2))
    code, shown, _ = type_(tmp_path / "m.onnx", "--data", tmp_path / "d.npz")
    assert code == 0
    lines = shown.splitlines()
    at = next(i for i, line in enumerate(lines) if "5 worst classes" in line)
    assert [line.split()[0] for line in lines[at + 2 : at + 5]] == ["7", "10", "0"]
    assert any("39 classes occur; --json has all" in line for line in lines)
    assert "answer (columns)" not in shown
    assert "m.onnx: scores of NaN for 1 of 80 samples, which count as wrong" in lines


@pytest.fixture
def wrong(folder: Path, tmp_path: Path) -> Path:
    """Models and data that do not fit the digits'."""
    onnx.save(mlp(64), tmp_path / "flat.onnx")
    eleven = onnx.load(DIGITS)
    for name, axis in (("dense2.weight", 0), ("dense2.bias", 0)):
        tensor = next(t for t in eleven.graph.initializer if t.name == name)
        values = numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(np.concatenate([values, values[:1]], axis), name))
    eleven.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 11
    onnx.save(eleven, tmp_path / "eleven.onnx")
    eleven.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "classes"
    onnx.save(eleven, tmp_path / "undeclared.onnx")
    stored = dict(np.load(folder / "test.npz"))
    np.savez(tmp_path / "background.npz", input=stored["input"], labels=stored["labels"] + 1)
    (tmp_path / "text.onnx").write_text("no model at all")
    return tmp_path


@pytest.mark.parametrize(
    ("models", "data", "words"),
    [
        (("DIGITS", "flat.onnx"), "test.npz", ("flat.onnx", "given the data of", "input 'x'", "[n, 64]")),
        (("DIGITS", "eleven.onnx"), "test.npz", ("eleven.onnx", "['n', 11]", "['n', 10]", "same outputs")),
        (("DIGITS", "undeclared.onnx"), "test.npz", ("undeclared.onnx", "11", "10", "same outputs")),
        (("DIGITS",), "background.npz", ("background.npz", "label 10", "0 to 9")),
        (("DIGITS",), "images.npy", ("images.npy", "no labels", "second model")),
        (("DIGITS", "none.onnx"), "test.npz", ("none.onnx", "No such file")),
        (("none.onnx",), "test.npz", ("none.onnx", "No such file")),
        (("DIGITS", "text.onnx"), "test.npz", ("text.onnx", "not an ONNX model")),
        (("DIGITS",), "none.npz", ("none.npz", "no such file")),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    models: tuple[str, ...], data: str, words: tuple[str, ...], folder: Path, wrong: Path,
    type_: Callable[..., tuple[int, str, str]],
) -> None:  # fmt: skip
    paths = [DIGITS if name == "DIGITS" else wrong / name for name in models]
    code, shown, error = type_(*paths, "--data", (folder if (folder / data).exists() else wrong) / data)
    assert (code, shown) == (1, "")
    (line,) = error.splitlines()
    assert line.startswith("onnxopt: ")
    for word in words:
        assert word in line, (word, line)


def test_no_models_and_no_samples_are_said() -> None:
    with pytest.raises(OnnxoptError, match="no model"):
        evaluate([], [])
    with pytest.raises(OnnxoptError, match="no samples"):
        evaluate([DIGITS, DIGITS], [])


# ---- real data -----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(
    not (realdata.MODELS / "lenet5.onnx").is_file(), reason=f"no models in {realdata.MODELS}; ONNXOPT_DATA names them"
)
@pytest.mark.slow
def test_a_real_model_on_real_images(tmp_path: Path) -> None:
    path, task = realdata.MODELS / "lenet5.onnx", realdata.TASKS["lenet5"]
    onnxopt.optimize(path, tmp_path / "small.onnx", onnxopt.Contract(error=0.05))
    data = task.batches("test", 1000, labelled=True)
    found = evaluate([path, tmp_path / "small.onnx"], data)
    batches = list(data())
    images, labels = (np.concatenate(part) for part in zip(*batches, strict=True))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    scores = session.run(None, {session.get_inputs()[0].name: images})[0]
    first, second = found.models
    assert first.classification is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_against_sklearn(first.classification, scores, labels)
    assert second.deviation is not None
    assert second.deviation.agreement is not None
    assert second.deviation.agreement.low > 0.9
    assert 0.001 < second.deviation.noise < 0.3
