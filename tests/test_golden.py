"""Bytes that must never change: stored files decode to their values, and these values code to the same bytes."""

from __future__ import annotations

import zlib
from struct import pack, unpack

import numpy as np
import pytest
from golden import values

from onnxopt import native
from onnxopt.build import container
from onnxopt.errors import ContainerError

NAMES = sorted(values.files())
CONTAINERS = {
    "container": (1, values.MODEL, values.encodings()),
    "container2": (2, values.model2(), values.encodings2()),
    "container2.small": (2, values.MODEL, values.encodings_small()),
    "container3": (3, values.MODEL, values.encodings3()),
}
"""By file: the format's version, the model inside, and the weights."""
OLDER = [name for name in values.OLDER if name in CONTAINERS]


def _stored(name: str) -> bytes:
    return (values.HERE / f"{name}.bin").read_bytes()


def test_every_file_is_known() -> None:
    older = [f"older.{name}" for name in values.OLDER]
    assert sorted(path.stem for path in values.HERE.glob("*.bin")) == sorted([*NAMES, *older])


@pytest.mark.parametrize("codec", values.INTEGER_CODECS)
@pytest.mark.parametrize("name", values.integers())
def test_integers(codec: str, name: str) -> None:
    q = values.integers()[name]
    stored = _stored(f"{codec}.{name}")
    for simd in ("scalar", None):
        native.set_simd(simd)
        assert np.array_equal(native.decode(codec, stored, *q.shape), q)
    assert native.encode(q, codec)[1] == stored


@pytest.mark.parametrize("name", values.elements() | values.newer())
def test_elements(name: str) -> None:
    elements = (values.elements() | values.newer())[name]
    stored = _stored(f"lossless.{name}")
    assert native.decode_lossless(stored, elements.dtype, *elements.shape).tobytes() == elements.tobytes()
    assert native.encode_lossless(elements) == stored
    if f"lossless.{name}" in values.OLDER:
        older = _stored(f"older.lossless.{name}")
        assert native.decode_lossless(older, elements.dtype, *elements.shape).tobytes() == elements.tobytes()


@pytest.mark.parametrize("file", [*CONTAINERS, *(f"older.{name}" for name in OLDER)])
def test_container_reads(file: str) -> None:
    version, model, encodings = CONTAINERS[file.removeprefix("older.")]
    with native.Container(_stored(file)) as stored:
        decoded = stored.decode()
        assert (stored.version, stored.model, stored.plan) == (version, model, values.PLAN)
    assert list(decoded) == list(encodings)
    for name, weight in encodings.items():
        wanted = weight.values()
        assert (decoded[name].shape, decoded[name].dtype) == (wanted.shape, wanted.dtype)
        assert native.file_bytes(decoded[name]) == native.file_bytes(wanted)


@pytest.mark.parametrize("file", CONTAINERS)
def test_container_bytes(file: str) -> None:
    """All of it, the metadata inflated: zlib's versions differ in how they deflate."""
    _, model, encodings = CONTAINERS[file]
    assert _parts(container.write(model, encodings, values.PLAN)) == _parts(_stored(file))


def test_what_version_2_adds_is_in_its_file() -> None:
    with native.Container(_stored("container2")) as stored:
        how = {entry.name: entry.reconstruction for entry in stored.entries}
        assert [name for name, what in how.items() if what == "relative"] == ["head", "again", "scaled"]
        assert sum(entry.hidden for entry in stored.entries) == 2  # the model's integers, and its floats


def test_what_version_3_adds_is_in_its_file() -> None:
    with native.Container(_stored("container3")) as stored:
        assert {entry.name: entry.codec for entry in stored.entries if entry.name} == {
            "weight": "adaptive",
            "lossless": "lossless",
        }
    drifting = np.rint(np.random.default_rng(0).normal(0, np.exp(2.5 * np.sin(np.arange(4000) / 60)))).astype(np.int16)
    assert native.lossless_stream(drifting[None]).version == 3


@pytest.mark.parametrize("version", [2, 4])
def test_a_container_with_codec_6_is_refused_where_its_version_lacks_it(version: int) -> None:
    data = bytearray(_stored("container3"))
    data[8] = version
    data[48:52] = pack("<I", zlib.crc32(data[:48]))
    with pytest.raises(ContainerError, match="update onnxopt"):
        native.Container(bytes(data))


def _parts(data: bytes) -> tuple[object, ...]:
    packed, inflated, size = unpack("<QQQ", data[16:40])
    meta = zlib.decompress(data[52 : 52 + packed], -15)
    assert len(meta) == inflated
    return data[:16], size, data[44:48], meta, data[52 + packed :]
