"""A decoder small enough for tests, in ONNX Runtime GenAI.

    python genai.py model.onnx [libonnxopt.so]

generates greedily and prints the tokens as JSON. The package onnxruntime-genai is found by PYTHONPATH.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from common.pages import ROOT

VERSION = "0.18.0"
PACKAGE = ROOT / "build" / "runtimes" / f"onnxruntime-genai-{VERSION}"
"""The folder that tests/test_genai.py fetches it into."""
_WORDS, _WIDTH, _LENGTH, _PROMPT = 512, 64, 24, (5, 9, 33)
_KEYS, _VALUES = "past_key_values.0.key", "past_key_values.0.value"


def write_decoder(path: Path) -> None:
    """Writes a decoder of one head with a cache, which adds the mean of all values to each query; random weights."""
    random = np.random.default_rng(0)

    def weight(name: str, rows: int, cols: int) -> onnx.TensorProto:
        return numpy_helper.from_array((random.integers(-7, 8, (rows, cols)) * 0.05).astype(np.float32), name)

    node = helper.make_node
    nodes = [node("Gather", ["embedding", "input_ids"], ["x"])]
    for name in ("query", "key", "value"):
        nodes.append(node("MatMul", ["x", f"{name}.weight"], [name]))
    for name, before, after in (("key", _KEYS, "present.0.key"), ("value", _VALUES, "present.0.value")):
        nodes += [
            node("Reshape", [name, "heads"], [f"{name}.split"]),
            node("Transpose", [f"{name}.split"], [f"{name}.head"], perm=[0, 2, 1, 3]),
            node("Concat", [before, f"{name}.head"], [after], axis=2),
        ]
    nodes += [
        node("ReduceMean", ["present.0.value"], ["mean"], axes=[1, 2], keepdims=0),
        node("Unsqueeze", ["mean", "one"], ["context"]),
        node("Add", ["query", "context"], ["y"]),
        node("MatMul", ["y", "head.weight"], ["logits"]),
    ]
    weights = [
        weight("embedding", _WORDS, _WIDTH),
        *(weight(f"{name}.weight", _WIDTH, _WIDTH) for name in ("query", "key", "value")),
        weight("head.weight", _WIDTH, _WORDS),
        numpy_helper.from_array(np.array([0, -1, 1, _WIDTH]), "heads"),
        numpy_helper.from_array(np.array([1]), "one"),
    ]

    def tensors(dtype: int, shapes: dict[str, list[str | int]]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(name, dtype, shape) for name, shape in shapes.items()]

    def cache(length: str) -> list[str | int]:
        return ["batch", 1, length, _WIDTH]

    tokens = tensors(TensorProto.INT64, {"input_ids": ["batch", "length"], "attention_mask": ["batch", "all"]})
    past = tensors(TensorProto.FLOAT, {_KEYS: cache("past"), _VALUES: cache("past")})
    outputs: dict[str, list[str | int]] = {"logits": ["batch", "length", _WORDS]}
    present = tensors(TensorProto.FLOAT, outputs | {"present.0.key": cache("all"), "present.0.value": cache("all")})
    graph = helper.make_graph(nodes, "decoder", [*tokens, *past], present, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def config(model: str, library: str | None) -> dict[str, object]:
    """What genai_config.json says of such a decoder; `library` lies beside the model."""
    session = {"provider_options": [], **({"custom_ops_library": library} if library else {})}
    decoder = {
        "filename": model,
        "session_options": session,
        "head_size": _WIDTH,
        "hidden_size": _WIDTH,
        "num_attention_heads": 1,
        "num_hidden_layers": 1,
        "num_key_value_heads": 1,
        "inputs": {"past_key_names": "past_key_values.%d.key", "past_value_names": "past_key_values.%d.value"},
        "outputs": {"present_key_names": "present.%d.key", "present_value_names": "present.%d.value"},
    }
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "vocab_size": _WORDS, "context_length": 64}
    return {"model": {"type": "llama", **ids, "decoder": decoder}, "search": {"max_length": _LENGTH}}


def generated(model: Path, library: Path | None = None) -> list[int]:
    """The tokens, from a process of its own. Raises CalledProcessError."""
    folders = [PACKAGE, Path(onnxruntime.__file__).parent.parent, ROOT / "tools"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))}
    command = [sys.executable, "-P", __file__, str(model), *([str(library)] if library else [])]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    found: list[int] = json.loads(done.stdout)
    return found


def main(model: str, library: str = "") -> None:
    """See the module."""
    import onnxruntime_genai  # noqa: PLC0415 (in processes of `generated` alone)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(model, folder / "model.onnx")
        if library:
            shutil.copy(library, folder)
        (folder / "genai_config.json").write_text(json.dumps(config("model.onnx", Path(library).name or None)))
        loaded = onnxruntime_genai.Model(str(folder))
        generator = onnxruntime_genai.Generator(loaded, onnxruntime_genai.GeneratorParams(loaded))
        generator.append_tokens(np.array([_PROMPT], np.int32))
        while not generator.is_done():
            generator.generate_next_token()
        print(json.dumps(generator.get_sequence(0).tolist()))


if __name__ == "__main__":
    main(*sys.argv[1:])
