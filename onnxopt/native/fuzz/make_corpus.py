"""Writes the fuzzer's seeds into corpus/: every codec, reconstruction and element type, small.

Run it with the package installed; the native tests replay what it writes under sanitizers.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from struct import pack

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnxopt import native
from onnxopt.build import container
from onnxopt.encoding import Affine, Codebook, Encoding, Raw
from onnxopt.errors import OnnxoptError
from onnxopt.graph import wrap

CORPUS = Path(__file__).with_name("corpus")
INTEGER_CODECS = [name for name in native.CODECS if name != "lossless"]
OLDEST = 5
"""Streams of codecs with lower ids begin with the id, of others with form 7."""


def seeds() -> dict[str, bytes]:
    """The corpus: file name -> bytes. The forms are those of fuzz_reader.cc."""
    rng = np.random.default_rng(7)
    out: dict[str, bytes] = {}
    for codec in INTEGER_CODECS:
        for name, q in _matrices(rng).items():
            try:
                _, data = native.encode(q, codec)
            except OnnxoptError:
                continue
            number = native.CODECS[codec]
            head = bytes([number] if number < OLDEST else [7, number])
            out[f"codec_{codec}_{name}"] = head + pack("<BH", *q.shape) + data
    for name, values in _elements(rng).items():
        head = pack("<BBHB", 5, *values.shape, values.itemsize.bit_length() - 1)
        out[f"codec_lossless_{name}"] = head + native.encode_lossless(values)
    table, data, count = every_entry(rng)
    out["entries"] = _unpacked(table, data, count)
    packed = container.write(b"model", _encodings(rng), "{}")
    out["container"] = packed
    out["whole.onnx"] = _outer(every_container(rng))
    out["written.onnx"] = _outer(container.write(_inner().SerializeToString(), _encodings(rng), "{}"))
    return out


def _matrices(rng: np.random.Generator) -> dict[str, np.ndarray]:
    normal = np.rint(rng.normal(0, 3, (6, 40))).astype(np.int32)
    rows = np.rint(rng.normal(0, 1, (64, 72)) * np.geomspace(0.5, 8, 64)[:, None]).astype(np.int32)
    escaped = np.where(rng.random((40, 60)) < 0.01, 9999, np.rint(rng.normal(0, 4, (40, 60)))).astype(np.int32)
    return {
        "normal": normal,
        "constant": np.full((9, 30), -5, np.int32),
        "sparse": np.where(rng.random((12, 50)) < 0.9, 0, rng.integers(-20, 20, (12, 50))).astype(np.int32),
        "classes": rows,
        "escapes": escaped,
        "wide": np.rint(rng.normal(0, 2000, (20, 50))).astype(np.int32),
        "unsigned": rng.integers(100, 140, (5, 33)).astype(np.int32),
        "any": rng.integers(-(2**31), 2**31, (2, 9)).astype(np.int32),
        "empty": np.zeros((0, 4), np.int32),
    }


def _elements(rng: np.random.Generator) -> dict[str, np.ndarray]:
    floats = rng.normal(0, 1, (8, 24))
    return {
        "float32": floats.astype(np.float32),
        "float16": floats.astype(np.float16),
        "float64": floats,
        "palette": rng.choice(floats[0, :6].astype(np.float32), (10, 40)),
        "palette16": rng.choice(floats[0, :3].astype(np.float16), (10, 40)),
        "int64": rng.integers(-40, 40, (6, 20)),
        "uint8": rng.integers(0, 9, (4, 30)).astype(np.uint8),
        "sparse32": np.where(np.abs(floats) < 1, 0, floats).astype(np.float32),
        "sparse64": np.where(np.abs(floats) < 1, np.copysign(0, floats), floats),
        "repeats": np.vstack([floats[:2], -floats[:2], floats[:2, ::-1]]).astype(np.float32),
        "columns": np.where(np.arange(24) % 2, floats[:, :1], floats).astype(np.float32),
        "columns64": np.where(np.arange(24) % 2, floats[:, :1], floats),
        "bytes": np.tile(rng.integers(0, 256, (2, 24)), (4, 1)).astype(np.uint8),
        "rotated": (0x3F00 + np.rint(9 * floats) + np.where(floats[::-1] < 0, 2**15, 0)).astype(np.uint16),
    }


def _encodings(rng: np.random.Generator) -> dict[str, Encoding]:
    q = np.rint(rng.normal(0, 3, (8, 4, 3, 3))).astype(np.int32)
    k = rng.integers(-40, -8, 8).astype(np.int16)
    return {
        "conv": Affine(q, k, 0, np.dtype(np.float32)),
        "gemm": Affine(q.reshape(12, 24), rng.integers(-40, -8, 24).astype(np.int16), 1, np.dtype(np.float16)),
        "one": Affine(q.reshape(12, 24), k[:1], 0, np.dtype(np.float64)),
        "shared": Codebook(rng.integers(0, 5, (9, 11)).astype(np.int32), rng.normal(0, 1, 5).astype(np.float32)),
        "bias": Raw(rng.normal(0, 1, 20).astype(np.float32)),
        "index": Raw(np.arange(12)),
        "flags": Raw(rng.random(31) < 0.5),
    }


def every_entry(rng: np.random.Generator) -> tuple[bytes, bytes, int]:
    """Entry table and data: every integer codec under every reconstruction, in chunks of three rows."""
    table, data, count = b"", b"", 0

    def add(  # noqa: PLR0913 - the fields of a row of the table
        name: str, dtype: int, dims: tuple[int, ...], how: bytes, codec: str, rows: int, parts: list[bytes]
    ) -> None:
        nonlocal table, data, count
        table += native.varint(len(name)) + name.encode() + bytes((dtype, len(dims)))
        table += b"".join(map(native.varint, dims)) + how[:2] + bytes((native.CODECS[codec],)) + how[2:]
        table += native.varint(rows)
        table += b"".join(native.varint(len(part)) + pack("<I", zlib.crc32(part)) for part in parts)
        data += b"".join(parts)
        count += 1

    def coded(q: np.ndarray, codec: str, rows: int) -> list[bytes]:
        return [native.encode(q[at : at + rows], codec)[1] for at in range(0, len(q), rows)]

    for codec in INTEGER_CODECS:
        q = np.where(rng.random((8, 12)) < 0.6, 0, rng.integers(0, 7, (8, 12))).astype(np.int32)
        for dtype in (TensorProto.INT8, TensorProto.UINT8, TensorProto.INT32, TensorProto.INT64):
            add(f"{codec}{dtype}", dtype, (8, 12), bytes((0, 0)), codec, 3, coded(q, codec, 3))
        scales = rng.integers(-40, 40, (1, 8)).astype(np.int32)
        values = rng.normal(0, 1, (1, 7)).astype(np.float32)
        add("", TensorProto.INT16, (8,), bytes((0, 0)), codec, 1, coded(scales, codec, 1))
        add("", TensorProto.FLOAT, (7,), bytes((0, 0)), "lossless", 1, [native.encode_lossless(values)])
        scaled = native.varint(count - 2)
        tabled = native.varint(count - 1)
        cube, columns = q.reshape(16, 6), q.reshape(12, 8)
        add(f"{codec}r", TensorProto.FLOAT, (8, 12), bytes((1, 0)) + scaled, codec, 3, coded(q, codec, 3))
        add(f"{codec}b", TensorProto.BFLOAT16, (2, 8, 6), bytes((1, 1)) + scaled, codec, 5, coded(cube, codec, 5))
        add(f"{codec}c", TensorProto.FLOAT16, (12, 8), bytes((1, 1)) + scaled, codec, 4, coded(columns, codec, 4))
        add(f"{codec}t", TensorProto.FLOAT, (8, 12), bytes((2, 0)) + tabled, codec, 3, coded(q, codec, 3))
        other = native.varint(count - 1)
        steps = coded(q - 3, codec, 5)
        scaled_too = other + pack("<Bf", 3, 0.3)
        add(f"{codec}e", TensorProto.FLOAT, (12, 8), bytes((3, 0)) + scaled_too, codec, 4, coded(columns, codec, 4))
        add(f"{codec}d", TensorProto.FLOAT, (8, 12), bytes((3, 1)) + other + b"\0", codec, 5, steps)
    for name, values in {**_elements(rng), "bool": rng.random((4, 30)) < 0.5}.items():
        dtype = helper.np_dtype_to_tensor_dtype(values.dtype)
        parts = [native.encode_lossless(values[at : at + 3]) for at in range(0, len(values), 3)]
        add(name, dtype, values.shape, bytes((0, 0)), "lossless", 3, parts)
    return table, data, count


def _meta(table: bytes, model: bytes, splices: bytes = b"") -> bytes:
    sizes = b"".join(native.varint(len(part)) for part in (table, model, splices))
    return sizes + table + model + splices


def _unpacked(table: bytes, data: bytes, count: int) -> bytes:
    meta = _meta(table, b"abcdef", bytes((4, 2, 3, 5, 1, 4)))  # pieces of the first scales and the first table
    return pack("<BBH", 6, count, len(meta)) + meta + data


def every_container(rng: np.random.Generator) -> bytes:
    """A container of `every_entry`."""
    table, data, count = every_entry(rng)
    meta = _meta(table, _inner().SerializeToString()) + b"{}"
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = deflate.compress(meta) + deflate.flush()
    header = container.MAGIC + pack("<HHIQQQ", 3, 0, count, len(packed), len(meta), len(data))
    header += pack("<II", zlib.crc32(packed), 0)
    return header + pack("<I", zlib.crc32(header)) + packed + data


def _inner() -> onnx.ModelProto:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def _outer(packed: bytes) -> bytes:
    return bytes(wrap(_inner(), _inner(), [], [], packed).SerializeToString())


if __name__ == "__main__":
    CORPUS.mkdir(exist_ok=True)
    for file, content in seeds().items():
        CORPUS.joinpath(file).write_bytes(content)
