"""BERT as PyTorch exports it, of weights that lie in a package or are drawn."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from common.writer import Array, Writer, number

Weights = Callable[..., Array]
"""A weight by its name in Hugging Face's files and its shape."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a model; feed-forward layers have four times the width."""

    layers: int
    width: int
    heads: int
    words: int = 30522
    positions: int = 512


MINILM = Shape(6, 384, 12)
BASE = Shape(12, 768, 12)
"""Of BERT-base: 109 million weights."""


def of_safetensors(file: Path) -> Weights:
    """The weights of a .safetensors: the length of a header, the header in JSON, the bytes."""
    content = file.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])

    def weight(name: str, *shape: int) -> Array:
        first, end = header[name]["data_offsets"]
        return np.frombuffer(content[start + first : start + end], np.float32).reshape(shape)

    return weight


def drawn(name: str, *shape: int) -> Array:
    """Random weights whose channels differ as those of trained networks do. What they compute means nothing."""
    generator = np.random.default_rng(len(name) + sum(name.encode()))
    if len(shape) == 1:
        return np.full(shape, float(name.endswith("LayerNorm.weight")), np.float32)
    values = generator.standard_normal(shape, np.float32) * np.float32(0.03)
    return values * np.exp(generator.normal(0, 0.3, (shape[0], *(1,) * (len(shape) - 1)))).astype(np.float32)


@dataclass(slots=True, kw_only=True)
class Encoder(Writer):
    """Writes the parts of an encoder."""

    weights: Weights
    shape: Shape

    def weight(self, name: str, *shape: int) -> str:
        """Adds a weight under its own name."""
        return self.tensor(name, self.weights(name, *shape))

    def linear(self, x: str, name: str, inputs: int, outputs: int) -> str:
        """A fully connected layer, whose weight an exporter transposes."""
        matrix = self.tensor(f"{name}.weight^T", self.weights(f"{name}.weight", outputs, inputs).T)
        return self.node("Add", self.weight(f"{name}.bias", outputs), self.node("MatMul", x, matrix))

    def norm(self, x: str, name: str) -> str:
        """A layer normalization."""
        scale, bias = (self.weight(f"{name}.{part}", self.shape.width) for part in ("weight", "bias"))
        return self.node("LayerNormalization", x, scale, bias, axis=-1, epsilon=1e-12)

    def embedded(self) -> str:
        """Words, types and positions."""
        one, width = self.shape, self.shape.width
        words = self.node("Gather", self.weight("embeddings.word_embeddings.weight", one.words, width), "input_ids")
        types = self.node("Gather", self.weight("embeddings.token_type_embeddings.weight", 2, width), "token_type_ids")
        length = self.node("Gather", self.node("Shape", "input_ids"), np.array(1))
        places = self.node("Range", np.array(0), length, np.array(1))
        table = self.weight("embeddings.position_embeddings.weight", one.positions, width)
        added = self.node("Add", self.node("Add", words, types), self.node("Gather", table, places))
        return self.norm(added, "embeddings.LayerNorm")

    def layer(self, x: str, mask: str, name: str) -> str:
        """Attention, then two fully connected layers, each followed by a norm."""
        x = self.norm(self.node("Add", self.attended(x, mask, name), x), f"{name}.attention.output.LayerNorm")
        return self.norm(self.node("Add", self.fed(x, name), x), f"{name}.output.LayerNorm")

    def attended(self, x: str, mask: str, name: str) -> str:
        """Attention; no mask is an empty name."""
        width, heads = self.shape.width, self.shape.heads
        apart, together = np.array([0, 0, heads, width // heads]), np.array([0, 0, width])

        def head(part: str, order: list[int]) -> str:
            made = self.linear(x, f"{name}.attention.self.{part}", width, width)
            return self.node("Transpose", self.node("Reshape", made, apart), perm=order)

        scores = self.node("MatMul", head("query", [0, 2, 1, 3]), head("key", [0, 2, 3, 1]))
        scores = self.node("Div", scores, number((width // heads) ** 0.5))
        scores = self.node("Add", scores, mask) if mask else scores
        met = self.node("MatMul", self.node("Softmax", scores, axis=-1), head("value", [0, 2, 1, 3]))
        met = self.node("Reshape", self.node("Transpose", met, perm=[0, 2, 1, 3]), together)
        return self.linear(met, f"{name}.attention.output.dense", width, width)

    def fed(self, x: str, name: str) -> str:
        """Two fully connected layers."""
        width = self.shape.width
        wide = self.linear(x, f"{name}.intermediate.dense", width, 4 * width)
        erf = self.node("Erf", self.node("Div", wide, number(2**0.5)))
        wide = self.node("Mul", self.node("Mul", wide, self.node("Add", erf, number(1))), number(0.5))
        return self.linear(wide, f"{name}.output.dense", 4 * width, width)


def bert(shape: Shape, weights: Weights) -> onnx.ModelProto:
    """The encoder of ids, mask and types; its output are the vectors of all tokens."""
    writer = Encoder(weights=weights, shape=shape)
    x = writer.embedded()
    kept = writer.node("Cast", "attention_mask", to=TensorProto.FLOAT)
    left = writer.node("Mul", writer.node("Sub", number(1), kept), number(-1e4))
    mask = writer.node("Unsqueeze", left, np.array([1, 2]))
    for index in range(shape.layers):
        x = writer.layer(x, mask, f"encoder.layer.{index}")
    writer.nodes[-1].output[0] = "last_hidden_state"
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"])
        for name in ("input_ids", "attention_mask", "token_type_ids")
    ]
    sizes: list[str | int | None] = ["batch", "sequence", shape.width]
    output = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, sizes)
    graph = helper.make_graph(writer.nodes, "bert", inputs, [output], list(writer.tensors.values()))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
