"""Compressed models in ONNX Runtime give what the plain ones give, whatever the model looks like."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from compressing import compressed
from onnx import TensorProto, helper, numpy_helper

import onnxopt
from onnxopt import OnnxoptError, runtime
from onnxopt.errors import ContainerError

Feeds = dict[str, Any]
Array = np.ndarray[Any, Any]

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((64, 32)).astype(np.float32)
CPU = ["CPUExecutionProvider"]


def info(name: str, dtype: int, *dims: int | str | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, dims)


def build(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    **weights: Array,
) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "test", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def matmul(output_rows: int | str = "n") -> onnx.ModelProto:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    return build([node], [info("x", 1, "n", 64)], [info("y", 1, output_rows, 32)], w=WEIGHT)


def registered(data: bytes | str, **entries: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    for name, value in entries.items():
        options.add_session_config_entry(f"onnxopt.{name}", value)
    onnxopt.register(options)
    return onnxruntime.InferenceSession(data, options, providers=CPU)


def with_options(data: bytes) -> onnxruntime.InferenceSession:
    return onnxopt.load(data, onnxruntime.SessionOptions(), CPU)


def streamed(data: bytes) -> onnxruntime.InferenceSession:
    return registered(data, residence="streamed")


LOADERS: list[Callable[[bytes], onnxruntime.InferenceSession]] = [registered, onnxopt.load, with_options, streamed]


def rows(n: int, dtype: type = np.float32) -> Array:
    return RNG.standard_normal((n, 64)).astype(dtype)


def all_types() -> tuple[onnx.ModelProto, list[Feeds]]:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        *(
            helper.make_node("Cast", ["y"], [f"y{dtype}"], to=dtype)
            for dtype in (
                TensorProto.FLOAT16,
                TensorProto.BFLOAT16,
                TensorProto.DOUBLE,
                TensorProto.INT64,
                TensorProto.INT8,
                TensorProto.UINT8,
                TensorProto.BOOL,
                TensorProto.STRING,
            )
        ),
        helper.make_node("Identity", ["text"], ["same"]),
    ]
    outputs = [info(f"y{n.attribute[0].i}", n.attribute[0].i, "n", 32) for n in nodes if n.op_type == "Cast"]
    outputs = [o for o in outputs if o.type.tensor_type.elem_type != TensorProto.BFLOAT16]  # numpy has none
    outputs.append(info("same", TensorProto.STRING, "m"))
    model = build(nodes, [info("x", 1, "n", 64), info("text", TensorProto.STRING, "m")], outputs, w=WEIGHT)
    words = np.array(["", "one", "zwölf", "x" * 1000], object)
    return model, [{"x": rows(n), "text": words[:m]} for n, m in ((2, 4), (2, 4), (1, 1), (3, 0))]


def subgraphs() -> tuple[onnx.ModelProto, list[Feeds]]:
    inner = RNG.standard_normal((64, 32)).astype(np.float32)
    then = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["a"])], "then", [], [info("a", 1, "n", 32)])
    otherwise = helper.make_graph(
        [helper.make_node("MatMul", ["x", "v"], ["b"])],
        "else",
        [],
        [info("b", 1, "n", 32)],
        [numpy_helper.from_array(inner, "v")],
    )
    node = helper.make_node("If", ["which"], ["y"], then_branch=then, else_branch=otherwise)
    model = build([node], [info("which", TensorProto.BOOL), info("x", 1, "n", 64)], [info("y", 1, "n", 32)], w=WEIGHT)
    return model, [{"which": np.array(which), "x": rows(n)} for which, n in ((True, 2), (False, 2), (False, 5))]


def no_inputs() -> tuple[onnx.ModelProto, list[Feeds]]:
    return build([helper.make_node("Relu", ["w"], ["y"])], [], [info("y", 1, 64, 32)], w=WEIGHT), [{}, {}]


def data_dependent() -> tuple[onnx.ModelProto, list[Feeds]]:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("Relu", ["y"], ["z"]),
        helper.make_node("NonZero", ["z"], ["where"]),
        helper.make_node("ReduceSum", ["y"], ["scalar"], keepdims=0),
    ]
    outputs = [info("where", TensorProto.INT64, 2, None), info("scalar", 1)]
    model = build(nodes, [info("x", 1, "n", 64)], outputs, w=WEIGHT)
    return model, [{"x": rows(3)}, {"x": rows(3)}, {"x": np.zeros((3, 64), np.float32)}]


def wrong_declaration() -> tuple[onnx.ModelProto, list[Feeds]]:
    """The output is declared to have one row whatever comes in: the runtime warns and goes on."""
    return matmul(1), [{"x": rows(n)} for n in (1, 1, 3, 3, 1)]


def wrong_body() -> tuple[onnx.ModelProto, list[Feeds]]:
    """The body declares 32 columns, and the runtime infers the output's shape from them, but values decide."""
    body = helper.make_graph(
        [helper.make_node("Slice", ["h", "zero", "k", "one"], ["p"]), helper.make_node("Identity", ["go"], ["on"])],
        "body",
        [info("turn", TensorProto.INT64), info("go", TensorProto.BOOL)],
        [info("on", TensorProto.BOOL), info("p", 1, 1, 32)],
    )
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Loop", ["once", ""], ["pieces"], body=body),
        helper.make_node("ReduceMax", ["pieces"], ["y"], axes=[0], keepdims=0),
    ]
    zero, one = np.array([0]), np.array([1])
    inputs = [info("x", 1, 1, 64), info("k", TensorProto.INT64, 1)]
    model = build(nodes, inputs, [onnx.ValueInfoProto(name="y")], w=WEIGHT, zero=zero, one=one, once=np.array(1))
    return model, [{"x": rows(1), "k": np.array([k])} for k in (32, 32, 5, 32)]


def unused_optional_output() -> tuple[onnx.ModelProto, list[Feeds]]:
    node = helper.make_node("LSTM", ["x", "w", "r"], ["", "last"], hidden_size=8)
    weights = {"w": WEIGHT.reshape(1, 32, 64), "r": WEIGHT.T[:, :8].reshape(1, 32, 8)}
    model = build([node], [info("x", 1, "t", "n", 64)], [info("last", 1, 1, "n", 8)], **weights)
    return model, [{"x": rows(6).reshape(3, 2, 64)}, {"x": rows(6).reshape(2, 3, 64)}] * 2


def symbolic() -> tuple[onnx.ModelProto, list[Feeds]]:
    return matmul(), [{"x": rows(n)} for n in (3, 3, 5, 5, 3, 0, 0)]


def half() -> tuple[onnx.ModelProto, list[Feeds]]:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    model = build([node], [info("x", 10, 2, 64)], [info("y", 10, 2, 32)], w=WEIGHT.astype(np.float16))
    return model, [{"x": rows(2, np.float16)}] * 2


MODELS = [
    all_types,
    subgraphs,
    no_inputs,
    data_dependent,
    wrong_declaration,
    wrong_body,
    unused_optional_output,
    symbolic,
    half,
]


@pytest.mark.parametrize("loader", LOADERS, ids=["registered", "load", "load_with_options", "streamed"])
@pytest.mark.parametrize("case", MODELS, ids=lambda case: case.__name__)
def test_same_as_plain(
    case: Callable[[], tuple[onnx.ModelProto, list[Feeds]]],
    loader: Callable[[bytes], onnxruntime.InferenceSession],
) -> None:
    model, calls = case()
    plain = onnxruntime.InferenceSession(model.SerializeToString(), providers=CPU)
    session = loader(compressed(model))
    assert [(i.name, i.type, i.shape) for i in session.get_inputs()] == [
        (i.name, i.type, i.shape) for i in plain.get_inputs()
    ]
    assert [(o.name, o.type) for o in session.get_outputs()] == [(o.name, o.type) for o in plain.get_outputs()]
    for feeds in calls:
        for wanted, got in zip(plain.run(None, feeds), session.run(None, feeds), strict=True):
            assert wanted.dtype == got.dtype and wanted.shape == got.shape
            assert_same(got, wanted, loader)
    for one in plain.get_outputs():
        assert_same(session.run([one.name], feeds)[0], plain.run([one.name], feeds)[0], loader)


def assert_same(got: Array, wanted: Array, loader: Callable[[bytes], onnxruntime.InferenceSession]) -> None:
    if loader is not streamed:
        np.testing.assert_array_equal(got, wanted)
    elif got.dtype.kind == "f":  # nothing packs what is decoded in every run, so kernels add in another order
        np.testing.assert_allclose(got, wanted, rtol=1e-3 if got.dtype == np.float16 else 1e-4, atol=1e-4)


@pytest.mark.parametrize("loader", [registered, onnxopt.load], ids=["registered", "load"])
def test_sequences_stay_outside(loader: Callable[[bytes], onnxruntime.InferenceSession]) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("Relu", ["y"], ["z"]),
        helper.make_node("SequenceConstruct", ["y", "z"], ["both"]),
    ]
    outputs = [helper.make_tensor_sequence_value_info("both", TensorProto.FLOAT, None)]
    model = build(nodes, [info("x", 1, "n", 64)], outputs, w=WEIGHT)
    feeds = {"x": rows(3)}
    (wanted,) = onnxruntime.InferenceSession(model.SerializeToString(), providers=CPU).run(None, feeds)
    (got,) = loader(compressed(model)).run(None, feeds)
    np.testing.assert_array_equal(got, wanted)


def test_many_threads_and_sessions() -> None:
    data = compressed(matmul())
    sessions = [registered(data), registered(data), onnxopt.load(data)]
    failures = []

    def work(session: onnxruntime.InferenceSession, seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(50):
            x = rng.standard_normal((int(rng.integers(1, 5)), 64)).astype(np.float32)
            if not np.allclose(session.run(None, {"x": x})[0], x @ WEIGHT, atol=1e-4):
                failures.append(seed)

    threads = [threading.Thread(target=work, args=(sessions[i % 3], i)) for i in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_sessions_outlive_each_other_and_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(compressed(matmul()))
    first, second, third = registered(str(path)), registered(str(path)), onnxopt.load(path)
    path.unlink()
    del first
    x = rows(2)
    np.testing.assert_array_equal(second.run(None, {"x": x})[0], third.run(None, {"x": x})[0])


def test_options_are_left_as_they_are() -> None:
    data = compressed(matmul())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    for _ in range(2):
        assert onnxopt.load(data, options).run(None, {"x": rows(1)})[0].shape == (1, 32)
    onnxruntime.InferenceSession(matmul().SerializeToString(), options)


def test_registering_twice_does_no_harm() -> None:
    options = onnxruntime.SessionOptions()
    for _ in range(2):
        onnxopt.register(options)
        session = onnxruntime.InferenceSession(compressed(matmul()), options, providers=CPU)
    assert session.run(None, {"x": rows(2)})[0].shape == (2, 32)


def test_weights_that_are_gone_are_not_read_again() -> None:
    """ONNX Runtime would create a second session from the options of the first."""
    session = onnxopt.load(compressed(matmul()))
    session.disable_fallback()
    with pytest.raises(Exception, match="Release"):
        session.set_providers(CPU)


def test_failed_loads_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("on purpose")

    data = compressed(matmul())
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="on purpose"):
        patch.setattr(onnxruntime, "InferenceSession", fails)
        onnxopt.load(data)
    assert registered(data).run(None, {"x": rows(2)})[0].shape == (2, 32)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("onnxopt.prepared", "123456789")
    with pytest.raises(onnxopt.OnnxoptError, match="expected an id of onnxopt_prepare"):
        onnxopt.register(options)


def test_plain_models_load_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "plain.onnx"
    onnx.save(matmul(), path)
    x = rows(2)
    wanted = onnxopt.load(path).run(None, {"x": x})[0]
    np.testing.assert_array_equal(onnxopt.load(path.read_bytes(), providers=CPU).run(None, {"x": x})[0], wanted)
    np.testing.assert_array_equal(onnxopt.load(str(path)).run(None, {"x": x})[0], wanted)


def test_container_as_external_data(tmp_path: Path) -> None:
    """How containers over 2 GB are stored."""
    model = onnx.load_model_from_string(compressed(matmul()))
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="model.data", size_threshold=0)
    assert (tmp_path / "model.data").stat().st_size > 1000
    x = rows(2)
    np.testing.assert_array_equal(
        registered(str(path)).run(None, {"x": x})[0], onnxopt.load(path).run(None, {"x": x})[0]
    )


def test_optimized_model_is_whole(tmp_path: Path) -> None:
    """The container's pages are given back only after the runtime has written its own copy of the model."""
    model = build(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [info("x", 1, "n", 256)],
        [info("y", 1, "n", 256)],
        w=RNG.standard_normal((256, 256)).astype(np.float32),
    )
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxopt.register(options)
    session = onnxruntime.InferenceSession(compressed(model), options, providers=CPU)
    x = {"x": RNG.standard_normal((2, 256)).astype(np.float32)}
    wanted = session.run(None, x)[0]
    np.testing.assert_array_equal(registered(options.optimized_model_filepath).run(None, x)[0], wanted)


def test_settings() -> None:
    data = compressed(matmul())
    session = registered(
        data,
        intra_op_num_threads="1",
        inter_op_num_threads="1",
        graph_optimization_level="basic",
        keep_container="1",
    )
    assert session.run(None, {"x": rows(2)})[0].shape == (2, 32)
    wrong = {
        "intra_op_num_threads": "many",
        "inter_op_num_threads": "-1",
        "graph_optimization_level": "9",
        "keep_container": "yes",
    }
    for name, value in wrong.items():
        with pytest.raises(onnxopt.OnnxoptError, match=f"onnxopt.{name} is '{value}', expected"):
            registered(data, **{name: value})


def test_old_wheels_are_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "__version__", "1.22.1")
    with pytest.raises(onnxopt.OnnxoptError, match=r"onnxopt\.load\(path\), or onnxruntime 1\.23"):
        onnxopt.register(onnxruntime.SessionOptions())


def test_damage_is_reported() -> None:
    data = bytearray(compressed(matmul()))
    data[data.index(b"onnxopt\0") + 2000] ^= 1
    with pytest.raises(ContainerError, match="checksum"):
        onnxopt.load(bytes(data))
    with pytest.raises(Exception, match=r"onnxopt: .*checksum"):
        registered(bytes(data))


def test_missing_files_are_the_runtimes_business(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="nowhere"):
        onnxopt.load(tmp_path / "nowhere.onnx")


def test_what_does_not_run_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "good.onnx").write_bytes(compressed(matmul()))
    assert runtime.load_checked(tmp_path / "good.onnx").get_outputs()[0].name == "y"
    unknown = build([helper.make_node("Nonsense", ["x"], ["y"])], [info("x", 1, "n")], [info("y", 1, "n")])
    (tmp_path / "unknown.onnx").write_bytes(unknown.SerializeToString())
    for name in ("unknown.onnx", "none.onnx"):
        with pytest.raises(OnnxoptError, match=rf"{name}: does not run: .") as error:
            runtime.load_checked(tmp_path / name)
        assert "\n" not in str(error.value)
