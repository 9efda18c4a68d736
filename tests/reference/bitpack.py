"""Codec 1, bitpack: a reference decoder written from docs/format/bitpack.md, for tests."""

import numpy as np
import numpy.typing as npt
from fields import Fields


def decode(data: bytes, rows: int, cols: int) -> npt.NDArray[np.int32]:
    """Integers [rows, cols] of a bitpacked matrix."""
    fields = Fields(data)
    minimum, width = fields.svarint(), fields.u8()
    n = rows * cols
    bits = np.unpackbits(np.frombuffer(fields.rest(), np.uint8), bitorder="little")
    weights = 1 << np.arange(width, dtype=np.int64)
    offsets = bits[: n * width].reshape(n, width).astype(np.int64) @ weights
    return (minimum + offsets).astype(np.int32).reshape(rows, cols)
