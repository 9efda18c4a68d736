"""Whether onnxopt gives the same on a GPU as on the CPU, and how much sooner.

    python tools/check_gpu.py [MODEL [DATA [PROVIDER]]]     (models/digits.onnx, "" for synthetic inputs, CUDA)

Exit code 1 if the provider cannot be used, or the results differ by more than the rounding of floats.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import onnxopt
from onnxopt import OnnxoptError, runtime

DIGITS = Path(__file__).resolve().parents[1] / "models" / "digits.onnx"
_SIZE, _NOISE = 0.01, 0.05
"""Most relative differences of the files' sizes, and of their noise over signal: a sum that is rounded otherwise moves
a few weights to the next integer."""


@dataclass(frozen=True)
class Made:
    """A file that was made on one provider."""

    size: int
    noise: float
    """Over signal, measured on the CPU."""
    seconds: float


def made(model: Path, data: str | None, provider: str) -> Made:
    """Optimizes a model on a provider. Raises OnnxoptError if a session cannot be on it."""
    with tempfile.TemporaryDirectory() as folder, runtime.providers([provider]):
        before = time.perf_counter()
        result = onnxopt.optimize(model, Path(folder, "small.onnx"), data=data)
        seconds = time.perf_counter() - before
    return Made(result.bytes_after, (result.check and result.check.found.error) or 0.0, seconds)


def main(model: str = str(DIGITS), data: str = "", provider: str = "CUDA") -> int:
    """Prints a line for each provider, and what differs. Returns the exit code."""
    try:
        with runtime.providers([provider]):  # whether there is one, before anything runs
            onnxopt.load(DIGITS)
        onnxopt.optimize(DIGITS, effort="fast")  # not timed: the first run imports all that the others need
        there, here = (made(Path(model), data or None, one) for one in (provider, "CPU"))
    except OnnxoptError as error:
        print(f"not checked: {error}", file=sys.stderr)
        return 1
    for name, one in ((provider, there), ("CPU", here)):
        print(f"{name}: {one.size} bytes, noise over signal {one.noise:.4f}, {one.seconds:.1f} s")
    same = abs(there.size - here.size) <= _SIZE * here.size and abs(there.noise - here.noise) <= _NOISE * here.noise
    print(f"{'equal but for rounding' if same else 'different'}; {here.seconds / there.seconds:.2f} times as fast")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
