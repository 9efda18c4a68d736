"""Weights of large models, set aside in files: the same results, and nothing of it in what is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from builders import FLOAT, cnn, lstm, mlp
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import onnxopt
from onnxopt.data import session_options
from onnxopt.encoding import narrowed
from onnxopt.errors import OnnxoptError
from onnxopt.files import set_aside
from onnxopt.files.set_aside import Shelf, elements_of, is_set_aside, tensor_of, whole, with_elements
from onnxopt.graph import light_message, onnx_file, read
from onnxopt.graph.autodiff import Gradient, segments
from onnxopt.search import kept
from onnxopt.search.kept import Kept


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Sets aside the weights of small models, too; gives the folder of the cache."""
    monkeypatch.setattr(onnx_file, "_SET_ASIDE", 0)
    monkeypatch.setattr(set_aside, "LEAST", 4096)
    monkeypatch.setattr(light_message, "LEAST", 4096)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def model(kind: str) -> onnx.ModelProto:
    return {"mlp": mlp, "conv": cnn, "lstm": lstm}[kind]()


@pytest.mark.parametrize("external", [False, True], ids=["inside", "external"])
@pytest.mark.parametrize("kind", ["mlp", "conv", "lstm"])
@pytest.mark.parametrize("lossless", [False, True], ids=["quantized", "lossless"])
def test_a_file_is_the_same(
    kind: str, external: bool, lossless: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, always: Path
) -> None:
    source = tmp_path / "model.onnx"
    onnx.save(model(kind), source, save_as_external_data=external, location="weights", size_threshold=64)
    result = onnxopt.optimize(source, tmp_path / "aside.onnx", lossless=lossless)
    assert not list(always.glob("**/weights-*"))
    monkeypatch.setattr(onnx_file, "_SET_ASIDE", 1 << 40)
    plain = onnxopt.optimize(source, tmp_path / "plain.onnx", lossless=lossless)
    assert result.status == plain.status
    assert abs(result.bytes_after - plain.bytes_after) <= 0.01 * plain.bytes_after
    if lossless:
        assert (tmp_path / "aside.onnx").read_bytes() == (tmp_path / "plain.onnx").read_bytes()


def test_messages_are_light_and_elements_the_same(always: Path, tmp_path: Path) -> None:
    made = mlp(64)
    onnx.save(made, tmp_path / "model.onnx")
    source = read(tmp_path / "model.onnx", set_aside=True)
    wanted = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
    large = [tensor for tensor in source.model.graph.initializer if is_set_aside(tensor)]
    assert large
    assert source.model.ByteSize() < made.ByteSize() / 4
    for tensor in source.model.graph.initializer:
        assert np.array_equal(elements_of(tensor), wanted[tensor.name])
        assert np.array_equal(numpy_helper.to_array(whole(tensor)), wanted[tensor.name])
    source.rest()
    assert np.array_equal(elements_of(large[0]), wanted[large[0].name])
    assert onnx.load_model_from_string(with_elements(source.model).SerializeToString()) == made
    assert source.copy() == (tmp_path / "model.onnx").read_bytes()


def test_an_array_knows_its_place(always: Path) -> None:
    tensor = numpy_helper.from_array(np.arange(4096, dtype=np.float32).reshape(64, 64), "w")
    shelf = Shelf()
    shelf.take([tensor])
    array = elements_of(tensor)
    assert is_set_aside(tensor_of(array, "again"))
    assert is_set_aside(tensor_of(array[8:56], "part"))
    assert np.array_equal(elements_of(tensor_of(array[8:56], "part")), array[8:56])
    assert not is_set_aside(tensor_of(array.T, "turned"))
    assert not is_set_aside(tensor_of(array.copy(), "other"))


def test_a_full_disk_is_one_sentence(always: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    onnx.save(mlp(64), tmp_path / "model.onnx")
    monkeypatch.setattr(set_aside, "_File", full)
    with pytest.raises(OnnxoptError, match="cannot be set aside: No space left on device; XDG_CACHE_HOME"):
        onnxopt.optimize(tmp_path / "model.onnx", tmp_path / "small.onnx")
    assert not (tmp_path / "small.onnx").exists()


def test_a_file_cannot_name_what_is_set_aside(always: Path, tmp_path: Path) -> None:
    made = mlp(64)
    onnx.save(made, tmp_path / "other.onnx")
    source = read(tmp_path / "other.onnx", set_aside=True)
    evil = tmp_path / "evil.onnx"
    evil.write_bytes(source.model.SerializeToString())
    with pytest.raises(OnnxoptError, match="which is no file beside the model"):
        read(evil)


def test_gradients_in_parts_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    x = {"x": np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32)}
    names = [tensor.name for tensor in mlp(64).graph.initializer]
    wanted, signal = Gradient(mlp(64), names).weights(x, 1)
    monkeypatch.setattr(segments, "_AT_ONCE", 1024)
    parts: list[set[str]] = []
    found: dict[str, np.ndarray] = {}

    def each(part: dict[str, np.ndarray]) -> None:
        parts.append(set(part))
        found.update(part)

    assert Gradient(mlp(64), names).weights_in_parts(x, 1, each) == signal
    assert len(parts) > 1
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-6)


@given(st.lists(st.integers(-(2**31), 2**31 - 1)))
def test_integers_are_narrowed_to_what_holds_them(values: list[int]) -> None:
    q = np.array(values, np.int64)
    narrow = narrowed(q)
    assert np.array_equal(narrow, q)
    least = next(
        k for k in (np.int8, np.int16, np.int32) if all(np.iinfo(k).min <= v <= np.iinfo(k).max for v in values)
    )
    assert narrow.dtype == least


@pytest.mark.parametrize(("memory", "disk", "all_kept"), [(2**26, 2**32, True), (0, 2**32, True), (0, 10, False)])
def test_outputs_are_kept_where_there_is_room(
    memory: int, disk: int, all_kept: bool, monkeypatch: pytest.MonkeyPatch, always: Path
) -> None:
    monkeypatch.setattr(kept, "_IN_MEMORY", memory)
    monkeypatch.setattr(kept, "_ON_DISK", disk)
    batches = [[np.full((200, 200), i, np.float32), np.array(["a", "b"], object), {"map": i}] for i in range(3)]
    one = Kept()
    for batch in batches:
        one.add(batch)
    assert bool(one) == all_kept
    for _ in range(2):
        got = (
            list(one)
            if memory
            else [[array.copy() if isinstance(array, np.ndarray) else array for array in b] for b in one]
        )
        for found, wanted in zip(got, batches if all_kept else [], strict=True):
            assert np.array_equal(found[0], wanted[0])
            assert found[1:][1] == wanted[2]


def test_a_session_uses_the_weights_in_place(always: Path, tmp_path: Path) -> None:
    weight = np.random.default_rng(0).normal(size=(512, 512)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "g",
        [helper.make_tensor_value_info("x", FLOAT, ["n", 512])], [helper.make_tensor_value_info("y", FLOAT, None)],
        [numpy_helper.from_array(weight, "w")],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    shelf = Shelf()
    light = shelf.taken(made)
    assert light.ByteSize() < 1000
    assert light.graph.initializer[0].data_location == TensorProto.EXTERNAL
    session = onnxopt.data.quiet_session(light.SerializeToString())
    del shelf, light
    x = np.ones((3, 512), np.float32)
    np.testing.assert_allclose(session.run(None, {"x": x})[0], x @ weight, rtol=1e-4, atol=1e-4)
    assert isinstance(session, onnxruntime.InferenceSession)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("packs", [False, True])
def test_a_check_holds_a_table_of_words_once(dtype: type, packs: bool, tmp_path: Path) -> None:
    """The table is also the last layer, transposed; products in half precision are made in single precision."""
    table = np.random.default_rng(0).normal(size=(4096, 256)).astype(dtype)
    kind = helper.np_dtype_to_tensor_dtype(table.dtype)
    nodes = [helper.make_node("Gather", ["w", "ids"], ["x"]), helper.make_node("Transpose", ["w"], ["t"], perm=[1, 0]),
             helper.make_node("MatMul", ["x", "t"], ["y"])]  # fmt: skip
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])
    graph = helper.make_graph(nodes, "g", [ids], [helper.make_tensor_value_info("y", kind, None)],
                              [numpy_helper.from_array(table, "w")])  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    options = session_options(sparing=True, packs=packs)
    options.optimized_model_filepath = str(tmp_path / "held.onnx")
    onnxruntime.InferenceSession(tmp_path / "m.onnx", options)
    held = sum(numpy_helper.to_array(one).nbytes for one in onnx.load(tmp_path / "held.onnx").graph.initializer)
    assert (held < 1.1 * table.nbytes) == (not packs)
