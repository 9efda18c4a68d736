"""The integer types that the INT8 kernels of a device take."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

from onnxopt.errors import OnnxoptError, meant


@dataclass(frozen=True, slots=True)
class Target:
    """Types of activations and weights in INT8. Weights are symmetric, with one scale for each output channel."""

    name: str
    activations: str
    """Their type. Unsigned ones are asymmetric; signed ones are symmetric where their range has both signs."""
    bits: int
    """The most for weights."""

    @classmethod
    def of(cls, name: str | None) -> Target:
        """The target of this name, or without one this machine's. Raises OnnxoptError where there is none."""
        name = name or _here()
        if name not in TARGETS:
            raise OnnxoptError(f"--device is {name!r}, expected {', '.join(TARGETS)}{meant(name, TARGETS)}")
        return TARGETS[name]


TARGETS = {
    # VPDPBUSD multiplies unsigned activations by signed weights, and its sums do not saturate.
    "cpu-vnni": Target("cpu-vnni", "uint8", 8),
    # SDOT and SMMLA multiply signed by signed.
    "cpu-arm": Target("cpu-arm", "int8", 8),
    # Without VNNI, VPMADDUBSW adds two products in 16 bits, which saturates: 255 x 64 x 2 is the most that fits.
    "generic": Target("generic", "uint8", 7),
}


def _here() -> str:
    """The name of this machine's target."""
    if platform.machine().lower() in ("aarch64", "arm64"):
        return "cpu-arm"
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return "generic"
    return "cpu-vnni" if "avx512_vnni" in flags or "avx_vnni" in flags else "generic"
