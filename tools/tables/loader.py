"""What a compressed model costs to load and to run, against the same model as a plain file: VGG-16's shapes.

Weights are normal random ones on 4-bit grids, and have the same values in every form. Loads are measured in fresh
processes, the forms taking turns; runs are measured in turns in one process. Other work on the machine then slows all
forms alike, so the figures are medians of ratios within a turn, not ratios of medians.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np
import onnx
import onnxruntime
import psutil
from onnx import TensorProto, helper, numpy_helper

import onnxopt
from common.kept import ONNXOPT, fresh
from common.pages import machine, markdown
from onnxopt.build import container
from onnxopt.encoding import Affine, nearest_log_step
from onnxopt.graph import Graph, split, wrap
from onnxopt.measure import memory
from tables import Table

LOADS, RUNS = 5, 15
"""Of each form."""
VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)
"""Output channels of each 3x3 convolution; 0 is a 2x2 pooling."""
FORMS = ("plain", "registered", "load")
MIB = 1 << 20


def random_weight(rng: np.random.Generator, shape: tuple[int, ...]) -> Affine:
    """Normal weights of He's initialization, on a 4-bit grid with one scale a row."""
    sigma = np.sqrt(2 / np.prod(shape[1:]))
    k = nearest_log_step(np.full(shape[0], 0.35 * sigma))
    q = np.rint(rng.standard_normal(shape, np.float32) / np.float32(0.35))
    return Affine(np.clip(q, -8, 7).astype(np.int32), k, 0, np.dtype(np.float32))


def vgg(width: float) -> tuple[onnx.ModelProto, dict[str, Affine]]:
    """A network of VGG-16's shapes, every width times `width`, and its encoded weights."""
    rng = np.random.default_rng(0)
    nodes, weights, value, channels = [], {}, "image", 3
    for index, wanted in enumerate(VGG16):
        at = f"{index}"
        if wanted == 0:
            nodes.append(helper.make_node("MaxPool", [value], [at], kernel_shape=[2, 2], strides=[2, 2]))
        else:
            outputs = int(wanted * width)
            weights[f"w{at}"] = random_weight(rng, (outputs, channels, 3, 3))
            nodes.append(helper.make_node("Conv", [value, f"w{at}"], [f"c{at}"], pads=[1, 1, 1, 1]))
            nodes.append(helper.make_node("Relu", [f"c{at}"], [at]))
            channels = outputs
        value = at
    nodes.append(helper.make_node("Flatten", [value], ["flat"]))
    value, features = "flat", channels * 49
    for name, outputs in (("fc6", int(4096 * width)), ("fc7", int(4096 * width)), ("fc8", 1000)):
        weights[f"{name}.w"] = random_weight(rng, (outputs, features))
        nodes.append(helper.make_node("Gemm", [value, f"{name}.w"], [name], transB=1))
        nodes.append(helper.make_node("Relu" if name != "fc8" else "Softmax", [name], [f"{name}.out"]))
        value, features = f"{name}.out", outputs
    graph = helper.make_graph(
        nodes,
        "vgg",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 224, 224])],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, [1, 1000])],
        [numpy_helper.from_array(w.values(), name) for name, w in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), weights


def on_grids(model: onnx.ModelProto, folder: Path) -> None:
    """Writes the model plain and compressed, its matrices replaced by random ones on grids."""
    rng = np.random.default_rng(0)
    matrices = [tensor for tensor in model.graph.initializer if len(tensor.dims) > 1]
    weights = {tensor.name: random_weight(rng, tuple(tensor.dims)) for tensor in matrices}
    for tensor in matrices:
        tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name].values(), tensor.name))
    write(model, weights, folder)


def write_models(folder: Path, width: float) -> None:
    """Writes the plain and the compressed file of a network of VGG-16's shapes."""
    write(*vgg(width), folder)


def write(model: onnx.ModelProto, weights: dict[str, Affine], folder: Path) -> None:
    """Writes a model as plain.onnx, and with its weights encoded as compressed.onnx."""
    onnx.save(model, folder / "plain.onnx")
    inner, outside, tensors = split(model)
    graph = Graph(inner)
    for name, weight in weights.items():
        graph.store(name, weight)
    inner, encodings = graph.export()
    packed = container.write(inner.SerializeToString(), encodings, "{}")
    onnx.save(wrap(model, inner, outside, tensors, packed), folder / "compressed.onnx")


def session(folder: Path, form: str) -> onnxruntime.InferenceSession:
    """The model in one of `FORMS`."""
    path = str(folder / ("plain.onnx" if form == "plain" else "compressed.onnx"))
    if form == "load":
        return onnxopt.load(path)
    options = onnxruntime.SessionOptions()
    if form == "registered":
        onnxopt.register(options)
    return onnxruntime.InferenceSession(path, options)


def measure_load(folder: Path, form: str) -> dict[str, float]:
    """Seconds and MiB of one load, in this process; steady is after a run."""
    before = psutil.Process().memory_info().rss
    started = time.perf_counter()
    loaded = session(folder, form)
    seconds = time.perf_counter() - started
    peak = memory.peak() or before
    loaded.run(None, {"image": np.zeros((1, 3, 224, 224), np.float32)})
    steady = psutil.Process().memory_info().rss
    return {"load s": seconds, "peak MiB": (peak - before) / MIB, "steady MiB": (steady - before) / MIB}


def measure_runs(folder: Path, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of every run of each form, in turns."""
    sessions = {form: session(folder, form) for form in FORMS}
    image = np.random.default_rng(1).random((1, 3, 224, 224), np.float32)
    wanted = sessions["plain"].run(None, {"image": image})[0]
    times: dict[str, list[float]] = {form: [] for form in FORMS}
    for turn in range(rounds):
        for form in FORMS[turn % 3 :] + FORMS[: turn % 3]:  # each comes first, second and last equally often
            one = sessions[form]
            started = time.perf_counter()
            got = one.run(None, {"image": image})[0]
            times[form].append((time.perf_counter() - started) * 1e3)
            assert np.array_equal(got, wanted), f"{form} gives other values"
    return times


def cells(name: str, values: dict[str, list[float]]) -> list[str]:
    """A row: the median of each form, and the median of its ratios to plain within each turn."""
    line = [name]
    for form in FORMS:
        ratios = [x / plain for x, plain in zip(values[form], values["plain"], strict=True)]
        line.append(f"{median(values[form]):.2f}" + ("" if form == "plain" else f" ({median(ratios):.3f}x)"))
    return line


def measured(width: float, loads: int, runs: int) -> list[list[str]]:
    """A row for each quantity, of a network of `width` times VGG-16's channels."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fresh(write_models, folder, width)
        sizes = {file.stem: f"{file.stat().st_size / MIB:.1f}" for file in folder.iterdir()}
        rows = [["file MiB", sizes["plain"], sizes["compressed"], sizes["compressed"]]]
        turns = [{form: fresh(measure_load, folder, form) for form in FORMS} for _ in range(loads)]
        for what in turns[0]["plain"]:
            rows.append(cells(what, {form: [turn[form][what] for turn in turns] for form in FORMS}))
        rows.append(cells("run ms", measure_runs(folder, runs)))
    return rows


def render(rows: Sequence[list[str]]) -> str:
    """The rows in Markdown."""
    table = markdown(["", *FORMS], "lrrr", rows)
    setting = f"Medians of {LOADS} loads and {RUNS} runs of each form on {machine()}"
    return f"{table}\n\n{setting}, ONNX Runtime {onnxruntime.__version__}."


TABLES = (Table("loader", "docs/loader.md", 3, lambda scope: ONNXOPT.once(measured, 1.0, LOADS, RUNS), render),)
