"""Weights that exporters compute: Fourier and cosine bases, positions, tied embeddings. No training made them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxopt.encoding import Encoding, Raw

Floats = npt.NDArray[np.float32]


def stft(n: int) -> Floats:
    """[2 (n / 2 + 1), n]: the real and the imaginary parts of a Fourier basis under a Hann window."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / n)
    basis = np.fft.fft(np.eye(n))[: n // 2 + 1] * window
    return np.vstack([basis.real, basis.imag]).astype(np.float32)


def dct(n: int) -> Floats:
    """[n, n]: the orthonormal cosine transform, type II."""
    k = np.arange(n)[:, None]
    basis = np.sqrt(2 / n) * np.cos(np.pi / n * (np.arange(n) + 0.5) * k)
    return np.asarray(np.where(k == 0, np.sqrt(1 / n), basis), np.float32)


def positions(n: int) -> Floats:
    """[4 n, n]: sines and cosines of positions [Vaswani et al. 2017, arXiv:1706.03762]."""
    angle = np.arange(4 * n)[:, None] * np.exp(np.arange(0, n, 2) * (-np.log(10000) / n))
    return np.stack([np.sin(angle), np.cos(angle)], 2).reshape(4 * n, n).astype(np.float32)


def mel(n: int) -> Floats:
    """[n / 4, n + 1]: triangular filters on the mel scale, for spectra of 16 kHz."""
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 8000 / 700), n // 4 + 2) / 2595) - 1)
    frequency = np.linspace(0, 8000, n + 1)
    rise = (frequency - edges[:-2, None]) / np.diff(edges)[:-1, None]
    fall = (edges[2:, None] - frequency) / np.diff(edges)[1:, None]
    return np.maximum(0, np.minimum(rise, fall)).astype(np.float32)


BASES: dict[str, Callable[[int], Floats]] = {
    "STFT basis": stft, "DCT basis": dct, "positional table": positions, "mel filters": mel,
}  # fmt: skip
TABLES = (*BASES, "tied embedding")
"""What `model` makes."""


def model(name: str, n: int) -> onnx.ModelProto:
    """A model with one of `TABLES`; `n` is its width."""
    if name not in BASES:
        return tied("float32", 16 * n, n)
    table = BASES[name](n)
    return _model([helper.make_node("MatMul", ["x", "table"], ["y"])], {"table": table}, len(table), table.shape[1])


def tied(dtype: str, words: int, width: int) -> onnx.ModelProto:
    """A model whose head is the transpose of its embedding, stored twice, as many exporters do."""
    weight = np.random.default_rng(0).normal(0, 0.02, (words, width)).astype(numpy_dtype(dtype))
    weights = {"embedding": weight, "head": np.ascontiguousarray(weight.T)}
    nodes = [
        helper.make_node("Cast", ["embedding"], ["in"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["head"], ["out"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["x", "in"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "out"], ["y"]),
    ]
    return _model(nodes, weights, words, words)


def encodings(model: onnx.ModelProto) -> dict[str, Encoding]:
    """Its weights as they are, for a container."""
    return {tensor.name: Raw(numpy_helper.to_array(tensor)) for tensor in model.graph.initializer}


def numpy_dtype(dtype: str) -> np.dtype[np.generic]:
    """Of float32, float16 or bfloat16, which NumPy itself lacks."""
    return np.dtype(helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16) if dtype == "bfloat16" else dtype)


def _model(nodes: list[onnx.NodeProto], weights: dict[str, Floats], inputs: int, outputs: int) -> onnx.ModelProto:
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size])
        for name, size in (("x", inputs), ("y", outputs))
    ]
    tensors = [numpy_helper.from_array(values, name) for name, values in weights.items()]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
