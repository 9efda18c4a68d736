"""Repeats in lossless streams, weights that follow from others, and numbers cut out of the inner model."""

from __future__ import annotations

import io
import zipfile
import zlib
from pathlib import Path

import lossless
import ml_dtypes
import numpy as np
import onnx
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from test_codecs_reference import INSIDE

import onnxopt
from common import generated
from onnxopt import native
from onnxopt.build import container
from onnxopt.encoding import Encoding, Raw
from onnxopt.errors import ContainerError
from onnxopt.native import _repeats

DTYPES = ("uint8", "float16", "bfloat16", "float32", "float64", "int64")


@st.composite
def related_rows(draw: st.DrawFn, dtype: str) -> np.ndarray:
    """Rows of any bits; some are others, negated, mirrored, with signs that alternate, or cut short."""
    bits = np.dtype(f"u{np.dtype(dtype).itemsize}")
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    cols, top = draw(st.integers(1, 60)), bits.type(1 << (8 * bits.itemsize - 1))
    rows = [np.frombuffer(rng.bytes(cols * bits.itemsize), bits)]
    for how in draw(st.lists(st.integers(0, 15), max_size=20)):
        row = rows[rng.integers(len(rows))][:: -1 if how & 1 else 1].copy()
        row[::2] ^= top * bits.type(how >> 1 & 1)
        row[1::2] ^= top * bits.type(how >> 2 & 1)
        cut = rng.integers(cols) if how & 8 else cols
        rows.append(np.concatenate([row[:cut], np.frombuffer(rng.bytes((cols - cut) * bits.itemsize), bits)]))
    turned = draw(st.booleans())
    return np.ascontiguousarray(np.array(rows).T if turned else np.array(rows)).view(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_repeats_come_back_bit_for_bit(dtype: str, data: st.DataObject) -> None:
    values = data.draw(related_rows(dtype))
    coded = native.encode_lossless(values)
    assert native.encode_lossless(values) == coded
    assert native.decode_lossless(coded, dtype, *values.shape).tobytes() == values.tobytes()
    assert lossless.decode(coded, values.itemsize, *values.shape, INSIDE) == values.tobytes()


ROW = np.random.default_rng(0).normal(0, 0.1, 200).astype(np.float32)
ALTERNATING = np.where(np.arange(200) % 2, -1, 1).astype(np.float32)
KINDS = {"again": ROW, "negated": -ROW, "mirrored": ROW[::-1], "alternating": ROW * ALTERNATING}


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_that_is_another_costs_next_to_nothing(kind: str) -> None:
    far = np.random.default_rng(1).normal(0, 0.1, (50, 200)).astype(np.float32)
    without = len(native.encode_lossless(np.vstack([ROW, far])))
    assert len(native.encode_lossless(np.vstack([ROW, far, KINDS[kind]]))) < without + 64


def on_grids(rows: int, columns: int) -> np.ndarray:
    """Floats that were integers of 4 bits, with a scale and an offset for each 32 in a column."""
    rng = np.random.default_rng(6)
    q = rng.normal(8, 2.5, (rows // 32, 32, columns)).round().clip(0, 15)
    scale, offset = (rng.uniform(0.01, 0.03, (rows // 32, 1, columns)).astype(np.float16) for _ in range(2))
    return (q * scale - 8 * offset).astype(np.float32).reshape(rows, columns)


def test_a_large_matrix_is_made_in_the_form_that_is_best_for_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    values, looked_at = on_grids(1024, 640), list[int]()
    find = _repeats.find

    def finding(flat: np.ndarray, shortest: int) -> _repeats.Matches:
        looked_at.append(flat.size)
        return find(flat, shortest)

    monkeypatch.setattr(_repeats, "find", finding)
    coded = native.encode_lossless(values)
    assert looked_at.count(values.size) == 1
    assert native.decode_lossless(coded, values.dtype, *values.shape).tobytes() == values.tobytes()
    monkeypatch.setattr(_repeats, "_SAMPLE", 0)
    assert len(coded) <= 1.002 * len(native.encode_lossless(values))
    assert looked_at.count(values.size) > 3


@pytest.mark.parametrize("turned", [False, True])
def test_damaged_repeats_never_crash_a_decoder(turned: bool) -> None:
    values = np.vstack([ROW[:40], -ROW[:40], *np.random.default_rng(2).normal(0, 1, (4, 40)), ROW[:40]])
    values = np.ascontiguousarray(values.T if turned else values).astype(np.float32)
    coded = native.encode_lossless(values)
    assert coded[0] == (5 if turned else 4)
    for cut in range(len(coded)):
        with pytest.raises(ContainerError):
            native.decode_lossless(coded[:cut], "float32", *values.shape)
    for bit in range(0, 8 * len(coded), 3):
        damaged = bytearray(coded)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            assert native.decode_lossless(bytes(damaged), "float32", *values.shape).shape == values.shape
        except ContainerError as error:
            assert str(error)


@pytest.mark.parametrize("name", generated.TABLES)
def test_generated_tables_are_smaller_than_others_make_them(name: str) -> None:
    model = generated.model(name, 64)
    whole = model.SerializeToString()
    packed = container.write(b"", generated.encodings(model), "{}")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        file.writestr("model.onnx", whole)
    assert len(packed) <= 0.95 * min(archive.tell(), len(zstandard.ZstdCompressor(level=19).compress(whole)))


def stored(weights: dict[str, Encoding], model: bytes = b"model") -> native.Container:
    return native.Container(container.write(model, weights, "{}"))


def test_the_version_says_whether_an_older_reader_can_read_it() -> None:
    rng = np.random.default_rng(3)
    assert stored({"w": Raw(rng.normal(0, 1, (40, 40)).astype(np.float32))}).version == 1
    assert stored({"w": Raw(np.tile(ROW, (9, 1)))}).version == 2
    pruned = np.where(rng.random((40, 40)) < 0.5, 0, rng.normal(0, 1, (40, 40))).astype(ml_dtypes.bfloat16)
    assert stored({"w": Raw(pruned)}).version == native.lossless_stream(pruned).version


def test_repeats_far_apart_are_found_across_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "CHUNK", 4096)
    rows = np.random.default_rng(4).integers(0, 256, (4, 3000), np.uint8)
    one = stored({"w": Raw(np.vstack([rows, rows]))})
    assert one.entries[0].coded_size < 1.01 * rows.size
    assert np.array_equal(one.decode()["w"], np.vstack([rows, rows]))


DIFFERENT = {
    "tied": lambda w: w.copy(),
    "transposed": lambda w: np.ascontiguousarray(w.T),
    "halved": lambda w: w * np.float32(0.5),
    "a product": lambda w: w * np.float32(0.0123),
    "rounded twice": lambda w: (w.astype(np.float64) * 0.0123).astype(np.float32),
}


@pytest.mark.parametrize("how", DIFFERENT)
def test_weights_that_follow_from_another_cost_next_to_nothing(how: str) -> None:
    w = np.random.default_rng(5).normal(0, 0.1, (60, 70)).astype(np.float32)
    other = DIFFERENT[how](w)
    found = stored({"w": Raw(w), "v": Raw(other)})
    assert (found.version, found.entries[1].reconstruction, found.entries[1].auxiliary) == (2, "relative", 0)
    assert found.entries[1].coded_size < (800 if how == "rounded twice" else 20)
    assert found.decode()["v"].tobytes() == other.tobytes()
    assert found.decode()["w"].tobytes() == w.tobytes()


@given(st.lists(st.sampled_from(sorted(DIFFERENT)), min_size=1, max_size=4), st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_chains_of_weights_come_back(steps: list[str], seed: int) -> None:
    odd = np.array([0, -0.0, np.inf, np.nan, 1e-42, 3e38], np.float32)
    rng = np.random.default_rng(seed)
    weights = {"0": rng.normal(0, 1, (9, 8)).astype(np.float32)}
    if seed % 2:
        weights["0"].flat[: odd.size] = odd
    with np.errstate(all="ignore"):
        for i, step in enumerate(steps):
            weights[str(i + 1)] = DIFFERENT[step](weights[str(i)])
    decoded = stored({name: Raw(w) for name, w in weights.items()}).decode()
    assert all(decoded[name].tobytes() == w.tobytes() for name, w in weights.items())


def inner() -> onnx.ModelProto:
    rng = np.random.default_rng(6)
    ints = numpy_helper.from_array(rng.integers(-4000, 4000, 500).astype(np.int32), "ints")
    node = helper.make_node("Toy", ["x"], ["y"], floats=rng.normal(0, 1, 400).tolist(), t=ints)
    packed = helper.make_tensor("packed", TensorProto.FLOAT, [300], rng.normal(0, 1, 300).tolist())
    graph = helper.make_graph([node], "g", [], [], [packed, numpy_helper.from_array(rng.integers(0, 99, 200), "wide")])
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


def test_numbers_inside_the_model_are_entries_and_come_back() -> None:
    model = inner().SerializeToString()
    found = stored({"w": Raw(ROW)}, model)
    assert found.model == model
    assert [entry.hidden for entry in found.entries] == [False, True, True, True]
    pieces = sum(entry.coded_size for entry in found.entries[1:])
    assert pieces < 0.9 * len(zlib.compress(model, 9))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_models_of_any_float_come_back(dtype: str, tmp_path: Path) -> None:
    source, small, plain = (tmp_path / name for name in ("source.onnx", "small.onnx", "plain.onnx"))
    onnx.save(generated.tied(dtype, 600, 48), source)
    result = onnxopt.optimize(source, small, lossless=True)
    assert onnxopt.verify(small).identical_outputs
    onnxopt.decompress(small, plain)
    wanted, got = (onnx.load(path).graph.initializer for path in (source, plain))
    assert [(t.name, t.data_type, t.raw_data) for t in wanted] == [(t.name, t.data_type, t.raw_data) for t in got]
    size = source.stat().st_size
    assert abs(result.bytes_fp32 - size * 4 / np.dtype(dtype).itemsize) < 2000
    assert abs(result.bytes_fp16 - size * 2 / np.dtype(dtype).itemsize) < 2000
    assert {entry.reconstruction for entry in onnxopt.inspect(small).entries} == {"raw", "relative"}


def test_bfloat16_is_a_third_smaller() -> None:
    values = np.random.default_rng(7).normal(0, 0.02, (512, 512)).astype(ml_dtypes.bfloat16)
    assert len(native.encode_lossless(values)) < 0.66 * values.nbytes
