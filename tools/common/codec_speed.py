"""Speed of the codecs on one core."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy as np
import numpy.typing as npt

from common import pages
from onnxopt import native
from onnxopt.errors import OnnxoptError

INSTRUCTIONS = ("scalar", "avx2", "avx512", "neon")
DECODED = ("bitpack", "huffman", "rans", "adaptive", "context")


@dataclass(frozen=True, slots=True)
class Speed:
    """Bytes of float32 a second, on one core."""

    best: float
    median: float


def speeds(q: npt.NDArray[np.int32], repeats: int) -> dict[str, Speed]:
    """By task: decoding with each codec, with each instruction set where that matters; encoding."""
    scales = np.full(len(q), 0.01, np.float32)
    wanted = (q.astype(np.float32) * scales[:, None]).tobytes()
    tasks: dict[str, Callable[[], object]] = {}

    def decoding(codec: str, data: bytes, instructions: str) -> Callable[[], npt.NDArray[np.float32]]:
        def decode() -> npt.NDArray[np.float32]:
            native.set_simd(instructions)
            return native.decode_floats(codec, data, scales, q.shape[1])

        return decode

    for codec in DECODED:
        data = native.encode(q, codec)[1]
        for instructions in available() if codec in ("rans", "bitpack") else [native.simd()]:
            decode = decoding(codec, data, instructions)
            assert decode().tobytes() == wanted, f"{codec} with {instructions} gives other values"
            tasks[f"decode {codec}, {instructions}" if codec in ("rans", "bitpack") else f"decode {codec}"] = decode
    tasks["encode rans"] = lambda: native.encode(q, "rans")
    tasks["encode adaptive"] = lambda: native.encode(q, "adaptive")
    tasks["encode context"] = lambda: native.encode(q, "context")
    tasks["encode, the writer's choice"] = lambda: native.encode(q)
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    try:
        for turn in range(-1, repeats):
            for name, task in tasks.items():
                started = time.perf_counter()
                task()
                if turn >= 0:
                    seconds[name].append(time.perf_counter() - started)
    finally:
        native.set_simd(None)
    return {name: Speed(4 * q.size / min(taken), 4 * q.size / median(taken)) for name, taken in seconds.items()}


def available() -> list[str]:
    """The instruction sets of this machine that a decoder has."""
    found = []
    for name in INSTRUCTIONS:
        try:
            native.set_simd(name)
            found.append(name)
        except OnnxoptError:
            continue
    native.set_simd(None)
    return found


def machine() -> str:
    """The processor as the system names it, and the instruction set that the decoder chooses."""
    return f"{pages.machine()}; best instructions: {native.simd()}"
