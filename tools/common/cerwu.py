"""CERWU (A. Conzelmann, R. Bamler, arXiv 2505.18758, 2025): its quantizer on the weights of ONNX models.

The C++ extension `_core` of its authors rounds a matrix integer by integer, with error feedback, at the price that
DeepCABAC is expected to charge. Their Python package reads PyTorch modules of its own list, with PyTorch 2.2; what that
package hands to the extension is computed here from the paper's equations, and NNCodec codes the integers.

The repositories are github.com/Conzel/cerwu and, for DeepCABAC, github.com/Conzel/nncodec in its folder nncodec-fork.
The extension is the sources that CMakeLists.txt names for `_core`, compiled with pybind11 for NNCodec's Python. A fork
without the class `EstimatorInterface` needs its declaration: a virtual destructor, `float32_t estimate(int32_t) const`
and `void update(int32_t)`.

    ONNXOPT_CERWU=folder/of/_core ONNXOPT_NNCODEC=peers/bin/python python tools peers
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnxruntime
from onnx import helper

from common import nncodec, realdata
from common.nncodec import Coded
from onnxopt.graph.inspect.expose import expose

FOLDER = os.environ.get("ONNXOPT_CERWU", "")
"""Where the built extension lies; empty if there is none."""
_DAMPING = 0.01
"""Share of a Hessian's mean diagonal that is added to the diagonal, as the authors do."""
_WORKER = """
import json, math, os, sys, time
import numpy as np
from nncodec.nn import decode, encode
folder, settings, damping = sys.argv[1], json.loads(sys.argv[2]), float(sys.argv[4])
sys.path.insert(0, sys.argv[3])
from _core import GPTQ

def damped(matrix):
    return matrix + damping * matrix.diagonal().mean() * np.eye(len(matrix))

def quantized(weight, hessian, levels, cost):
    rows = weight.reshape(len(weight), -1).astype(np.float64)
    scale = levels // 2 / abs(rows).max()
    rows, hessian = rows * scale, hessian + np.diag(hessian.diagonal() == 0)
    hessian = damped(hessian) / scale**2
    gamma = 1 / (math.log(2) * rows.var())
    priced = hessian + cost * gamma * np.eye(len(hessian))
    upper = np.linalg.cholesky(np.linalg.inv(damped(priced))).T
    options = {
        "max_idx": levels, "entropy_model": "regularized", "scan_order_major": "row",
        "entropy_model_options": {"base_model": "deepcabac", "gamma": gamma},
    }
    moved = np.linalg.solve(priced, hessian @ rows.T).T
    ready = [np.ascontiguousarray(one, np.float32) for one in (moved, upper)]
    return GPTQ(options).run(*ready, np.float32(cost)).reshape(weight.shape), 1 / scale

with np.load(folder + "/weights.npz") as weights, np.load(folder + "/hessians.npz") as hessians:
    weights, hessians = dict(weights), dict(hessians)
for number, setting in enumerate(settings):
    started, coded, steps = time.process_time(), dict(weights), {}
    for name, hessian in hessians.items():
        coded[name], steps[name] = quantized(weights[name], hessian, *setting)
    stream = encode(dict(coded), args={"verbose": False, "results": folder})
    seconds = time.process_time() - started
    decoded = decode(stream)
    assert all((decoded[name] == coded[name]).all() for name in steps)
    np.savez(f"{folder}/decoded{number}.npz", **{name: one * steps.get(name, 1) for name, one in decoded.items()})
    print(json.dumps([len(stream) + 4 * len(steps), seconds]))
"""


@dataclass(frozen=True, slots=True)
class Setting:
    """What the quantizer is asked for."""

    levels: int
    """From the smallest weight of a layer to the largest."""
    cost: float
    """Of a bit: lambda."""


def ladder(
    model: str, settings: Sequence[Setting], images: int, least: float, limit: int | None = None
) -> tuple[Coded, ...]:
    """A model at each setting, with the Hessians of so many images, up to the first whose metric is below `least`.

    Batch normalizations are folded. Raises CalledProcessError if a package fails.
    """
    running, started = nncodec.folded(model), time.process_time()
    found = hessians(running, realdata.TASKS[model].batches("train", images)())
    calibration = time.process_time() - started
    asked = [(one.levels, one.cost) for one in settings]
    streams = nncodec.run(_WORKER, nncodec.weights(running), asked, FOLDER, str(_DAMPING), hessians=found)
    files = nncodec.scored(model, running, streams, least, limit)
    return tuple(replace(file, cpu_seconds=file.cpu_seconds + calibration) for file in files)


def hessians(running: onnx.ModelProto, batches: Iterator[realdata.Array]) -> dict[str, realdata.Array]:
    """By name of a weight of Conv or Gemm: twice the sum of its inputs' products over places, a mean over images."""
    nodes = [node for node in running.graph.node if node.op_type in ("Conv", "Gemm")]
    inputs = sorted({node.input[0] for node in nodes} - {running.graph.input[0].name})
    session = onnxruntime.InferenceSession(
        expose(running, inputs), realdata.options(), providers=["CPUExecutionProvider"]
    )
    sums: dict[str, realdata.Array] = {}
    images = 0
    for batch in batches:
        images += len(batch)
        known = dict(zip(inputs, session.run(inputs, {running.graph.input[0].name: batch}), strict=True))
        known[running.graph.input[0].name] = batch
        for node in nodes:
            columns = _columns(node, known[node.input[0]])
            sums[node.input[1]] = sums.get(node.input[1], 0) + 2 * columns.T @ columns
    return {name: np.asarray(total, np.float64) / images for name, total in sums.items()}


def _columns(node: onnx.NodeProto, values: realdata.Array) -> realdata.Array:
    """[places, inputs of an output]; of a Conv with one group."""
    if node.op_type == "Gemm":
        return values
    options: Mapping[str, list[int]] = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    top, left, bottom, right = options.get("pads", [0] * 4)
    padded = np.pad(values, ((0, 0), (0, 0), (top, bottom), (left, right)))
    height, width = options.get("strides", [1, 1])
    windows = np.lib.stride_tricks.sliding_window_view(padded, tuple(options["kernel_shape"]), (2, 3))
    places = windows[:, :, ::height, ::width].transpose(0, 2, 3, 1, 4, 5)
    return np.ascontiguousarray(places).reshape(-1, int(np.prod(places.shape[3:])))
