"""The integers that a device's kernels like."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

from onnxopt.errors import OnnxoptError


@dataclass(frozen=True, slots=True)
class Target:
    """What activations and weights are in 8 bits. Weights are symmetric, with a scale for each output."""

    name: str
    activations: str
    """Type: unsigned ones are as asymmetric as their range, signed ones symmetric where it has two sides."""
    bits: int
    """Of weights at most."""

    @classmethod
    def of(cls, name: str | None) -> Target:
        """By name; without one, this machine's. Raises OnnxoptError where there is none of this name."""
        name = name or _here()
        if name not in TARGETS:
            raise OnnxoptError(f"--target is {name!r}, expected {', '.join(TARGETS)}")
        return TARGETS[name]


TARGETS = {
    # VPDPBUSD multiplies unsigned activations by signed weights, and its sums do not saturate.
    "cpu-vnni": Target("cpu-vnni", "uint8", 8),
    # SDOT and SMMLA multiply signed by signed.
    "cpu-arm": Target("cpu-arm", "int8", 8),
    # Without VNNI, VPMADDUBSW adds two products in 16 bits, which saturate: 255 x 64 x 2 is the most that fits.
    "generic": Target("generic", "uint8", 7),
}


def _here() -> str:
    """The target that is this machine."""
    if platform.machine().lower() in ("aarch64", "arm64"):
        return "cpu-arm"
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return "generic"
    return "cpu-vnni" if "avx512_vnni" in flags or "avx_vnni" in flags else "generic"
