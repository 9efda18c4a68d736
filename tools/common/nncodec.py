"""NNCodec of Fraunhofer HHI, the reference of ISO/IEC 15938-17, run by a Python of its own, which has PyTorch.

python -m venv peers && peers/bin/pip install nncodec
ONNXOPT_NNCODEC=peers/bin/python python tools peers
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

from common import realdata
from onnxopt.graph import normalise
from onnxopt.graph.cleanup import clean

PYTHON = os.environ.get("ONNXOPT_NNCODEC", "")
"""An interpreter that has the package; empty if there is none."""
_WORKER = """
import json, sys, time
import numpy as np
from nncodec.nn import decode, encode
folder, settings = sys.argv[1], json.loads(sys.argv[2])
with np.load(folder + "/weights.npz") as stored:
    weights = dict(stored)
for number, qp in enumerate(settings):
    started = time.process_time()
    stream = encode(dict(weights), args={"qp": qp, "use_dq": True, "verbose": False, "results": folder})
    seconds = time.process_time() - started
    np.savez(f"{folder}/decoded{number}.npz", **decode(stream))
    print(json.dumps([len(stream), seconds]))
"""


@dataclass(frozen=True, slots=True)
class Coded:
    """A model as a stream of its weights."""

    ratio: float
    """The .onnx file over the bit stream, which holds no graph."""
    metric: float
    """Percent, on the test part."""
    cpu_seconds: float


@dataclass(frozen=True, slots=True)
class Stream:
    """What a worker made."""

    size: int
    """Bytes."""
    cpu_seconds: float
    decoded: dict[str, realdata.Array]
    """Weights, by name."""


def ladder(model: str, qps: Sequence[int], least: float, limit: int | None = None) -> tuple[Coded, ...]:
    """A model at each quantization parameter, up to the first whose metric is below `least`.

    Quantization is dependent; batch normalizations are folded. Raises CalledProcessError if the package fails.
    """
    running = folded(model)
    return scored(model, running, run(_WORKER, weights(running), qps), least, limit)


def folded(model: str) -> onnx.ModelProto:
    """The model with its batch normalizations folded."""
    copy = onnx.load(realdata.path_of(model))
    normalise(copy)
    running, *_ = clean(copy)
    return running


def weights(running: onnx.ModelProto) -> dict[str, realdata.Array]:
    """By name, every initializer of float32 with dimensions."""
    stored = running.graph.initializer
    return {
        one.name: numpy_helper.to_array(one) for one in stored if one.data_type == onnx.TensorProto.FLOAT and one.dims
    }


def run(
    worker: str,
    arrays: Mapping[str, realdata.Array],
    settings: Sequence[object],
    *arguments: str,
    hessians: Mapping[str, realdata.Array] = MappingProxyType({}),
) -> Iterator[Stream]:
    """What a worker in the other Python makes of arrays at each setting.

    Its arguments are a folder with weights.npz and hessians.npz, the settings as JSON, and `arguments`. It writes
    decoded0.npz and so on there, and prints bytes and CPU seconds of each. Arrays are numbered, as the package takes
    names for hints.
    """
    numbers = {name: str(i) for i, name in enumerate(arrays)}
    with tempfile.TemporaryDirectory() as folder:
        for file, found in (("weights", arrays), ("hessians", hessians)):
            np.savez(Path(folder) / file, **{numbers[name]: one for name, one in found.items()})  # type: ignore[arg-type]
        command = [PYTHON, "-c", worker, folder, json.dumps(settings), *arguments]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        lines = done.stdout.splitlines()[-len(settings) :]
        for setting, line in enumerate(lines):
            with np.load(Path(folder) / f"decoded{setting}.npz") as decoded:
                size, seconds = json.loads(line)
                yield Stream(size, seconds, {name: decoded[number] for name, number in numbers.items()})


def scored(
    model: str, running: onnx.ModelProto, streams: Iterable[Stream], least: float, limit: int | None
) -> tuple[Coded, ...]:
    """Streams of a model's weights as files, up to the first whose metric is below `least`."""
    files = list[Coded]()
    for stream in streams:
        copy = onnx.ModelProto()
        copy.CopyFrom(running)
        for tensor in copy.graph.initializer:
            if tensor.name in stream.decoded:
                values = stream.decoded[tensor.name].astype(np.float32).reshape(tuple(tensor.dims))
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        session = onnxruntime.InferenceSession(
            copy.SerializeToString(), realdata.options(), providers=["CPUExecutionProvider"]
        )
        metric = realdata.evaluate(model, session, limit=limit).metric
        files.append(Coded(realdata.path_of(model).stat().st_size / stream.size, metric, stream.cpu_seconds))
        if metric < least:
            break
    return tuple(files)
