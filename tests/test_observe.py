"""Where differences show: float outputs, or what labels, indices and selected rows were decided on."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from builders import weights
from differences import build, node, session
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console

import onnxopt
from onnxopt.build import observing
from onnxopt.data import quiet_session
from onnxopt.graph import expose, observe
from onnxopt.report.table import print_result

TENSORS = {"w": weights(32, 48, seed=1), "v": weights(48, 10, seed=2)}
SCORES = [
    node("MatMul", ["x", "w"], ["h"], "first"),
    node("Relu", ["h"], ["a"], "relu"),
    node("MatMul", ["a", "v"], ["s"], "second"),
]
K, ZERO, HIGH, ONE = np.array([3]), np.float32(0), np.float32(1e6), np.array([1])
NAMES = np.array(list("abcdefghij"), object)


def scored(ending: Sequence[onnx.NodeProto], outputs: Sequence[str] = ("y",), **tensors: Any) -> onnx.ModelProto:
    model = build([*SCORES, *ending], ["n", 32], {**TENSORS, **tensors}, outputs)
    model.opset_import.add(domain="ai.onnx.ml", version=3)
    return model


def branch(op: str) -> onnx.GraphProto:
    """Of selected rows, with a weight of its own."""
    nodes = [node("MatMul", ["r", f"{op}_w"], ["t"]), node(op, ["t"], [f"{op}_y"])]
    held = [numpy_helper.from_array(weights(10, 6), f"{op}_w")]
    return helper.make_graph(nodes, op, [], [onnx.ValueInfoProto(name=f"{op}_y")], held)


def zip_map() -> onnx.ModelProto:
    maps = node("ZipMap", ["p"], ["y"], "map", domain="ai.onnx.ml", classlabels_strings=list("abcdefghij"))
    return scored([node("Softmax", ["s"], ["p"], axis=1), maps])


FORMS = {
    "scores": (scored([], ["s"]), ("s",)),
    "argmax": (scored([node("ArgMax", ["s"], ["y"], axis=1)]), ("s",)),
    "indices": (scored([node("TopK", ["s", "k"], ["t", "y"], axis=1)], k=K), ("s",)),
    "mask": (scored([node("Greater", ["s", "zero"], ["y"])], zero=ZERO), ("s",)),
    "texts": (
        scored([node("ArgMax", ["s"], ["i"], axis=1, keepdims=0), node("Gather", ["names", "i"], ["y"])], names=NAMES),
        ("s",),
    ),
    "rounded": (scored([node("Cast", ["s"], ["y"], to=TensorProto.INT32)]), ("s",)),
    "map": (zip_map(), ("p",)),
    "sequence": (scored([node("SplitToSequence", ["s", "one"], ["y"], axis=1)], one=np.array(1)), ("s",)),
    "rows": (
        scored(
            [
                node("ReduceMax", ["s"], ["m"], axes=[1], keepdims=0),
                node("Greater", ["m", "high"], ["g"]),
                node("Compress", ["s", "g"], ["y"], axis=0),
            ],
            high=HIGH,
        ),
        ("m", "s"),
    ),
    "labels of weights": (
        build(
            [node("Shape", ["x"], ["d"]), node("Gather", ["w", "d"], ["s"]), node("ArgMax", ["s"], ["y"], axis=1)],
            [2, 4],
            {"w": TENSORS["w"]},
        ),
        ("s",),
    ),
    "with an echo": (scored([node("Identity", ["x"], ["y"])], ["y", "s"]), ("s",)),
    "rows through a branch": (
        scored(
            [
                node("ReduceMax", ["s"], ["m"], axes=[1], keepdims=0),
                node("Greater", ["m", "high"], ["g"]),
                node("Compress", ["s", "g"], ["r"], axis=0),
                node("If", ["yes"], ["y"], then_branch=branch("Softmax"), else_branch=branch("Sigmoid")),
            ],
            high=HIGH,
            yes=np.array(True),
        ),
        ("y", "m", "s"),
    ),
    "labels of selected rows": (
        scored(
            [
                node("ArgMax", ["s"], ["i"], axis=1, keepdims=0),
                node("Gather", ["table", "i"], ["t"]),
                node("ArgMax", ["t"], ["y"], axis=1),
            ],
            table=weights(10, 7),
        ),
        ("t", "s"),
    ),
    "boxes and scores": (
        scored(
            [
                node("Mul", ["s", "scale"], ["b"]),
                node("Sigmoid", ["s"], ["p"]),
                node("Transpose", ["p"], ["t"]),
                node("Transpose", ["b"], ["u"]),
                node("Concat", ["u", "t"], ["y"], axis=0),
            ],
            scale=np.float32(320),
        ),
        ("y", "u", "t"),
    ),
    "boxes of two sizes": (
        scored(
            [
                node("Mul", ["s", "scale"], ["a1"]),
                node("Mul", ["s", "scale"], ["a2"]),
                node("Concat", ["a1", "a2"], ["y"], axis=1),
            ],
            scale=np.float32(320),
        ),
        ("y",),
    ),
    "labels and scores": (scored([node("ArgMax", ["s"], ["y"], axis=1)], ["y", "s"]), ("s",)),
}
"""A model of each kind, and the values that its differences show in."""


@pytest.mark.parametrize(("model", "values"), FORMS.values(), ids=FORMS)
def test_what_is_observed(model: onnx.ModelProto, values: tuple[str, ...]) -> None:
    assert sorted(observe(model).values) == sorted(values)


@pytest.mark.parametrize(
    ("untyped", "domain"),
    [(node("GroupNormalization", ["h", "g", "g"], ["t"], num_groups=6), ""),
     (node("Gelu", ["h"], ["t"]), "com.microsoft")],
    ids=lambda one: one.op_type if isinstance(one, onnx.NodeProto) else "",
)  # fmt: skip
def test_the_runtime_types_what_inference_does_not(untyped: onnx.NodeProto, domain: str) -> None:
    untyped.domain = domain
    nodes = [SCORES[0], untyped, node("MatMul", ["t", "v"], ["y"])]
    model = build(nodes, ["n", 32], {**TENSORS, "g": np.ones(48, np.float32)}, opset=21)
    model.opset_import.add(domain="com.microsoft", version=1)
    assert not onnx.shape_inference.infer_shapes(model).graph.output[0].type.tensor_type.elem_type
    assert observe(model).values == ("y",)


def test_a_shift_is_ignored_only_where_nothing_but_an_argmax_reads_the_scores() -> None:
    argmax = node("ArgMax", ["s"], ["y"], axis=1)
    assert observe(scored([argmax])).classes == {"s": 1}
    assert observe(scored([argmax], ["y", "s"])).classes == {}
    assert observe(scored([argmax, node("Sigmoid", ["s"], ["p"])], ["y", "p"])).classes == {}


def test_weights_behind_a_selection_are_seen_in_its_rows() -> None:
    selected = [
        node("ReduceMax", ["s"], ["m"], axes=[1], keepdims=0),
        node("Greater", ["m", "zero"], ["g"]),
        node("Compress", ["s", "g"], ["r"], axis=0),
    ]
    found = observe(scored([*selected, node("MatMul", ["r", "u"], ["y"])], zero=ZERO, u=weights(10, 10)))
    assert set(found.values) == {"y", "m", "s"}
    assert found.selected == {"y"}


def same_share(wanted: Any, got: Any) -> float:
    if isinstance(wanted, list) and wanted and isinstance(wanted[0], dict):
        wanted, got = ([max(one, key=one.__getitem__) for one in value] for value in (wanted, got))
    elif isinstance(wanted, list):
        wanted, got = (np.concatenate(value, 1).argmax(1) for value in (wanted, got))
    return float(np.mean(np.asarray(wanted) == np.asarray(got)))


@pytest.mark.parametrize(
    ("kind", "given"), [("argmax", True), ("mask", False), ("texts", False), ("rounded", True), ("map", False),
                        ("sequence", False)]
)  # fmt: skip
def test_answers_survive(kind: str, given: bool, tmp_path: Path) -> None:
    """Labels hardly change on inputs that the search has not seen, and the result says how many did."""
    source, output = tmp_path / "m.onnx", tmp_path / "o.onnx"
    onnx.save(FORMS[kind][0], source)
    draw = np.random.default_rng(0).standard_normal
    data = [draw((16, 32)).astype(np.float32) for _ in range(6)] if given else None
    result = onnxopt.optimize(source, output, data=data)
    assert result.bytes_after < result.bytes_before / 2
    x = {"x": draw((400, 32)).astype(np.float32)}
    wanted, got = (s.run(["y"], x)[0] for s in (quiet_session(str(source)), onnxopt.load(output)))
    assert same_share(wanted, got) > 0.9
    assert result.check is not None
    if kind != "sequence":
        assert result.check.found.agreement is not None
        assert result.check.found.agreement > 0.9
    assert result.kept is not None
    assert 0 < (result.kept.error or 0) <= 0.05


def test_rows_that_no_sample_fills_are_not_taken_for_the_same(tmp_path: Path) -> None:
    source, output = tmp_path / "m.onnx", tmp_path / "o.onnx"
    onnx.save(FORMS["rows"][0], source)
    result = onnxopt.optimize(source, output)
    assert result.check is not None
    assert (result.check.found.error, result.check.found.agreement) == (None, None)
    assert not result.check.found.measured
    assert result.kept is not None
    assert 0 < (result.kept.error or 0) <= 0.02, "the search measures the scores before the selection"


def test_another_number_of_rows_is_said(tmp_path: Path) -> None:
    """Rows whose largest score is near the threshold appear and vanish; what else is measured stays near 0."""
    source, output = tmp_path / "m.onnx", tmp_path / "o.onnx"
    largest = [node("ReduceMax", ["s"], ["m"], axes=[1], keepdims=0), node("Greater", ["m", "high"], ["g"])]
    onnx.save(scored([*largest, node("Compress", ["s", "g"], ["y"], axis=0)], high=np.float32(1)), source)
    draw = np.random.default_rng(0).standard_normal
    data = [draw((64, 32)).astype(np.float32) for _ in range(8)]
    result = onnxopt.optimize(source, output, data=data, evaluation=data, contract=onnxopt.Contract(error=0.1))
    sessions = quiet_session(str(source)), onnxopt.load(output)
    alike = [len({len(session.run(["y"], {"x": x})[0]) for session in sessions}) == 1 for x in data]
    assert result.check is not None
    assert result.check.found.rows is not None
    assert result.check.found.rows < 1
    assert not all(alike)
    console = Console(width=120, file=io.StringIO())
    print_result(console, result)
    assert "as many rows in" in console.file.getvalue()  # type: ignore[attr-defined]


def test_labels_of_a_model_that_cannot_get_smaller(tmp_path: Path) -> None:
    """Trials are then copies of the source, whose hidden values are compared all the same."""
    small = build([node("MatMul", ["x", "w"], ["s"]), node("ArgMax", ["s"], ["y"], axis=1)], ["n", 4],
                  {"w": weights(4, 4)}, ("y",))  # fmt: skip
    onnx.save(small, tmp_path / "m.onnx")
    result = onnxopt.optimize(tmp_path / "m.onnx", tmp_path / "o.onnx")
    assert result.unchanged
    assert [trial.error for trial in result.trials] == [0.0] * len(result.trials)


def test_a_runtime_that_fails_where_values_are_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It fuses other nodes then, and ONNX Runtime 1.32 fails in a fused Gemm: what is left are the outputs."""

    def exposed(model: onnx.ModelProto, values: Sequence[str]) -> bytes:
        if len(values) > len(model.graph.output):
            raise RuntimeError("fused Gemm")
        return model.SerializeToString()

    monkeypatch.setattr(observing, "expose", exposed)
    onnx.save(FORMS["argmax"][0], tmp_path / "m.onnx")
    result = onnxopt.optimize(tmp_path / "m.onnx", tmp_path / "o.onnx")
    assert not result.unchanged
    assert result.check is not None
    assert (result.check.found.agreement or 0) > 0.9


def test_a_constant_may_be_there_twice(tmp_path: Path) -> None:
    made = zip_map()
    made.graph.initializer.append(made.graph.initializer[0])
    onnx.save(made, tmp_path / "m.onnx")
    assert not onnxopt.optimize(tmp_path / "m.onnx", tmp_path / "o.onnx").unchanged


def test_types_that_onnx_does_not_know(tmp_path: Path) -> None:
    """ONNX's own inference ends the process at an EyeLike of a value whose type it does not know."""
    nodes = [
        node("Gelu", ["x"], ["g"], domain="com.microsoft"),
        node("EyeLike", ["g"], ["e"], dtype=1),
        node("Gemm", ["x", "w", "e"], ["y"]),
    ]
    onnx.save(build(nodes, [48, 48], {"w": weights(48, 48)}, ("y",)), tmp_path / "m.onnx")
    result = onnxopt.optimize(tmp_path / "m.onnx", tmp_path / "o.onnx")
    assert not result.unchanged
    assert result.kept is not None
    assert 0 < (result.kept.error or 0) <= 0.02


def opaque() -> onnx.ModelProto:
    """A Loop that returns labels only: no number that they follow from can be observed."""
    body = helper.make_graph(
        [
            *SCORES,
            node("ArgMax", ["s"], ["c"], axis=1, keepdims=0),
            node("Identity", ["go"], ["on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, []), onnx.ValueInfoProto(name="c")],
    )
    loop = helper.make_node("Loop", ["count", "yes"], ["y"], body=body)
    return build([loop], ["n", 32], {**TENSORS, "count": np.array(1), "yes": np.array(True)})


def test_what_cannot_be_measured_is_quantized_gently_and_said(tmp_path: Path) -> None:
    source, output = tmp_path / "m.onnx", tmp_path / "o.onnx"
    onnx.save(opaque(), source)
    result = onnxopt.optimize(source, output)
    assert "not measured" in result.not_calibrated
    assert result.check is not None
    assert result.check.found.error is None
    assert (result.check.found.agreement or 0) > 0.95
    x = {"x": np.random.default_rng(0).standard_normal((400, 32)).astype(np.float32)}
    wanted, got = (s.run(["y"], x)[0] for s in (quiet_session(str(source)), onnxopt.load(output)))
    assert np.mean(wanted == got) > 0.9


def test_a_value_common_to_all_outputs_of_a_sample_is_kept(tmp_path: Path) -> None:
    """The value branch of a dueling network shifts all actions alike: it may not be quantized away."""
    duel = [
        node("MatMul", ["x", "w"], ["h"]),
        node("Relu", ["h"], ["a"]),
        node("MatMul", ["a", "v"], ["advantage"]),
        node("ReduceMean", ["advantage"], ["m"], axes=[1]),
        node("Sub", ["advantage", "m"], ["centred"]),
        node("MatMul", ["x", "w2"], ["h2"]),
        node("Relu", ["h2"], ["a2"]),
        node("MatMul", ["a2", "u"], ["value"]),
        node("Add", ["centred", "value"], ["y"]),
    ]
    tensors = {**TENSORS, "w2": weights(32, 48, seed=3), "u": weights(48, 1, seed=4)}
    source, output = tmp_path / "m.onnx", tmp_path / "o.onnx"
    onnx.save(build(duel, ["n", 32], tensors), source)
    onnxopt.optimize(source, output)
    x = {"x": np.random.default_rng(9).standard_normal((400, 32)).astype(np.float32)}
    wanted, got = (s.run(None, x)[0] for s in (session(onnx.load(source)), onnxopt.load(output)))
    assert np.linalg.norm(got - wanted) < 0.04 * np.linalg.norm(wanted)


@pytest.mark.parametrize("ending", ["Sqrt", "Log"])
def test_outputs_that_are_not_always_finite_still_count(ending: str, tmp_path: Path) -> None:
    source, output = tmp_path / "m.onnx", tmp_path / "o.onnx"
    onnx.save(scored([node("Relu", ["s"], ["r"]), node(ending, ["r" if ending == "Log" else "s"], ["y"])]), source)
    onnxopt.optimize(source, output)
    x = {"x": np.random.default_rng(9).standard_normal((400, 32)).astype(np.float32)}
    wanted, got = (s.run(None, x)[0] for s in (quiet_session(str(source)), onnxopt.load(output)))
    finite = np.isfinite(wanted) & np.isfinite(got)
    assert np.mean(np.isfinite(wanted) == np.isfinite(got)) > 0.97
    assert np.linalg.norm(got[finite] - wanted[finite]) < 0.15 * np.linalg.norm(wanted[finite])


def test_a_mask_of_minus_infinity_hides_nothing(tmp_path: Path) -> None:
    mask = np.array([0] * 9 + [-np.inf], np.float32)
    source, output = tmp_path / "m.onnx", tmp_path / "o.onnx"
    onnx.save(scored([node("Add", ["s", "mask"], ["y"])], mask=mask), source)
    result = onnxopt.optimize(source, output)
    assert result.check is not None
    assert 0 < (result.check.found.error or 0) <= 0.02


@pytest.mark.parametrize(
    ("model", "value", "kinds"),
    [
        (scored([], ["s"]), "a", ["MatMul", "Relu"]),
        (scored([], ["s"]), "s", ["MatMul", "Relu", "MatMul"]),
        (FORMS["rows through a branch"][0], "m", ["MatMul", "Relu", "MatMul", "ReduceMax"]),
        (
            FORMS["rows through a branch"][0],
            "y",
            ["MatMul", "Relu", "MatMul", "ReduceMax", "Greater", "Compress", "If"],
        ),
    ],
)
def test_an_exposed_value_takes_no_node_that_it_does_not_need(
    model: onnx.ModelProto, value: str, kinds: Sequence[str]
) -> None:
    before = model.SerializeToString()
    found = onnx.load_model_from_string(expose(model, [value]))
    assert [one.op_type for one in found.graph.node] == kinds
    assert found.graph.initializer == model.graph.initializer
    feeds = {"x": weights(4, 32, seed=3)}
    whole = onnx.load_model_from_string(before)
    whole.graph.output.add(name=value)
    assert np.array_equal(session(found).run([value], feeds)[0], session(whole).run([value], feeds)[0])
    assert model.SerializeToString() == before
