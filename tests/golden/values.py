"""The values behind the golden files, by integer arithmetic alone, so that they never change; and the files.

`python tests/golden/values.py` writes what the installed onnxopt makes of them. Once a version is released, its files
stay as they are: a later one that needs other bytes gets a format version and files of its own.
"""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx

from onnxopt import native
from onnxopt.build import container
from onnxopt.encoding import Affine, Codebook, Encoding, Raw

HERE = Path(__file__).parent
INTEGER_CODECS = ("raw", "bitpack", "huffman", "rans", "context", "adaptive")
"""The codecs that have golden files: those of the format's version 1, and that of version 3."""
MODEL, PLAN = b"a golden model", '{"golden": true}'


def numbers(count: int, seed: int) -> npt.NDArray[np.uint64]:
    """SplitMix64."""
    z = (np.arange(1, count + 1, dtype=np.uint64) + np.uint64(seed << 32)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ z >> np.uint64(31), np.uint64)


def bell(rows: int, cols: int, seed: int) -> npt.NDArray[np.int32]:
    """Sums of eight random bits, wider from row to row; one in 300 is far out."""
    bits = numbers(rows * cols, seed)
    total = sum((bits >> np.uint64(b) & np.uint64(1)).astype(np.int32) for b in range(8)) - 4
    far = np.where(bits >> np.uint64(32) & np.uint64(0xFFFF) < 218, (bits >> np.uint64(48)).astype(np.int32), 0)
    q = np.asarray(total + far, np.int32).reshape(rows, cols)
    return np.asarray(q * (1 + np.arange(rows, dtype=np.int32)[:, None] * 6 // rows), np.int32)


def sparse(rows: int, cols: int, seed: int) -> npt.NDArray[np.int32]:
    """Nine in ten are zero."""
    kept = numbers(rows * cols, seed + 1).reshape(rows, cols) % np.uint64(10) == 0
    return np.where(kept, bell(rows, cols, seed), 0).astype(np.int32)


def integers() -> dict[str, npt.NDArray[np.int32]]:
    """What every integer codec codes."""
    return {"bell": bell(64, 81, 1), "sparse": sparse(40, 50, 2), "constant": np.full((7, 9), -3, np.int32)}


def elements() -> dict[str, npt.NDArray[np.generic]]:
    """What the lossless codec codes: byte planes, integers, a palette, zeros of either sign among floats."""
    bits = numbers(600, 3)
    exponents = (bits % np.uint64(6) + np.uint64(120)) << np.uint64(23)
    floats = (exponents | bits >> np.uint64(41)).astype(np.uint32).view(np.float32).reshape(20, 30)
    palette = floats[0, bell(20, 30, 5) % 5]
    zeros = np.where(bell(20, 30, 5) % 2 == 0, np.float32(0), np.float32(-0.0))
    pruned = np.where(sparse(20, 30, 8) == 0, zeros, floats)
    return {"planes": floats, "integers": bell(20, 30, 4).astype(np.int64), "palette": palette, "sparse": pruned}


def newer() -> dict[str, npt.NDArray[np.generic]]:
    """What it codes in the modes of version 2: repeats of every kind, columns that repeat, floats of two bytes."""
    row = numbers(48, 9).astype(np.uint32).view(np.float32)
    signs = np.where(np.arange(48) % 2 == 0, np.float32(1), np.float32(-1))
    rows = np.stack([row, -row, row[::-1], row * signs, -row[::-1] * signs, row])
    magnitudes = (0x3F00 + 7 * bell(20, 30, 10) + bell(20, 30, 14) % 7).astype(
        np.uint16
    )  # as bfloat16: about a power of two
    rotated = magnitudes.reshape(-1) | (numbers(600, 13) >> np.uint64(63)).astype(np.uint16) << np.uint16(15)
    return {"repeats": rows, "columns": np.repeat(rows[:, :40].T, 5, 1), "rotated": rotated.reshape(20, 30)}


def model2() -> bytes:
    """A serialized model with numbers inside."""
    model = onnx.ModelProto(ir_version=8)
    bias = (numbers(300, 11) >> np.uint64(52)).astype(np.int64)
    model.graph.initializer.add(name="bias", data_type=onnx.TensorProto.INT64, dims=[300], raw_data=bias.tobytes())
    slopes = (numbers(160, 12) >> np.uint64(40)).astype(np.float32)
    model.graph.node.add(op_type="Toy").attribute.add(name="slopes", floats=slopes.tolist())
    return model.SerializeToString(deterministic=True)


def encodings2() -> dict[str, Encoding]:
    """What the golden container of version 2 holds: tied weights, a multiple, repeats."""
    one = elements()["planes"]
    return {
        "embedding": Raw(one),
        "head": Raw(np.ascontiguousarray(one.T)),
        "again": Raw(one.copy()),
        "scaled": Raw(one * np.float32(0.3)),
        "repeats": Raw(newer()["repeats"]),
    }


def encodings_small() -> dict[str, Encoding]:
    """What the golden container of small elements holds: pairs, of an odd number too, and floats of 8 bits."""
    q = bell(12, 35, 15)
    return {
        "signed": Raw(np.clip(q[:, :34], -8, 7).astype(ml_dtypes.int4)),
        "odd": Raw(np.clip(q + 8, 0, 15).astype(ml_dtypes.uint4)),
        "float8": Raw((q / np.float32(4)).astype(ml_dtypes.float8_e4m3fn)),
    }


def encodings3() -> dict[str, Encoding]:
    """What the golden container of version 3 holds: weights in codec 6, as integers and inside lossless elements."""
    q = bell(40, 96, 15) % 9 - 4
    mantissas = (numbers(q.size, 16) >> np.uint64(41)).astype(np.uint32).reshape(q.shape)
    floats = ((120 + q).astype(np.uint32) << np.uint32(23) | mantissas).view(np.float32)
    return {
        "weight": Affine(q, np.arange(-40, 0, dtype=np.int16), 0, np.dtype(np.float32)),
        "lossless": Raw(floats),
    }


def encodings() -> dict[str, Encoding]:
    """What the golden container holds: every encoding."""
    q = bell(12, 36, 6)
    return {
        "conv.weight": Affine(q.reshape(12, 4, 3, 3), np.arange(-20, -8, dtype=np.int16), 0, np.dtype(np.float32)),
        "gemm.weight": Affine(q % 9 - 4, np.arange(-36, 0, dtype=np.int16), 1, np.dtype(np.float16)),
        "one.scale": Affine(q[:4], np.array([-17], np.int16), 0, np.dtype(np.float64)),
        "shared": Codebook(q % 5, elements()["planes"][0, :5].copy()),
        "lossless": Raw(elements()["planes"]),
        "shape": Raw(np.arange(-2, 9)),
        "mask": Raw(sparse(5, 7, 7) != 0),
    }


OLDER = ("lossless.integers", "lossless.sparse", "lossless.rotated", "container2.small", "container3")
"""Files of which `older.` holds other bytes, in which onnxopt once wrote the same: small matrices in codecs 4 and 6."""


def files() -> dict[str, bytes]:
    """Name -> bytes, as this onnxopt writes them."""
    out = {f"{codec}.{name}": native.encode(q, codec)[1] for codec in INTEGER_CODECS for name, q in integers().items()}
    out |= {f"lossless.{name}": native.encode_lossless(values) for name, values in (elements() | newer()).items()}
    out["container"] = container.write(MODEL, encodings(), PLAN)
    out["container2"] = container.write(model2(), encodings2(), PLAN)
    out["container2.small"] = container.write(MODEL, encodings_small(), PLAN)
    return out | {"container3": container.write(MODEL, encodings3(), PLAN)}


if __name__ == "__main__":
    for file, content in files().items():
        (HERE / f"{file}.bin").write_bytes(content)
