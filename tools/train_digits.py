"""Trains the demo model, models/digits.onnx, from scratch in numpy: about a minute, the same bytes on every run.

    python tools/train_digits.py [-o models/digits.onnx]

Data: scikit-learn's digits, 1,797 images of 8 x 8 pixels 0..16, of which 360 are the test part (`split`).
Net: conv 3x3 1->24, ReLU, conv 3x3 24->48, ReLU, max pool 2, dense 768->128, ReLU, dense 128->10.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits

Array = np.ndarray[Any, Any]

SEED = 7
TEST_IMAGES = 360
EPOCHS = 30
BATCH = 64
RATE = 1e-3
WEIGHT_DECAY = 1e-3


def split() -> tuple[Array, Array, Array, Array]:
    """Training images and labels, test images and labels; images float32 [n, 1, 8, 8] in 0..1."""
    digits = load_digits()
    images = (digits.images[:, None] / 16).astype(np.float32)
    order = np.random.default_rng(SEED).permutation(len(images))
    test, train = order[:TEST_IMAGES], order[TEST_IMAGES:]
    return images[train], digits.target[train], images[test], digits.target[test]


def initial(rng: np.random.Generator) -> dict[str, Array]:
    """He's initialisation: standard deviation sqrt(2 / fan-in)."""
    shapes = {"conv1": (24, 1, 3, 3), "conv2": (48, 24, 3, 3), "dense1": (128, 768), "dense2": (10, 128)}
    parameters: dict[str, Array] = {}
    for name, shape in shapes.items():
        fan_in = int(np.prod(shape[1:]))
        parameters[f"{name}.weight"] = rng.normal(0, np.sqrt(2 / fan_in), shape).astype(np.float32)
        parameters[f"{name}.bias"] = np.zeros(shape[0], np.float32)
    return parameters


def patches(x: Array) -> Array:
    """[n, c, h, w] to [n, h, w, c * 9]: the 3 x 3 neighbourhood of each pixel, zeros beyond the border."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(*x.shape[:1], *x.shape[2:], -1)


def unpatch(gradient: Array, channels: int) -> Array:
    """The adjoint of `patches`: [n, h, w, c * 9] to [n, c, h, w]."""
    n, h, w, _ = gradient.shape
    windows = gradient.reshape(n, h, w, channels, 3, 3).transpose(0, 3, 4, 5, 1, 2)
    padded = np.zeros((n, channels, h + 2, w + 2), np.float32)
    for i in range(3):
        for j in range(3):
            padded[:, :, i : i + h, j : j + w] += windows[:, :, i, j]
    return padded[:, :, 1:-1, 1:-1]


def gradients(p: dict[str, Array], x: Array, labels: Array) -> tuple[float, dict[str, Array]]:
    """Mean cross-entropy of a batch and its gradient for each parameter."""
    n = len(x)
    w1, w2 = p["conv1.weight"].reshape(24, -1), p["conv2.weight"].reshape(48, -1)
    a1 = patches(x)
    z1 = np.maximum(a1 @ w1.T + p["conv1.bias"], 0)
    a2 = patches(z1.transpose(0, 3, 1, 2))
    z2 = np.maximum(a2 @ w2.T + p["conv2.bias"], 0)
    blocks = z2.reshape(n, 4, 2, 4, 2, 48).transpose(0, 5, 1, 3, 2, 4).reshape(n, 48, 4, 4, 4)
    winner = blocks.argmax(-1)[..., None]
    flat = np.take_along_axis(blocks, winner, -1).reshape(n, 768)
    hidden = np.maximum(flat @ p["dense1.weight"].T + p["dense1.bias"], 0)
    logits = hidden @ p["dense2.weight"].T + p["dense2.bias"]
    odds = np.exp(logits - logits.max(1, keepdims=True))
    odds /= odds.sum(1, keepdims=True)
    loss = -float(np.log(odds[np.arange(n), labels] + 1e-12).mean())

    d_logits = odds
    d_logits[np.arange(n), labels] -= 1
    d_logits /= n
    d_hidden = (d_logits @ p["dense2.weight"]) * (hidden > 0)
    d_flat = d_hidden @ p["dense1.weight"]
    d_blocks = np.zeros_like(blocks)
    np.put_along_axis(d_blocks, winner, d_flat.reshape(n, 48, 4, 4, 1), -1)
    d_z2 = d_blocks.reshape(n, 48, 4, 4, 2, 2).transpose(0, 2, 4, 3, 5, 1).reshape(n, 8, 8, 48) * (z2 > 0)
    d_z1 = unpatch(d_z2 @ w2, 24).transpose(0, 2, 3, 1) * (z1 > 0)
    return loss, {
        "dense2.weight": d_logits.T @ hidden,
        "dense2.bias": d_logits.sum(0),
        "dense1.weight": d_hidden.T @ flat,
        "dense1.bias": d_hidden.sum(0),
        "conv2.weight": np.tensordot(d_z2, a2, ([0, 1, 2], [0, 1, 2])).reshape(48, 24, 3, 3),
        "conv2.bias": d_z2.sum((0, 1, 2)),
        "conv1.weight": np.tensordot(d_z1, a1, ([0, 1, 2], [0, 1, 2])).reshape(24, 1, 3, 3),
        "conv1.bias": d_z1.sum((0, 1, 2)),
    }


def shifted(x: Array, rng: np.random.Generator) -> Array:
    """Each image moved by up to one pixel in each direction: the training set is small."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    dy, dx = rng.integers(0, 3, (2, len(x)))
    return np.stack([image[:, i : i + 8, j : j + 8] for image, i, j in zip(padded, dy, dx, strict=True)])


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
            loss, gradient = gradients(p, shifted(images[chosen], rng), labels[chosen])
            step += 1
            rate = RATE * 0.5 * (1 + np.cos(np.pi * step / steps))
            for k, g in gradient.items():
                mean[k] += 0.1 * (g - mean[k])
                square[k] += 0.001 * (g * g - square[k])
                update = mean[k] / (1 - 0.9**step) / (np.sqrt(square[k] / (1 - 0.999**step)) + 1e-8)
                decay = WEIGHT_DECAY if k.endswith("weight") else 0.0
                p[k] = (p[k] - rate * (update + decay * p[k])).astype(np.float32)
        print(f"epoch {epoch + 1:2d}: loss {loss:.4f}")
    return p


def model(parameters: dict[str, Array]) -> onnx.ModelProto:
    """The net as ONNX: `input` float32 [n, 1, 8, 8] to `logits` float32 [n, 10]."""

    def layer(op: str, name: str, source: str, target: str, **attributes: Any) -> onnx.NodeProto:
        return helper.make_node(op, [source, f"{name}.weight", f"{name}.bias"], [target], name, **attributes)

    nodes = [
        layer("Conv", "conv1", "input", "c1", pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
        layer("Conv", "conv2", "r1", "c2", pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        helper.make_node("Relu", ["c2"], ["r2"], "relu2"),
        helper.make_node("MaxPool", ["r2"], ["p2"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p2"], ["f"], "flatten", axis=1),
        layer("Gemm", "dense1", "f", "d1", transB=1),
        helper.make_node("Relu", ["d1"], ["r3"], "relu3"),
        layer("Gemm", "dense2", "r3", "logits", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 10])],
        [numpy_helper.from_array(value, name) for name, value in parameters.items()],
    )
    made = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="onnxopt digits"
    )
    onnx.checker.check_model(made, full_check=True)
    return made


def main() -> None:
    """Trains, writes, and prints the test accuracy and the file's sha256."""
    parser = argparse.ArgumentParser(description="Trains the demo model.")
    default = Path(__file__).resolve().parents[1] / "models" / "digits.onnx"
    parser.add_argument("-o", "--output", type=Path, default=default)
    output: Path = parser.parse_args().output
    images, labels, test_images, test_labels = split()
    made = model(train(images, labels))
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(made.SerializeToString(deterministic=True))

    session = onnxruntime.InferenceSession(str(output), providers=["CPUExecutionProvider"])
    found = session.run(None, {"input": test_images})[0].argmax(1)
    right = int((found == test_labels).sum())
    print(f"{output}: {output.stat().st_size:,} bytes, {right} of {len(test_labels)} test images right "
          f"({100 * right / len(test_labels):.2f} %)")  # fmt: skip
    print("sha256", hashlib.sha256(output.read_bytes()).hexdigest())


if __name__ == "__main__":
    main()
