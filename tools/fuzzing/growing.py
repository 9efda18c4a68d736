"""Grows a graph node by node: a proposed node is kept if stock ONNX Runtime runs it on the values that are there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from onnxopt.graph.normalise import subgraphs

Array = npt.NDArray[Any]

LARGEST = 20_000
"""Elements of a value; a larger one costs time and shows nothing more."""
ML_OPSET = 2
LOCAL = "local"
"""The domain of the model's own functions."""
_ODD = (
    "значение",
    "a b",
    "gradient of ",
    "cotangent of ",
    "x/y:0",
    "名",
    "w@0",
    "@",
    "onnxopt",
    "e\u0301",
    "a",
    "b",
    "",
)


@dataclass(frozen=True, slots=True)
class Value:
    """A value of the graph, and what it is on the sample inputs."""

    name: str
    array: Array

    @property
    def is_float(self) -> bool:
        """Whether it holds floats of any width."""
        return self.array.dtype.kind == "f"


@dataclass(slots=True)
class Shared:
    """What the graphs of one model have in common."""

    rng: np.random.Generator
    opset: int
    ir: int
    odd: bool
    """Whether names are odd."""
    functions: list[onnx.FunctionProto] = field(default_factory=list)
    names: set[str] = field(default_factory=set)


class Growth:
    """A graph under construction, with the values that its nodes may read: its own, and those of enclosing graphs."""

    def __init__(self, shared: Shared, outer: Sequence[Value] = (), depth: int = 0) -> None:
        self.shared, self.rng, self.depth = shared, shared.rng, depth
        self.values: list[Value] = list(outer)
        self.own: list[Value] = []
        """Values that nodes of this graph made."""
        self.inputs: list[Value] = []
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.weights: list[Value] = []

    # ---- chance ------------------------------------------------------------------------------------------------------

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return bool(self.rng.random() < probability)

    def one_of(self, choices: Sequence[Any]) -> Any:
        """One of the choices, each as likely."""
        return choices[int(self.rng.integers(len(choices)))]

    def between(self, least: int, most: int) -> int:
        """A number from `least` to `most`."""
        return int(self.rng.integers(least, most + 1))

    def pick(self, wanted: Callable[[Value], bool] = lambda value: value.is_float) -> Value | None:
        """A value that is as wanted, the latest ones more likely; None if there is none."""
        found = [value for value in self.values if wanted(value)]
        if not found:
            return None
        return found[max(self.between(0, len(found) - 1), self.between(0, len(found) - 1))]

    # ---- names -------------------------------------------------------------------------------------------------------

    def name(self, hint: str) -> str:
        """A name that no value of the model has yet."""
        taken = self.shared.names
        base = f"{self.one_of(_ODD)}{hint if self.chance(0.5) else ''}" if self.shared.odd else hint
        name, number = base, 1
        while not name or name in taken:
            number += 1
            name = f"{base}{'@' if self.shared.odd and self.chance(0.3) else '_'}{number}"
        taken.add(name)
        return name

    # ---- weights and constants ---------------------------------------------------------------------------------------

    def weight(self, shape: Sequence[int], dtype: Any = np.float32) -> str:
        """The name of a weight of this shape: a new one, or one that is used elsewhere too."""
        shape = tuple(shape)
        same = [one for one in self.weights if one.array.shape == shape and one.array.dtype == dtype]
        if same and self.chance(0.3):
            return str(self.one_of(same).name)
        values = _weight_values(self.rng, shape).astype(dtype)
        name = self.tensor(values, "w")
        self.weights.append(Value(name, values))
        return name

    def tensor(self, values: Array, hint: str = "c") -> str:
        """The name of a constant: an initializer, or the output of a Constant node."""
        values, name = np.asarray(values), self.name(hint)
        proto = numpy_helper.from_array(values, name)
        if proto.raw_data and values.dtype == np.float32 and self.chance(0.1):
            proto = helper.make_tensor(name, proto.data_type, values.shape, values.ravel().tolist())
        if self.chance(0.2) or self.depth < 0:
            self.nodes.append(helper.make_node("Constant", [], [name], value=proto, name=self._node_name()))
        else:
            self.initializers.append(proto)
        return name

    def ints(self, *values: int) -> str:
        """The name of a constant of int64 numbers."""
        return self.tensor(np.array(values, np.int64), "i")

    # ---- nodes -------------------------------------------------------------------------------------------------------

    def add(
        self, op: str, inputs: Sequence[str], outputs: int = 1, domain: str = "", **attributes: Any
    ) -> Value | None:
        """The first output of a new node; None, and no node, if stock ONNX Runtime does not run it."""
        names = [self.name(op.lower()) for _ in range(outputs)]
        given = {key: value for key, value in attributes.items() if value is not None}
        node = helper.make_node(op, list(inputs), names, name=self._node_name(), domain=domain, **given)
        arrays = self._run(node)
        if arrays is None:
            return None
        self.nodes.append(node)
        made = [Value(name, array) for name, array in zip(names, arrays, strict=True)]
        self.values += made
        self.own += made
        return made[0]

    def array(self, name: str) -> Array | None:
        """What a value or constant is on the sample inputs; None if there is none of this name."""
        for tensor in self.initializers:
            if tensor.name == name:
                return np.asarray(numpy_helper.to_array(tensor))
        for node in self.nodes:
            if node.op_type == "Constant" and node.output[0] == name:
                return np.asarray(numpy_helper.to_array(node.attribute[0].t))
        return next((value.array for value in self.values if value.name == name), None)

    def reads(self) -> set[str]:
        """Names that this graph takes from outside."""
        own = {tensor.name for tensor in self.initializers} | {value.name for value in self.inputs}
        found: set[str] = set()
        for node in self.nodes:
            found |= free_names(node) - own
            own |= set(node.output)
        return found

    def _node_name(self) -> str:
        return str(self.one_of(("", "", f"n{len(self.nodes)}", f"/модуль/узел.{len(self.nodes)}")))

    def _run(self, node: onnx.NodeProto) -> list[Array] | None:
        needed, feeds, constants = free_names(node), {}, []
        fixed = {tensor.name: tensor for tensor in self.initializers}
        fixed |= {n.output[0]: n.attribute[0].t for n in self.nodes if n.op_type == "Constant"}
        for name in sorted(needed):
            if name in fixed:
                constants.append(fixed[name])
                continue
            array = self.array(name)
            if array is None:
                return None
            feeds[name] = array
        inputs = [value_info(name, array, array.shape) for name, array in feeds.items()]
        outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
        graph = helper.make_graph([node], "g", inputs, outputs, constants)
        try:
            session = stock(self.model(graph).SerializeToString(), optimized=False)
            found = session.run(None, feeds)
        except Exception:  # the runtime's own classes: not a node that it runs
            return None
        if not all(isinstance(array, np.ndarray) and array.size <= LARGEST for array in found):
            return None
        strange = any(array.dtype.kind == "f" and not np.isfinite(array).all() for array in found)
        vast = any(array.dtype.kind == "f" and array.size and np.abs(array).max() > 1e4 for array in found)
        return None if (strange and not self.chance(0.1)) or (vast and not self.chance(0.1)) else found

    def model(self, graph: onnx.GraphProto) -> onnx.ModelProto:
        """A model of this graph with the opsets and functions of all."""
        opsets = [helper.make_opsetid("", self.shared.opset), helper.make_opsetid("ai.onnx.ml", ML_OPSET)]
        if self.shared.functions:
            opsets.append(helper.make_opsetid(LOCAL, 1))
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=self.shared.ir, functions=self.shared.functions
        )


def value_info(name: str, array: Array, shape: Sequence[int | str] | None) -> onnx.ValueInfoProto:
    """The declaration of a value of the array's type; without a shape if that is None."""
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), shape)


def free_names(node: onnx.NodeProto) -> set[str]:
    """Names that a node reads from the graph that it is in, through its subgraphs too."""
    found = set(node.input)
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            found |= _free_in(attribute.g)
    return found - {""}


def _free_in(graph: onnx.GraphProto) -> set[str]:
    own = {tensor.name for tensor in graph.initializer} | {value.name for value in graph.input}
    found: set[str] = set()
    for node in graph.node:
        found |= free_names(node) - own
        own |= set(node.output)
    return found | {value.name for value in graph.output} - own


def every_node(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Nodes of the graph, its subgraphs and the functions."""
    for graph in subgraphs(model.graph):
        yield from graph.node
    for function in model.functions:
        yield from function.node


def session_options() -> onnxruntime.SessionOptions:
    """One thread: how many there are may change the last bits of a sum."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.use_deterministic_compute = True
    return options


def stock(model: bytes | str, optimized: bool = True) -> onnxruntime.InferenceSession:
    """A session of stock ONNX Runtime."""
    options = session_options()
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _weight_values(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Mostly what training gives, sometimes zeros, few values, or very small or large ones."""
    scale = 1 / np.sqrt(max(1, np.prod(shape) / max(shape, default=1)))
    values = rng.normal(0, scale, shape)
    kind = rng.random()
    if kind < 0.08:
        values *= rng.random(shape) < 0.1
    elif kind < 0.14:
        values = np.round(values / scale) * scale
    elif kind < 0.17:
        values = np.zeros(shape)
    elif kind < 0.20:
        values *= rng.choice([1e-41, 1e-12, 1e-6, 1e3])
    elif kind < 0.24 and values.ndim:
        values *= np.exp(rng.normal(0, 2, (shape[0], *(1,) * (values.ndim - 1))))
    elif kind < 0.26:
        values.reshape(-1)[rng.integers(0, max(1, values.size)) if values.size else slice(0)] = 1e3
    return np.asarray(values)
