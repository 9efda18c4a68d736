"""Files read and written in pieces: the same messages, without large tensors in memory."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import cnn, mlp
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

import onnxopt
from onnxopt.data import Resting, quiet_session
from onnxopt.errors import OnnxoptError
from onnxopt.files import Spool
from onnxopt.graph import light_message, open_compressed, payload, split, wrap
from onnxopt.graph.light_message import light
from onnxopt.graph.wrapper import around


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(light_message, "LEAST", 256)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("model", [mlp(64), cnn()], ids=["mlp", "cnn"])
def test_elements_that_stay_in_the_file_are_all_that_is_missing(model: onnx.ModelProto) -> None:
    content = model.SerializeToString()
    found = light(memoryview(content))
    assert found is not None and found.elements
    assert found.model.ByteSize() < len(content) // 2
    for index, elements in found.elements.items():
        found.model.graph.initializer[index].raw_data = bytes(elements)
    assert found.model == model


@given(st.data())
def test_no_file_makes_the_reader_fail_otherwise(data: st.DataObject) -> None:
    """Whatever is in a file: a message that the parser takes, too, or an error of the parser, or nothing."""
    content = bytearray(mlp(128).SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, min(len(content), 4000) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        found = light(memoryview(damaged))
    except DecodeError:
        found = None
    if found is not None:
        for index, elements in found.elements.items():
            found.model.graph.initializer[index].raw_data = bytes(elements)
        assert found.model == onnx.load_model_from_string(damaged)


@pytest.mark.parametrize("size", [0, 1, 200, 70_000])
def test_the_pieces_around_a_container_are_those_of_the_message(size: int) -> None:
    model, container = cnn(), np.random.default_rng(0).bytes(size)
    parts = model, *split(model)
    before, after = around(wrap(*parts, b""), len(container))
    assert before + container + after == wrap(*parts, container).SerializeToString(deterministic=True)
    beside, nothing = around(wrap(*parts, b"", "weights"), len(container))
    assert (beside, nothing) == (wrap(*parts, container, "weights").SerializeToString(deterministic=True), b"")


def test_a_container_is_read_where_it_is(tmp_path: Path) -> None:
    source, small = tmp_path / "model.onnx", tmp_path / "small.onnx"
    onnx.save(cnn(), source)
    onnxopt.optimize(source, small, lossless=True)
    outer = onnx.load(small)
    container, opened = payload(outer), open_compressed(str(small))
    assert opened is not None and bytes(opened[1]) == container
    assert open_compressed(str(source)) is None
    onnx.save(outer, tmp_path / "beside.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    beside = open_compressed(str(tmp_path / "beside.onnx"))
    assert beside is not None and bytes(beside[1]) == container


def test_a_session_that_rested_runs_again(tmp_path: Path) -> None:
    onnx.save(mlp(), tmp_path / "model.onnx")
    opened = []

    def open_session() -> object:
        opened.append(quiet_session(str(tmp_path / "model.onnx")))
        return opened[-1]

    session = Resting(open_session)
    (entry,), names = session.get_inputs(), [one.name for one in session.get_outputs()]
    shape = [size if isinstance(size, int) else 2 for size in entry.shape]
    feeds = {entry.name: np.ones(shape, np.float32)}
    first = session.run(names, feeds)
    session.rest()
    assert np.array_equal(session.run(names, feeds)[0], first[0])
    assert len(opened) == 2


def test_bytes_that_wait_on_a_full_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Linux has a file that is always full."""
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("there is no /dev/full")
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda dir: full.open("wb+", buffering=0))
    with pytest.raises(OnnxoptError, match="compressed weights cannot be kept here"):
        Spool(tmp_path).put(b"weights")
