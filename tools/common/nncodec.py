"""NNCodec of Fraunhofer HHI, the reference of ISO/IEC 15938-17, run by a Python of its own, which has PyTorch.

python -m venv peers && peers/bin/pip install nncodec
ONNXOPT_NNCODEC=peers/bin/python python tools peers
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

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
folder, qp = sys.argv[1], int(sys.argv[2])
with np.load(folder + "/weights.npz") as stored:
    weights = dict(stored)
started = time.process_time()
stream = encode(weights, args={"qp": qp, "use_dq": True, "verbose": False, "results": folder})
seconds = time.process_time() - started
np.savez(folder + "/decoded.npz", **decode(stream))
print(json.dumps([len(stream), seconds]))
"""


@dataclass(frozen=True, slots=True)
class Coded:
    """A model under NNCodec."""

    ratio: float
    """The .onnx file over the bit stream, which holds no graph."""
    metric: float
    """Percent, on the test part."""
    cpu_seconds: float


def nncodec(model: str, qp: int, limit: int | None = None) -> Coded:
    """A model at one quantization parameter, by dependent quantization; batch normalizations are folded.

    Raises CalledProcessError if the package fails.
    """
    path = realdata.path_of(model)
    copy = onnx.load(path)
    normalise(copy)
    running, *_ = clean(copy)
    tensors = [one for one in running.graph.initializer if one.data_type == onnx.TensorProto.FLOAT and len(one.dims)]
    with tempfile.TemporaryDirectory() as folder:
        weights = {str(index): numpy_helper.to_array(one) for index, one in enumerate(tensors)}
        np.savez(Path(folder) / "weights.npz", **weights)  # type: ignore[arg-type]
        done = subprocess.run([PYTHON, "-c", _WORKER, folder, str(qp)], check=True, capture_output=True, text=True)
        size, seconds = json.loads(done.stdout.splitlines()[-1])
        with np.load(Path(folder) / "decoded.npz") as decoded:
            for index, tensor in enumerate(tensors):
                values = decoded[str(index)].astype(np.float32).reshape(tuple(tensor.dims))
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    session = onnxruntime.InferenceSession(
        running.SerializeToString(), realdata.options(), providers=["CPUExecutionProvider"]
    )
    metric = realdata.evaluate(model, session, limit=limit).metric
    return Coded(path.stat().st_size / size, metric, seconds)
