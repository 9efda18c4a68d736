"""Trains models/lenet_300_100.onnx from scratch in numpy: some minutes, the same bytes on every run.

    OPENBLAS_NUM_THREADS=1 python tools/train_lenet300.py [-o models/lenet_300_100.onnx]

LeNet-300-100, which papers on compression measure themselves on: dense 784->300, ReLU, dense 300->100, ReLU, dense
100->10 (LeCun et al. 1998). Data: MNIST from the shared folder (see common/realdata.py), trained on its training part.
"""

from __future__ import annotations

import argparse
import hashlib
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from common import realdata

Array = np.ndarray[Any, Any]

SEED = 7
EPOCHS = 30
BATCH = 100
RATE = 1e-3
WEIGHT_DECAY = 1e-2
WIDTHS = (784, 300, 100, 10)
NAMES = ("dense1", "dense2", "dense3")


def initial(rng: np.random.Generator) -> dict[str, Array]:
    """He's initialisation: standard deviation sqrt(2 / fan-in)."""
    parameters: dict[str, Array] = {}
    for name, (inputs, outputs) in zip(NAMES, pairwise(WIDTHS), strict=True):
        parameters[f"{name}.weight"] = rng.normal(0, np.sqrt(2 / inputs), (outputs, inputs)).astype(np.float32)
        parameters[f"{name}.bias"] = np.zeros(outputs, np.float32)
    return parameters


def gradients(p: dict[str, Array], x: Array, labels: Array) -> tuple[float, dict[str, Array]]:
    """Mean cross-entropy of a batch [n, 784] and its gradient for each parameter."""
    meets = [x]
    for name in NAMES[:-1]:
        meets.append(np.maximum(meets[-1] @ p[f"{name}.weight"].T + p[f"{name}.bias"], 0))
    logits = meets[-1] @ p[f"{NAMES[-1]}.weight"].T + p[f"{NAMES[-1]}.bias"]
    odds = np.exp(logits - logits.max(1, keepdims=True))
    odds /= odds.sum(1, keepdims=True)
    loss = -float(np.log(odds[np.arange(len(x)), labels] + 1e-12).mean())
    odds[np.arange(len(x)), labels] -= 1
    error, found = odds / len(x), dict[str, Array]()
    for name, met in zip(reversed(NAMES), reversed(meets), strict=True):
        found[f"{name}.weight"], found[f"{name}.bias"] = error.T @ met, error.sum(0)
        error = (error @ p[f"{name}.weight"]) * (met > 0)
    return loss, found


def train(images: Array, labels: Array) -> dict[str, Array]:
    """The parameters after EPOCHS of Adam with decoupled weight decay (Loshchilov & Hutter 2019), rate falling to 0."""
    rng = np.random.default_rng(SEED)
    p = initial(rng)
    mean = {k: np.zeros_like(v) for k, v in p.items()}
    square = {k: np.zeros_like(v) for k, v in p.items()}
    steps = EPOCHS * (len(images) // BATCH)
    step = 0
    for epoch in range(EPOCHS):
        order = rng.permutation(len(images))
        for i in range(0, len(images) - BATCH + 1, BATCH):
            chosen = order[i : i + BATCH]
            loss, gradient = gradients(p, images[chosen], labels[chosen])
            step += 1
            rate = np.float32(RATE * 0.5 * (1 + np.cos(np.pi * step / steps)))
            for k, g in gradient.items():
                mean[k] += np.float32(0.1) * (g - mean[k])
                square[k] += np.float32(0.001) * (g * g - square[k])
                update = mean[k] / np.float32(1 - 0.9**step) / (np.sqrt(square[k] / np.float32(1 - 0.999**step)) + 1e-8)
                decay = np.float32(WEIGHT_DECAY if k.endswith("weight") else 0)
                p[k] -= rate * (update + decay * p[k])
        print(f"epoch {epoch + 1:2d}: loss {loss:.4f}", flush=True)
    return p


def model(parameters: dict[str, Array]) -> onnx.ModelProto:
    """The net as ONNX: `input` float32 [n, 1, 28, 28] to `logits` float32 [n, 10]."""
    nodes, value = [helper.make_node("Flatten", ["input"], ["flat"], "flatten", axis=1)], "flat"
    for index, name in enumerate(NAMES, 1):
        target = "logits" if name == NAMES[-1] else f"d{index}"
        nodes.append(helper.make_node("Gemm", [value, f"{name}.weight", f"{name}.bias"], [target], name, transB=1))
        if name != NAMES[-1]:
            value = f"r{index}"
            nodes.append(helper.make_node("Relu", [target], [value], f"relu{index}"))
    graph = helper.make_graph(
        nodes,
        "lenet_300_100",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 1, 28, 28])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 10])],
        [numpy_helper.from_array(value, name) for name, value in parameters.items()],
    )
    made = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="onnxopt lenet_300_100"
    )
    onnx.checker.check_model(made, full_check=True)
    return made


def main() -> None:
    """Trains, writes, and prints the test accuracy and the file's sha256."""
    parser = argparse.ArgumentParser(description="Trains LeNet-300-100 on MNIST.")
    default = realdata.OWN_MODELS / "lenet_300_100.onnx"
    parser.add_argument("-o", "--output", type=Path, default=default)
    output: Path = parser.parse_args().output
    task = realdata.TASKS["lenet_300_100"]
    samples = task.read("train")
    made = model(train(task.prepare(samples.images).reshape(len(samples.images), -1), samples.labels))
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(made.SerializeToString(deterministic=True))

    found = realdata.evaluate("lenet_300_100", realdata.plain_session(output))
    print(f"{output}: {output.stat().st_size:,} bytes, {found.metric:.2f} % of {len(found.predictions):,} test images "
          "right")  # fmt: skip
    print("sha256", hashlib.sha256(output.read_bytes()).hexdigest())


if __name__ == "__main__":
    main()
