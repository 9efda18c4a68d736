"""Weights that stay compressed in memory, and are decoded just before they are used."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import psutil
import pytest
from c_runtime import CRuntime
from commanding import refused, run
from compressing import compressed
from onnx import helper, numpy_helper

import onnxopt
from common.kept import fresh
from onnxopt.measure import memory

RNG = np.random.default_rng(0)
CPU = ["CPUExecutionProvider"]
LAYERS, WIDTH = 8, 512
"""A megabyte each."""


def chain(layers: int = LAYERS, width: int = WIDTH) -> onnx.ModelProto:
    """One layer after the other."""
    nodes, weights, value = [], [], "x"
    for i in range(layers):
        weight = np.eye(width, dtype=np.float32) + 0.01 * RNG.standard_normal((width, width)).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"w{i}"))
        nodes.append(helper.make_node("MatMul", [value, f"w{i}"], ["y" if i == layers - 1 else f"y{i}"]))
        value = nodes[-1].output[0]
    shape = [1, width]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", 1, shape)],
        [helper.make_tensor_value_info(value, 1, shape)],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def session(data: bytes | str, residence: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("onnxopt.residence", residence)
    return onnxopt.load(data, options, CPU)


@pytest.mark.parametrize("residence", ["streamed", "streamed:3MiB", "streamed:100", "streamed:1024KiB"])
def test_outputs_are_the_same(residence: str) -> None:
    model = chain()
    plain = onnxruntime.InferenceSession(model.SerializeToString(), providers=CPU)
    streamed = session(compressed(model), residence)
    for _ in range(3):
        x = RNG.standard_normal((1, WIDTH)).astype(np.float32)
        np.testing.assert_allclose(streamed.run(None, {"x": x})[0], plain.run(None, {"x": x})[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_weights_are_the_same(dtype: type) -> None:
    weight: np.ndarray[Any, Any] = RNG.standard_normal((64, 64)).astype(dtype)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes = [
        helper.make_node("Add", ["x", "w"], ["y"]),
        helper.make_node("Mul", ["w", "x"], ["z"]),  # a second use
        helper.make_node("Transpose", ["w"], ["t"]),  # no value to wait for: this weight is not streamed for it alone
        helper.make_node("Sub", ["x", "t"], ["u"]),
    ]
    value = helper.make_tensor_value_info
    outputs = [value(name, kind, [64, 64]) for name in "yzu"]
    graph = helper.make_graph(
        nodes, "two uses", [value("x", kind, [64, 64])], outputs, [numpy_helper.from_array(weight, "w")]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    x: np.ndarray[Any, Any] = RNG.standard_normal((64, 64)).astype(dtype)
    for got, wanted in zip(
        session(compressed(model), "streamed").run(None, {"x": x}), (x + weight, x * weight, x - weight.T), strict=True
    ):
        np.testing.assert_array_equal(got, wanted)


def test_runs_side_by_side() -> None:
    model = chain(3)
    streamed = session(compressed(model), "streamed")
    x = RNG.standard_normal((1, WIDTH)).astype(np.float32)
    (wanted,) = streamed.run(None, {"x": x})
    with ThreadPoolExecutor(4) as pool:
        for (got,) in pool.map(lambda _: streamed.run(None, {"x": x}), range(12)):
            np.testing.assert_array_equal(got, wanted)


def test_damage_is_seen_when_it_is_decoded() -> None:
    data = bytearray(compressed(chain(1)))
    data[data.index(b"onnxopt\0") + 500_000] ^= 1
    streamed = session(bytes(data), "streamed")
    with pytest.raises(Exception, match=r"onnxopt: entry 'w0': checksum mismatch"):
        streamed.run(None, {"x": np.zeros((1, WIDTH), np.float32)})


def test_in_c(tmp_path: Path) -> None:
    library = next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so*"), None)
    if library is None:
        pytest.skip("this onnxruntime has no C library of its own")
    (tmp_path / "small.onnx").write_bytes(compressed(chain(2)))
    c = CRuntime(library)
    x = RNG.standard_normal((1, WIDTH)).astype(np.float32)
    wanted = session((tmp_path / "small.onnx").read_bytes(), "streamed").run(None, {"x": x})[0]
    options = c.options({"onnxopt.residence": "streamed"})
    np.testing.assert_array_equal(c.run(c.onnxopt_session(tmp_path / "small.onnx", options), x, WIDTH), wanted)


@pytest.mark.parametrize("wrong", ["stream", "streamed:", "streamed:1GB", "streamed:-1", "streamed: 1", "streamedMiB"])
def test_what_it_may_be(wrong: str) -> None:
    with pytest.raises(Exception, match=f"onnxopt.residence is '{wrong}', expected loaded, streamed or"):
        session(compressed(chain(1, 64)), wrong)


def test_it_needs_the_cpu() -> None:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("onnxopt.residence", "streamed")
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    with pytest.raises(onnxopt.OnnxoptError, match="decodes on the CPU"):
        onnxopt.register(options)


@pytest.mark.slow
def test_in_memory_is_what_is_compressed_and_one_weight(tmp_path: Path) -> None:
    """12 layers of 1 MiB, of which each is 32 kB in the file."""
    model = chain(12)
    for tensor in model.graph.initializer:
        signs = np.where(RNG.random((WIDTH, WIDTH)) < 0.5, np.float32(0.04), np.float32(-0.04))
        tensor.CopyFrom(numpy_helper.from_array(signs, tensor.name))
    (tmp_path / "small.onnx").write_bytes(compressed(model))
    grown = {residence: fresh(memory_of, tmp_path / "small.onnx", residence) for residence in ("loaded", "streamed")}
    assert grown["loaded"] > 12 << 20
    assert grown["streamed"] < 9 << 20


def memory_of(path: Path, residence: str) -> int:
    """Bytes by which this process's peak grows."""
    session(compressed(chain(1, 64)), residence).run(None, {"x": np.zeros((1, 64), np.float32)})
    before = psutil.Process().memory_info().rss
    one = session(str(path), residence)
    for _ in range(3):
        one.run(None, {"x": np.zeros((1, WIDTH), np.float32)})
    return (memory.peak() or 0) - before


@pytest.mark.slow
def test_weights_that_stay_compressed_are_compared(tmp_path: Path) -> None:
    onnx.save(chain(2, 64), tmp_path / "m.onnx")
    onnxopt.optimize(tmp_path / "m.onnx", tmp_path / "small.onnx", lossless=True)
    words = ("--residence", "loaded,streamed:1KiB", "--seconds", "0.1", "--batch", "1", "--json")
    found = json.loads(run("benchmark", "m.onnx", "small.onnx", *words, cwd=tmp_path).stdout)
    assert [(Path(one["path"]).name, one["residence"]) for one in found["models"]] == [
        ("m.onnx", "loaded"), ("small.onnx", "loaded"), ("small.onnx (streamed:1KiB)", "streamed:1KiB")
    ]  # fmt: skip
    done = run("benchmark", "small.onnx", "--residence", "steamed", cwd=tmp_path)
    refused(done, "onnxopt.residence is 'steamed', expected loaded, streamed or streamed:64MiB")
