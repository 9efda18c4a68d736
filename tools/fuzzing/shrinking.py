"""Makes a model that shows a finding small: fewer outputs, nodes and constants, while the finding stays."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from fuzzing.checking import Finding, check, modes
from fuzzing.growing import Array, every_node, free_names, stock, value_info
from fuzzing.models import Case, case_of
from fuzzing.running import quiet

SECONDS = 40.0
"""For one finding."""


def shrunk_to(found: Finding, folder: Path) -> str:
    """Writes the small model of a finding into the folder, and returns a line that describes it."""
    case = case_of(found.seed)
    if case is None:
        return f"model {found.seed}: not made again"
    with quiet():
        small = shrink(case, found) if found.kind not in ("killed", "slow") else case
    name = f"{found.kind.replace(' ', '_')}_{found.mode}_{found.seed}"
    onnx.save(small.model, folder / f"{name}.onnx")
    for number, (_, array) in enumerate(sorted(small.feeds[0].items())):
        np.save(folder / f"{name}.{number}.npy", array)
    operators = " ".join(node.op_type for node in every_node(small.model))
    return f"{name}.onnx: {operators}: {found.what}"


def shrink(case: Case, found: Finding) -> Case:
    """The smallest model that is found in `SECONDS`, by one change after the other."""
    until = time.monotonic() + SECONDS
    changed = True
    while changed:
        changed = False
        for smaller in _smaller(case):
            if time.monotonic() > until:
                return case
            if _shows(smaller, found):
                case, changed = smaller, True
                break
    return case


def _shows(case: Case, found: Finding) -> bool:
    """Whether the model is valid and has the finding."""
    mode = {found.mode: modes(found.seed, case.feeds)[found.mode]}
    with tempfile.TemporaryDirectory() as folder:
        try:
            again = check(case, Path(folder), mode)
        except Exception:  # stock ONNX Runtime does not run it
            return False
    return any(one.kind == found.kind and one.signature[:60] == found.signature[:60] for one in again)


def _smaller(case: Case) -> Iterator[Case]:
    """Models with one thing less, the greatest changes first."""
    if case.external:
        yield replace(case, external=False)
    outputs = list(case.model.graph.output)
    if len(outputs) > 1:
        for output in outputs:
            yield _with_outputs(case, [output])
    if len(outputs) > 2:
        for index in range(len(outputs)):
            yield _with_outputs(case, outputs[:index] + outputs[index + 1 :])
    values = _values(case)
    for node in case.model.graph.node[:-1]:
        if all(name in values for name in node.output if name):
            yield _cut(case, node, values)
    if len(outputs) == 1:
        for node in case.model.graph.node[:-1]:
            for name in node.output:
                if name in values:
                    yield _with_outputs(case, [value_info(name, values[name][0], None)])
    for tensor in case.model.graph.initializer:
        yield _without(case, tensor)


def _with_outputs(case: Case, outputs: list[onnx.ValueInfoProto]) -> Case:
    model = _copy(case)
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    return _tidy(case, model, case.feeds)


def _without(case: Case, tensor: onnx.TensorProto) -> Case:
    model = _copy(case)
    model.graph.initializer.remove(tensor)
    return _tidy(case, model, case.feeds)


def _copy(case: Case) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    return model


def _cut(case: Case, node: onnx.NodeProto, values: Mapping[str, list[Array]]) -> Case:
    """Without a node, whose outputs become inputs."""
    model = _copy(case)
    model.graph.node.remove(node)
    for name in node.output:
        if name:
            model.graph.input.append(value_info(name, values[name][0], values[name][0].shape))
    made = [name for name in node.output if name]
    feeds = [{**one, **{name: values[name][n] for name in made}} for n, one in enumerate(case.feeds)]
    return _tidy(case, model, feeds)


def _tidy(case: Case, model: onnx.ModelProto, feeds: Sequence[dict[str, Array]]) -> Case:
    """Without nodes that no output depends on, and the inputs and constants that only these read."""
    graph = model.graph
    needed, kept = {value.name for value in graph.output}, []
    for node in reversed(graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed |= free_names(node)
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in reversed(kept)]
    before = {name for node in case.model.graph.node for name in free_names(node)}
    del graph.node[:]
    graph.node.extend(nodes)
    gone = before - needed
    inputs = [value for value in graph.input if value.name not in gone]
    tensors = [tensor for tensor in graph.initializer if tensor.name not in gone]
    del graph.input[:], graph.initializer[:]
    graph.input.extend(inputs)
    graph.initializer.extend(tensors)
    names = {value.name for value in inputs}
    return replace(case, model=model, feeds=tuple({k: v for k, v in one.items() if k in names} for one in feeds))


def _values(case: Case) -> dict[str, list[Array]]:
    """Every tensor of the main graph that keeps its shape, on each of the feeds; none if it does not run so."""
    model = _copy(case)
    names = [name for node in model.graph.node for name in node.output if name]
    del model.graph.output[:]
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    for value in model.graph.output:
        value.ClearField("type")
    try:
        session = stock(model.SerializeToString(), optimized=False)
        runs = [session.run(names, dict(feeds)) for feeds in case.feeds]
    except Exception:  # some value is no tensor that the runtime gives out
        return {}
    found = {name: [run[index] for run in runs] for index, name in enumerate(names)}
    return {name: arrays for name, arrays in found.items() if _steady(arrays)}


def _steady(arrays: list[Array]) -> bool:
    return all(isinstance(a, np.ndarray) and a.shape == arrays[0].shape and a.dtype.kind in "fiub" for a in arrays)
