"""A Llama decoder with its cache as inputs and outputs, as exporters write it, of the weights in a GGUF file or of
random ones.

The package `gguf` reads these files: `pip install gguf`.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from common.bert import drawn
from common.writer import Array, Writer, number
from tables import CannotMeasureError

_POSITIONS = 2048
"""That the tables of angles have; a cache may grow to so many."""


class File:
    """A GGUF file of a Llama model. Raises CannotMeasureError where gguf is not installed."""

    def __init__(self, path: Path) -> None:
        try:
            self._gguf: Any = importlib.import_module("gguf")
        except ImportError:
            raise CannotMeasureError("a GGUF file is read by the package gguf: pip install gguf") from None
        self._reader = self._gguf.GGUFReader(path)
        self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}

    def field(self, name: str) -> Any:
        """What the file says of its model."""
        return self._reader.fields[name].contents()

    def weight(self, name: str) -> Array:
        """A weight [outputs, inputs], or a vector."""
        tensor = self._tensors[name]
        return np.array(self._gguf.quants.dequantize(tensor.data, tensor.tensor_type), np.float32)

    @cached_property
    def shape(self) -> Shape:
        """The sizes of the model."""
        names = ("block_count", "embedding_length", "attention.head_count", "attention.head_count_kv")
        layers, width, heads, shared = (int(self.field(f"llama.{name}")) for name in names)
        base, epsilon = (
            float(self.field(f"llama.{name}")) for name in ("rope.freq_base", "attention.layer_norm_rms_epsilon")
        )
        return Shape(layers, width, heads, shared, base, epsilon)

    def tokenizer(self) -> Tokenizer:
        """Byte pairs; digits stand alone."""
        tokens = {token: i for i, token in enumerate(self.field("tokenizer.ggml.tokens"))}
        merges = [tuple(pair.split(" ")) for pair in self.field("tokenizer.ggml.merges")]
        tokenizer = Tokenizer(models.BPE(vocab=tokens, merges=merges))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        tokenizer.decoder = decoders.ByteLevel()
        return tokenizer


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a model."""

    layers: int
    width: int
    heads: int
    shared: int
    """Heads of keys and values, each for `heads / shared` of queries."""
    base: float
    """Of the angles' frequencies."""
    epsilon: float

    @property
    def head(self) -> int:
        """The width of a head."""
        return self.width // self.heads


@dataclass(frozen=True, slots=True)
class Drawn:
    """Random weights, in the place of a file."""

    shape: Shape
    wide: int
    """Outputs of the layers that a gate multiplies."""
    words: int

    def weight(self, name: str) -> Array:
        """A weight [outputs, inputs], or a vector."""
        shape = self.shape
        width, shared = shape.width, shape.shared * shape.head
        outputs, inputs = {
            "token_embd": (self.words, width), "attn_k": (shared, width), "attn_v": (shared, width),
            "ffn_gate": (self.wide, width), "ffn_up": (self.wide, width), "ffn_down": (width, self.wide),
        }.get(name.split(".")[-2], (width, width))  # fmt: skip
        return np.ones(width, np.float32) if "norm" in name else drawn(name, outputs, inputs)


@dataclass(slots=True, kw_only=True)
class _Writer(Writer):
    file: File | Drawn
    shape: Shape

    def linear(self, x: str, name: str, heads: int = 0) -> str:
        """A fully connected layer. `heads` says that GGUF has the elements that turn together side by side."""
        matrix = self.file.weight(f"{name}.weight")
        if heads:
            pairs = matrix.reshape(heads, -1, 2, matrix.shape[1])
            matrix = pairs.swapaxes(1, 2).reshape(matrix.shape)
        return self.node("MatMul", x, self.tensor(f"{name}.weight^T", matrix.T))

    def norm(self, x: str, name: str) -> str:
        """x / sqrt(mean(x^2) + epsilon) * weight."""
        squares = self.node("ReduceMean", self.node("Pow", x, number(2)), np.array([-1]), keepdims=1)
        deviation = self.node("Sqrt", self.node("Add", squares, number(self.shape.epsilon)))
        scale = self.tensor(f"{name}.weight", self.file.weight(f"{name}.weight"))
        return self.node("Mul", self.node("Div", x, deviation), scale)

    def angles(self) -> tuple[str, str]:
        """Cosines and sines [batch, 1, new, head] of the positions."""
        frequencies = self.shape.base ** (-np.arange(0, self.shape.head, 2) / self.shape.head)
        turns = np.outer(np.arange(_POSITIONS), np.tile(frequencies, 2))
        tables = {"cos": np.cos(turns), "sin": np.sin(turns)}
        found = [
            self.node("Gather", self.tensor(name, table.astype(np.float32)), "position_ids")
            for name, table in tables.items()
        ]
        cosines, sines = (self.node("Unsqueeze", one, np.array([1])) for one in found)
        return cosines, sines

    def turned(self, x: str, angles: tuple[str, str]) -> str:
        """Rotary positions (Su et al. 2021): the halves of a head turn together."""
        half = self.shape.head // 2
        first = self.node("Slice", x, np.array([0]), np.array([half]), np.array([3]))
        second = self.node("Slice", x, np.array([half]), np.array([2 * half]), np.array([3]))
        across = self.node("Concat", self.node("Neg", second), first, axis=3)
        return self.node("Add", self.node("Mul", x, angles[0]), self.node("Mul", across, angles[1]))

    def mask(self) -> str:
        """[batch, 1, new, all]: 0 where a token sees another, which is no padding and not behind it; else -1e9."""
        every = self.node("Gather", self.node("Shape", "attention_mask"), np.array(1))
        new = self.node("Gather", self.node("Shape", "input_ids"), np.array(1))
        columns = self.node("Range", np.array(0), every, np.array(1))
        rows = self.node(
            "Unsqueeze", self.node("Range", self.node("Sub", every, new), every, np.array(1)), np.array([1])
        )
        before = self.node("LessOrEqual", columns, rows)
        tokens = self.node("Unsqueeze", self.node("Cast", "attention_mask", to=TensorProto.BOOL), np.array([1, 2]))
        return self.node("Where", self.node("And", before, tokens), number(0), number(-1e9))

    def layer(self, x: str, mask: str, angles: tuple[str, str], index: int) -> str:
        """Attention, then a gated pair of fully connected layers."""
        shape, name = self.shape, f"blk.{index}"
        normed = self.norm(x, f"{name}.attn_norm")

        def heads(part: str, count: int, turning: bool) -> str:
            made = self.linear(normed, f"{name}.attn_{part}", count if turning else 0)
            apart = self.node("Reshape", made, np.array([0, 0, count, shape.head]))
            return self.node("Transpose", apart, perm=[0, 2, 1, 3])

        def all_of(new: str, part: str) -> str:
            grown = self.node("Concat", f"past_key_values.{index}.{part}", new, axis=2)
            self.output(grown, f"present.{index}.{part}")
            times = np.array([1, 1, shape.heads // shape.shared, 1, 1])
            repeated = self.node("Tile", self.node("Unsqueeze", grown, np.array([2])), times)
            return self.node("Reshape", repeated, np.array([0, shape.heads, -1, shape.head]))

        query = self.turned(heads("q", shape.heads, True), angles)
        keys = all_of(self.turned(heads("k", shape.shared, True), angles), "key")
        values = all_of(heads("v", shape.shared, False), "value")
        scores = self.node("MatMul", query, self.node("Transpose", keys, perm=[0, 1, 3, 2]))
        scores = self.node("Add", self.node("Mul", scores, number(shape.head**-0.5)), mask)
        met = self.node("MatMul", self.node("Softmax", scores, axis=-1), values)
        met = self.node("Reshape", self.node("Transpose", met, perm=[0, 2, 1, 3]), np.array([0, 0, shape.width]))
        x = self.node("Add", x, self.linear(met, f"{name}.attn_output"))
        normed = self.norm(x, f"{name}.ffn_norm")
        gate = self.linear(normed, f"{name}.ffn_gate")
        gate = self.node("Mul", gate, self.node("Sigmoid", gate))
        wide = self.node("Mul", gate, self.linear(normed, f"{name}.ffn_up"))
        return self.node("Add", x, self.linear(wide, f"{name}.ffn_down"))


def llama(file: File | Drawn) -> onnx.ModelProto:
    """The decoder of `input_ids[batch, new]`, `attention_mask[batch, all]`, `position_ids[batch, new]` and caches.

    Outputs are `logits[batch, new, words]` and the grown caches. Its table of words is its last layer, too.
    """
    writer, shape = _Writer(file=file, shape=file.shape), file.shape
    words = file.weight("token_embd.weight")
    table = writer.tensor("token_embd.weight", words)
    x = writer.node("Gather", table, "input_ids")
    mask, angles = writer.mask(), writer.angles()
    for index in range(shape.layers):
        x = writer.layer(x, mask, angles, index)
    x = writer.norm(x, "output_norm")
    writer.output(writer.node("MatMul", x, writer.node("Transpose", table, perm=[1, 0])), "logits")

    def caches(name: str, length: str) -> list[onnx.ValueInfoProto]:
        dims: list[str | int | None] = ["batch", shape.shared, length, shape.head]
        return [
            helper.make_tensor_value_info(f"{name}.{index}.{part}", TensorProto.FLOAT, dims)
            for index in range(shape.layers)
            for part in ("key", "value")
        ]

    lengths = {"input_ids": "new", "attention_mask": "all", "position_ids": "new"}
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", one]) for name, one in lengths.items()]
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "new", len(words)])
    graph = helper.make_graph(
        writer.nodes,
        "llama",
        [*inputs, *caches("past_key_values", "past")],
        [logits, *caches("present", "all")],
        list(writer.tensors.values()),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
