"""Hostile files (tests/attacks): each is refused by the reader, and by the command line in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from make_attacks import HERE, attacks
from onnx import TensorProto, helper

import onnxopt
from onnxopt import cli, native
from onnxopt.build import container
from onnxopt.encoding import Raw
from onnxopt.errors import ContainerError
from onnxopt.graph import wrap

ATTACKS = {attack.name: attack for attack in attacks()}
UNSEEN_BY_THE_READER = {"values_checksum.onnx", "inner_garbage.onnx", "inner_external.onnx"}
"""It knows no ONNX, and checks chunk by chunk: `verify` sees these."""


def _verify(path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sys, "argv", ["onnxopt", "verify", str(path)])
    with pytest.raises(SystemExit) as exited:
        cli.main()
    assert exited.value.code == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    return printed.err


def test_files_are_those_of_the_generator() -> None:
    assert {path.name for path in HERE.glob("*.onnx")} == set(ATTACKS)
    for attack in ATTACKS.values():
        assert (HERE / attack.name).read_bytes() == attack.content, attack.name


@pytest.mark.parametrize("name", [name for name in ATTACKS if name not in UNSEEN_BY_THE_READER])
def test_reader_refuses(name: str) -> None:
    attack = ATTACKS[name]
    with pytest.raises(ContainerError) as refused, native.Container(attack.content) as container:
        container.decode()
    assert attack.message in str(refused.value)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("name", ATTACKS)
def test_verify_says_so_in_one_line(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = _verify(HERE / name, capsys, monkeypatch)
    assert said.startswith("onnxopt: ")
    assert said.count("\n") == 1
    assert said[:-1].isprintable()
    assert name in said


@pytest.mark.parametrize("name", ["bomb_2_48.onnx", "rans_table_empty.onnx", "empty.onnx"])
@pytest.mark.slow
def test_as_a_process(name: str) -> None:
    command = [sys.executable, "-P", "-c", "from onnxopt.cli import main; main()", "verify", str(HERE / name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


# --- what only the runtime sees --------------------------------------------------------------------------------------


def _cast(source: int, target: int) -> onnx.ModelProto:
    x, y = (helper.make_tensor_value_info(name, kind, ["n"]) for name, kind in (("x", source), ("y", target)))
    graph = helper.make_graph([helper.make_node("Cast", ["x"], ["y"], to=target)], "g", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _session(data: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    onnxopt.register(options)
    return onnxruntime.InferenceSession(data, options)


@pytest.mark.parametrize("declared", [TensorProto.UINT8, TensorProto.STRING])
def test_an_output_of_another_type_than_declared(declared: int) -> None:
    """The outer tensor would be too small for what the inner model gives."""
    inner = _cast(TensorProto.FLOAT, TensorProto.DOUBLE)
    packed = container.write(inner.SerializeToString(), {}, "{}")
    session = _session(wrap(_cast(TensorProto.FLOAT, declared), inner, [], [], packed).SerializeToString())
    for _ in range(2):
        with pytest.raises(Exception, match="declared with another element type"):
            session.run(None, {"x": np.ones(100_000, np.float32)})


@pytest.mark.parametrize(("dtype", "count"), [(TensorProto.FLOAT, 1000), (TensorProto.DOUBLE, 10)])
def test_a_weight_that_the_inner_model_declares_otherwise(dtype: int, count: int) -> None:
    inner = _cast(TensorProto.FLOAT, TensorProto.FLOAT)
    inner.graph.node[0].input[0] = "w"
    weight = inner.graph.initializer.add(name="w", data_type=dtype, dims=[count])
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="onnxopt")
    packed = container.write(inner.SerializeToString(), {"w": Raw(np.ones(10, np.float32))}, "{}")
    data = wrap(inner, inner, [], [], packed).SerializeToString()
    for create in (_session, onnxopt.load):
        with pytest.raises(Exception, match="not match"):
            create(data)
