"""Every goal on fixed models with a fixed clock: what plans and files are, as digests.

    PYTHONPATH=tools python tests/replaying.py --record          # records this commit in tests/replay.json
    PYTHONPATH=tools python tests/replaying.py --check --shared  # compares, and six models of ONNXOPT_DATA

Sums of floats differ in their last bits from processor to processor and from runtime to runtime, and so do plans: what
is recorded holds for one `environment`.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import builders
import numpy as np
import onnx
import onnxruntime

import onnxopt
from common import realdata
from onnxopt import Contract, OnnxoptError
from onnxopt.measure.benchmark import SpeedRatio
from onnxopt.spec.recipes import Recipe

HERE = Path(__file__).resolve().parent

RECORDED = HERE / "replay.json"

Make = Callable[[], onnx.ModelProto]
MODELS: dict[str, Path | Make] = {
    "digits": HERE.parent / "models" / "digits.onnx",
    "cnn": lambda: builders.cnn(norm=True),
    "low_rank": lambda: builders.network(2.0),
    "residual": builders.residual,
    "prelu": builders.prelu,
}
SHARED = {
    name: realdata.MODELS / f"{name}.onnx"
    for name in ("lenet5", "resnet20", "resnet8_keras", "kws_dscnn", "mobilenet_v1_0.25", "squeezenet1.1")
}
GOALS: dict[str, dict[str, Any]] = {
    "lossless": {"lossless": True},
    "default": {},
    "ratio": {"contract": Contract(target_ratio=8.0)},
    "drop": {"contract": Contract(max_drop=2.0)},
    "recipe": {"contract": Contract(error=0.3), "recipe": "deep-compression"},
    "size": {"contract": Contract(error=0.05), "goal": "size"},
    "speed": {"contract": Contract(error=0.1), "goal": "speed"},
    "activations": {"contract": Contract(error=0.3), "activations": 8},
}


def environment() -> str:
    """What floats depend on."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        flags = set()
    simd = [one for one in ("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8") if one in flags]
    return f"{' '.join(simd) or 'no SIMD known'}; onnxruntime {onnxruntime.__version__}; numpy {np.__version__}"


class Clock:
    """A machine whose nodes take a time that follows from their types and weights alone."""

    def time_many(self, models: Sequence[bytes], feeds: Mapping[str, Any]) -> list[float]:
        return [sum(self.profile(content, feeds).values()) for content in models]

    def profile(self, content: bytes, feeds: Mapping[str, Any]) -> dict[str, float]:
        graph = onnx.ModelProto.FromString(content).graph
        sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in graph.initializer}
        makers = {name: node.op_type for node in graph.node for name in node.output}
        found: dict[str, float] = {}
        for node in graph.node:
            integers = any(makers.get(name) == "DequantizeLinear" for name in node.input)
            weights = sum(sizes.get(name, 0) for name in node.input)
            pair = node.op_type in ("QuantizeLinear", "DequantizeLinear")
            ms = 2e-4 if pair else (1e-3 + 2e-6 * weights) * (0.4 if integers else 1.0)
            if node.op_type == "PRelu":
                ms *= 10
            found[node.name] = found.get(node.name, 0.0) + ms
        return found

    def race(self, paths: Sequence[Path], against: Path, *_: object) -> list[SpeedRatio]:
        *times, whole = self.time_many([path.read_bytes() for path in (*paths, against)], {})
        return [_ratio(str(path), str(against), ms / whole) for path, ms in zip(paths, times, strict=True)]


def _ratio(path: str, against: str, ratio: float) -> SpeedRatio:
    return SpeedRatio(path, against, ratio, 0.99 * ratio, 1.01 * ratio, abs(ratio - 1) > 0.01, True)


def replayed(model: Path, goal: str, folder: Path, data: Path | None = None) -> dict[str, str]:
    """Digests of what comes out; where nothing does, what is said."""
    options = dict(GOALS[goal])
    if "recipe" in options:
        options["recipe"] = Recipe.open(options["recipe"])
    output = folder / f"{model.stem}.{goal}.onnx"
    try:
        result = onnxopt.optimize(model, output, data=data, clock=Clock(), **options)
    except OnnxoptError as error:
        return {"refused": str(error).replace(str(folder), "").replace(str(model.parent), "")}
    plan = result.plan.to_json().encode()
    return {name: hashlib.sha256(content).hexdigest()
            for name, content in (("plan", plan), ("file", output.read_bytes()))}  # fmt: skip


def made(name: str, folder: Path) -> Path:
    """A model's file."""
    one = MODELS[name] if name in MODELS else SHARED[name]
    if isinstance(one, Path):
        return one
    path = folder / f"{name}.onnx"
    onnx.save(one(), path)
    return path


def data_for(name: str, folder: Path) -> Path | None:
    """Images and labels for the two whose data lies beside them, small noise for one that takes any size; others have
    synthetic inputs."""
    if name == "prelu":
        noise = np.random.default_rng(0).standard_normal((400, 3, 8, 8), np.float32)
        np.savez(folder / "prelu.npz", x=noise)
        return folder / "prelu.npz"
    readers: dict[str, Callable[[], Any]] = {
        "lenet5": lambda: realdata.mnist("train"),
        "resnet20": lambda: realdata.cifar10("train"),
    }
    if name not in readers:
        return None
    samples, path = readers[name](), folder / f"{name}.npz"
    x = realdata.TASKS[name].prepare(samples.images[:1024])
    np.savez(path, x=x, labels=samples.labels[:1024])
    return path


def main() -> None:
    shared, record = "--shared" in sys.argv, "--record" in sys.argv
    stored = json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
    known = stored.setdefault(environment(), {})
    different = 0
    for name in (*MODELS, *(SHARED if shared else ())):
        for goal in GOALS:
            with tempfile.TemporaryDirectory() as folder:
                path = made(name, Path(folder))
                got = replayed(path, goal, Path(folder), data_for(name, Path(folder)))
            key = f"{name} {goal}"
            same = known.get(key) == got
            different += not same
            print(key, "the same" if same else f"{known.get(key)} -> {got}", flush=True)
            if record:
                known[key] = got
    if record:
        RECORDED.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n")
    elif different:
        sys.exit(f"{different} differ")


if __name__ == "__main__":
    main()
