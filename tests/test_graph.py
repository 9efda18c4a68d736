"""Models of every kind: normalised, cleaned, split at the border, compressed and decompressed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from builders import ALL, cnn, mlp, model, weights, zipmap
from onnx import helper

from onnxopt import Contract, OnnxoptError, decompress, load, optimize, verify
from onnxopt.data import quiet_session, runnable_feeds
from onnxopt.graph import normalise, read, split
from onnxopt.graph.cleanup import clean
from onnxopt.spec.overrides import Overrides


def outputs(source: onnx.ModelProto | Path) -> list[object]:
    session = quiet_session(str(source) if isinstance(source, Path) else source.SerializeToString())
    return [session.run(None, feeds) for feeds in runnable_feeds(session, 2)]


def same(a: object, b: object) -> bool:
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    return bool(np.array_equal(a, b)) if isinstance(a, np.ndarray) else a == b


@pytest.mark.parametrize("name", ALL)
def test_normal_form_computes_the_same(name: str) -> None:
    before, after = ALL[name](), ALL[name]()
    normalise(after)
    assert same(outputs(before), outputs(after))
    for graph in [after.graph]:
        assert not {t.name for t in graph.initializer} & {value.name for value in graph.input}


@pytest.mark.parametrize("name", ALL)
def test_lossless_compression_changes_no_bit(name: str, tmp_path: Path) -> None:
    source, small = tmp_path / "m.onnx", tmp_path / "small.onnx"
    onnx.save(ALL[name](), source)
    optimize(source, small, lossless=True)
    assert small.stat().st_size <= source.stat().st_size
    reference, session = quiet_session(str(source)), load(small)
    for feeds in runnable_feeds(reference, 2):
        assert same(reference.run(None, feeds), session.run(None, feeds))


@pytest.mark.parametrize("name", ALL)
def test_the_plain_model_is_the_compressed_one(name: str, tmp_path: Path) -> None:
    source, small, plain = tmp_path / "m.onnx", tmp_path / "small.onnx", tmp_path / "plain.onnx"
    onnx.save(ALL[name](), source)
    result = optimize(source, small, Contract(error=0.05))
    if result.unchanged:
        pytest.skip("too small to gain: the output is a copy")
    assert result.check
    assert result.check.found.error <= 0.05
    decompress(small, plain)
    onnx.checker.check_model(str(plain))
    reference, session = quiet_session(str(plain)), load(small)
    for feeds in runnable_feeds(reference, 2):
        assert same(reference.run(None, feeds), session.run(None, feeds))


def test_batch_norm_folds_into_the_convolution() -> None:
    before = cnn(norm=True)
    after = cnn(norm=True)
    normalise(after)
    after, removed, _ = clean(after)
    assert removed["fold_batchnorm"] == 1
    assert "BatchNormalization" not in {node.op_type for node in after.graph.node}
    for wanted, got in zip(outputs(before), outputs(after), strict=True):
        np.testing.assert_allclose(got[0], wanted[0], rtol=1e-4, atol=1e-4)


def test_batch_norm_with_shared_weights_stays() -> None:
    shared = cnn(norm=True)
    shared.graph.node.append(helper.make_node("Conv", ["x", "w1"], ["other"], "twin", pads=[1, 1, 1, 1]))
    shared.graph.output.append(helper.make_tensor_value_info("other", onnx.TensorProto.FLOAT, ["n", 16, 16, 16]))
    normalise(shared)
    after, removed, _ = clean(shared)
    assert removed["fold_batchnorm"] == 0
    for wanted, got in zip(outputs(shared)[0], outputs(after)[0], strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


def _normed(op: str, inputs: list[str], tensors: dict[str, np.ndarray], **attributes: object) -> onnx.ModelProto:
    """x[4, 32] -> a node -> BatchNormalization -> Relu -> y."""
    nodes = [
        helper.make_node(op, inputs, ["h"], **attributes),
        helper.make_node("BatchNormalization", ["h", "g", "b", "m", "v"], ["n"], epsilon=1e-3),
        helper.make_node("Relu", ["n"], ["y"]),
    ]
    tensors |= {name: weights(32, seed=seed) for seed, name in enumerate("gbm")}
    return model(nodes, tensors | {"v": np.abs(weights(32, seed=3)) + np.float32(0.1)}, {"x": [4, 32]}, {"y": [4, 32]})


@pytest.mark.parametrize("shape", [(), (1,), (32,), (1, 32), (4, 1), (4, 32)])
@pytest.mark.parametrize("transposed", [0, 1])
def test_batch_norm_folds_into_gemm(shape: tuple[int, ...], transposed: int) -> None:
    tensors = {"w": weights(32, 32, seed=5), "c": weights(*shape, seed=6)}
    before = _normed("Gemm", ["x", "w", "c"], tensors, transB=transposed, alpha=0.5, beta=3.0)
    after, removed, _ = clean(before)
    assert removed["fold_batchnorm"] == (shape[:1] != (4,))
    np.testing.assert_allclose(outputs(after)[0][0], outputs(before)[0][0], rtol=1e-4, atol=1e-4)


def test_batch_norm_that_stays_has_two_vectors(tmp_path: Path) -> None:
    before = _normed("Add", ["x", "x"], {})
    before.graph.node.extend((
        helper.make_node("Abs", ["y"], ["z"]),
        helper.make_node("BatchNormalization", ["z", "g2", "b2", "m2", "v2"], ["last"], epsilon=1e-3),
    ))  # fmt: skip
    before.graph.output[0].name = "last"
    for seed, name in enumerate("gbmv"):
        before.graph.initializer.append(onnx.numpy_helper.from_array(abs(weights(32, seed=seed + 7)), f"{name}2"))
    after, changed, _ = clean(before)
    assert changed["reduce_batchnorm"] == 2
    assert len(after.graph.initializer) == 2 * 2 + 2
    np.testing.assert_allclose(outputs(after)[0][0], outputs(before)[0][0], rtol=1e-5, atol=1e-5)
    onnx.save(before, tmp_path / "m.onnx")
    assert set(optimize(tmp_path / "m.onnx", tmp_path / "small.onnx").plan.steps) == {"g@bn", "b@bn", "g2@bn", "b2@bn"}


def test_batch_norms_that_share_vectors_stay() -> None:
    before = _normed("Add", ["x", "x"], {})
    before.graph.node.append(helper.make_node("BatchNormalization", ["y", "g", "b", "m", "v"], ["last"]))
    before.graph.output[0].name = "last"
    after, changed, _ = clean(before)
    assert not any(changed.values())
    assert same(outputs(before), outputs(after))


def test_a_constant_behind_transpose_is_a_weight(tmp_path: Path) -> None:
    source = tmp_path / "m.onnx"
    onnx.save(ALL["constant_nodes"](), source)
    result = optimize(source, tmp_path / "small.onnx", Contract(error=0.05))
    assert result.cleaned["fold_shapes"] == 1
    assert result.plan.steps


def test_maps_at_the_border_stay_outside(tmp_path: Path) -> None:
    wanted = zipmap()
    normalise(wanted)
    inner, outside, _ = split(wanted)
    assert [node.op_type for node in outside] == ["ZipMap"]
    assert [value.name for value in inner.graph.output] == ["scores"]


@pytest.mark.parametrize("dead", [False, True])
def test_small_biases_are_quantized_and_dead_ones_stay(dead: bool, tmp_path: Path) -> None:
    source, small = tmp_path / "m.onnx", tmp_path / "small.onnx"
    wanted = cnn()
    if dead:
        wanted.graph.initializer[1].raw_data = bytes(4 * 16)
    onnx.save(wanted, source)
    rules = Overrides.parse('[[rule]]\nmatch = "w1"\nskip = true')  # else the bias takes up w1's error
    result = optimize(source, small, overrides=rules)
    assert ("b1" in {event.path for event in result.events}) is not dead
    assert verify(small).identical_outputs


def test_pads_that_are_computed_from_constants_are_constants() -> None:
    """What PyTorch's exporter makes of F.pad, and a shape too large to fill in now."""
    zero = onnx.numpy_helper.from_array(np.zeros(1, np.int64))
    nodes = [
        helper.make_node("ConstantOfShape", ["two"], ["zeros"], value=zero),
        helper.make_node("Concat", ["amounts", "zeros"], ["all"], axis=0),
        helper.make_node("Reshape", ["all", "pairs"], ["rows"]),
        helper.make_node("Slice", ["rows", "last", "first", "zero", "back"], ["turned"]),
        helper.make_node("Transpose", ["turned"], ["columns"], perm=[1, 0]),
        helper.make_node("Reshape", ["columns", "flat"], ["pads64"]),
        helper.make_node("Cast", ["pads64"], ["pads"], to=onnx.TensorProto.INT64),
        helper.make_node("Pad", ["x", "pads"], ["padded"]),
        helper.make_node("ConstantOfShape", ["large"], ["field"]),
        helper.make_node("Add", ["padded", "field"], ["y"]),
    ]  # fmt: skip
    integers = {"two": [2], "amounts": [1, 2], "pairs": [-1, 2], "last": [-1], "first": [-(2**63) + 1], "zero": [0],
                "back": [-1], "flat": [-1], "large": [70, 69]}  # fmt: skip
    tensors = {name: np.array(values, np.int64) for name, values in integers.items()}
    before = model(nodes, tensors, {"x": [70, 66]}, {"y": [70, 69]})
    after, removed, _ = clean(before)
    assert removed["fold_shapes"] == 7
    assert [node.op_type for node in after.graph.node] == ["Pad", "ConstantOfShape", "Add"]
    assert same(outputs(before), outputs(after))


def test_weights_in_branches_are_stored(tmp_path: Path) -> None:
    source, small = tmp_path / "m.onnx", tmp_path / "small.onnx"
    onnx.save(ALL["branches"](), source)
    result = optimize(source, small, Contract(error=0.05))
    assert len(result.plan.steps) == 2


def test_metadata_and_interface_are_kept(tmp_path: Path) -> None:
    wanted = mlp()
    wanted.producer_name, wanted.model_version, wanted.doc_string = "someone", 7, "what it does"
    wanted.metadata_props.add(key="author", value="me")
    source, small = tmp_path / "m.onnx", tmp_path / "small.onnx"
    onnx.save(wanted, source)
    optimize(source, small)
    got = read(small).model
    for field in ("producer_name", "model_version", "doc_string", "metadata_props"):
        assert getattr(got, field) == getattr(wanted, field), field
    assert list(got.graph.input) == list(wanted.graph.input)
    assert list(got.graph.output) == list(wanted.graph.output)


def test_external_data_is_read_and_counted(tmp_path: Path) -> None:
    source, small = tmp_path / "m.onnx", tmp_path / "small.onnx"
    onnx.save(mlp(128), source, save_as_external_data=True, location="m.data", size_threshold=0)
    result = optimize(source, small)
    assert result.bytes_before == source.stat().st_size + (tmp_path / "m.data").stat().st_size
    (tmp_path / "m.data").unlink()
    with pytest.raises(OnnxoptError, match="cannot be read"):
        optimize(source, small)


def test_a_model_that_cannot_shrink_is_copied(tmp_path: Path) -> None:
    source, small = tmp_path / "m.onnx", tmp_path / "small.onnx"
    onnx.save(model([helper.make_node("Relu", ["x"], ["y"])], {}, {"x": ["n"]}, {"y": ["n"]}), source)
    assert optimize(source, small).unchanged
    assert small.read_bytes() == source.read_bytes()


def test_a_copy_takes_its_external_data_along(tmp_path: Path) -> None:
    source, elsewhere = tmp_path / "m.onnx", tmp_path / "elsewhere"
    noise = np.frombuffer(np.random.default_rng(0).bytes(16), np.float32).reshape(2, 2)  # far too small to shrink
    tiny = model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": noise}, {"x": [1, 2]}, {"y": [1, 2]})
    onnx.save(tiny, source, save_as_external_data=True, location="m.data", size_threshold=0)
    elsewhere.mkdir()
    result = optimize(source, elsewhere / "small.onnx")
    assert result.unchanged
    assert result.bytes_after <= result.bytes_before
    (tensor,) = onnx.load(elsewhere / "small.onnx", load_external_data=False).graph.initializer
    assert onnx.numpy_helper.to_array(tensor).tobytes() == noise.tobytes()


def test_strange_nodes_do_not_refuse_a_model(tmp_path: Path) -> None:
    """A domain that nobody here knows: nothing runs, but the weights still get small."""
    nodes = [helper.make_node("Strange", ["x", "w"], ["h"], domain="com.example", s=b"\xff\xfe")]
    nodes.append(helper.make_node("MatMul", ["h", "v"], ["y"]))
    strange = model(nodes, {"w": weights(40, 40), "v": weights(40, 40)}, {"x": [1, 40]}, {"y": [1, 40]})
    strange.opset_import.add(domain="com.example", version=1)
    source, small = tmp_path / "m.onnx", tmp_path / "small.onnx"
    onnx.save(strange, source)
    with pytest.raises(OnnxoptError, match=r"com\.example|Strange"):
        optimize(source, small)
    assert not small.exists()


def test_float16_models_stay_float16(tmp_path: Path) -> None:
    half = onnx.ModelProto()
    half.CopyFrom(mlp())
    for tensor in half.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    for value in (*half.graph.input, *half.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    source, small = tmp_path / "m.onnx", tmp_path / "small.onnx"
    onnx.save(half, source)
    result = optimize(source, small, Contract(error=0.05))
    assert not result.unchanged
    assert load(small).get_outputs()[0].type == "tensor(float16)"
    assert onnxruntime.InferenceSession(decompress(small).SerializeToString()).get_inputs()[0].type == "tensor(float16)"


def test_a_container_too_large_for_protobuf_lies_beside_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxopt.build.built.LARGEST_INSIDE", 1000)
    source, small, plain = tmp_path / "m.onnx", tmp_path / "small.onnx", tmp_path / "plain.onnx"
    onnx.save(mlp(128), source)
    result = optimize(source, small)
    assert {file.name for file in tmp_path.iterdir()} == {"m.onnx", "small.onnx", "small.onnx.data"}
    assert result.bytes_after == sum((tmp_path / name).stat().st_size for name in ("small.onnx", "small.onnx.data"))
    assert verify(small).identical_outputs
    decompress(small, plain)
    reference, session = quiet_session(str(plain)), load(small)
    for feeds in runnable_feeds(reference, 2):
        assert same(reference.run(None, feeds), session.run(None, feeds))
