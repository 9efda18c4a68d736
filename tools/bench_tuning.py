"""The time of an update's forward and backward pass on one core, against PyTorch's on the same network, in turns.

    python tools/bench_tuning.py resnet20 resnet32     # needs torch, which nothing else here does

Both run a ResNet for CIFAR-10 (He et al. 2016) with its batch norms folded, on the same images and cotangents, and give
the gradients of all weights and biases. PyTorch has the layout that is faster, of channels first and channels last.
"""

from __future__ import annotations

import argparse
import importlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnxruntime import OrtValue

from common import realdata
from onnxopt.data import one_core
from onnxopt.graph import Gradient, normalise, without_defaults

BATCH, ROUNDS = 64, 15


def ours(model: str, images: np.ndarray[Any, Any]) -> Callable[[], object]:
    """A pass of the training graphs."""
    proto = onnx.load(realdata.path_of(model))
    normalise(proto)
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    layers = [node for node in proto.graph.node if node.op_type in ("Conv", "Gemm")]
    weights = {name: tensors[name] for node in layers for name in node.input[1:]}
    inputs = [onnx.helper.make_tensor_value_info(name, 1, array.shape) for name, array in weights.items()]
    proto.graph.input.extend(inputs)
    gradient = Gradient(proto, list(weights), keeps=True)
    without_defaults(proto, weights)
    feeds = {proto.graph.input[0].name: images, **weights}
    given = {name: OrtValue.ortvalue_from_numpy(array) for name, array in feeds.items()}
    ones = np.ones((len(images), 10), np.float32)
    return lambda: gradient.pulled_back(given, lambda starts, _: {start.name: ones for start in starts})


def theirs(model: str, images: np.ndarray[Any, Any], last: bool) -> Callable[[], object]:
    """A pass of PyTorch's.

    Arguments:
        last: whether channels are the last axis in memory.
    """
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(1)
    blocks, convolutions = (int(model.removeprefix("resnet")) - 2) // 6, [torch.nn.Conv2d(3, 16, 3, 1, 1)]
    for stage, width in enumerate((16, 32, 64)):
        for block in range(blocks):
            first = stage > 0 and block == 0
            convolutions += [
                torch.nn.Conv2d(width // 2 if first else width, width, 3, 2 if first else 1, 1),
                torch.nn.Conv2d(width, width, 3, 1, 1),
            ]
    network = torch.nn.ModuleList([*convolutions, torch.nn.Linear(64, 10)])
    layout = torch.channels_last if last else torch.contiguous_format
    network.to(memory_format=layout)
    x = torch.from_numpy(images).contiguous(memory_format=layout)

    def run() -> None:
        network.zero_grad(set_to_none=True)
        h = network[0](x).relu()
        for index in range(1, len(convolutions), 2):
            y = network[index + 1](network[index](h).relu())
            if y.shape[1] != h.shape[1]:
                more = y.shape[1] // 4
                h = torch.nn.functional.pad(h[:, :, ::2, ::2], (0, 0, 0, 0, more, more))
            h = (y + h).relu()
        network[-1](h.mean((2, 3))).sum().backward()

    return run


def in_turns(runs: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Milliseconds of CPU time of a sample, the least of all rounds."""
    least = dict.fromkeys(runs, float("inf"))
    for _ in range(ROUNDS):
        for name, run in runs.items():
            begun = time.process_time()
            run()
            least[name] = min(least[name], (time.process_time() - begun) / BATCH * 1e3)
    return least


def main() -> None:
    """Prints a line for each model."""
    parser = argparse.ArgumentParser(description="Forward and backward pass, against PyTorch's.")
    parser.add_argument("models", nargs="+", choices=("resnet20", "resnet32", "resnet56"))
    for model in parser.parse_args().models:
        task = realdata.TASKS[model]
        images = task.prepare(task.read("train").images[:BATCH])
        with one_core():
            our = ours(model, images)
            found = in_turns({"ours": our, "first": theirs(model, images, False), "last": theirs(model, images, True)})
        best = min(found["first"], found["last"])
        print(f"{model}: {found['ours']:.2f} ms a sample, PyTorch {best:.2f} ms ({found['first']:.2f} with channels "
              f"first, {found['last']:.2f} last), {found['ours'] / best:.2f} times as long, one thread, batch {BATCH}",
              flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
