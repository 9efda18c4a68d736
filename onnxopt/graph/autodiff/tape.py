"""The tape that differentiation rules write to: nodes of a backward model, made by arithmetic on its values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnxopt.encoding import Array
from onnxopt.files.set_aside import tensor_of

OPSET, IR = 18, 8
"""Of backward models: the first opset with all that the rules need; onnxruntime 1.17 supports it."""
BLOCKED = "com.microsoft.nchwc"
"""The domain of operators on blocks of channels; see `blocked`."""
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)


class NoGradient(Exception):
    """The gradient cannot pass a node; the text says why."""


@dataclass(frozen=True, slots=True)
class Forward:
    """What one run of the forward model shows of each value."""

    shapes: dict[str, tuple[int, ...]]
    types: dict[str, int]
    """Element types, as in onnx.TensorProto."""
    constants: dict[str, Array]
    """Values that depend on no input's elements: weights, shapes, and what is computed from them."""

    def bytes_of(self, name: str) -> int:
        """Of a value."""
        return prod(self.shapes[name]) * helper.tensor_dtype_to_np_dtype(self.types[name]).itemsize


class Tape:
    """The backward model under construction; all values are float32 except indices and shapes.

    Arguments:
        prefix: of the names of new values.
    """

    def __init__(self, forward: Forward, prefix: str = "") -> None:
        self.forward, self._prefix = forward, prefix
        self.nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, Array] = {}
        self._inputs: dict[str, onnx.ValueInfoProto] = {}
        self._used: dict[str, Var] = {}
        self.blocked: dict[str, Var] = {}
        """Values in blocks of channels, by name; see `blocked`."""
        self.added: dict[str, tuple[Var, Var, int]] = {}
        """By name of a value that is zeros but for what was added: indices, that, and their axis."""

    def op(self, op: str, *inputs: Operand | None, **attributes: Any) -> Var:
        """The output of a new node."""
        return self.ops(op, 1, *inputs, **attributes)[0]

    def ops(self, op: str, count: int, *inputs: Operand | None, **attributes: Any) -> list[Var]:
        """All `count` outputs of a new node."""
        names = ["" if value is None else self.var(value).name for value in inputs]
        outputs = [f"{self._prefix}{op}.{len(self.nodes)}.{i}" for i in range(count)]
        self.nodes.append(helper.make_node(op, names, outputs, **attributes))
        return [Var(self, name) for name in outputs]

    def var(self, value: Operand) -> Var:
        """`value` itself, or a constant: int64 for arrays of integers, which are shapes and indices, else float32."""
        if isinstance(value, Var):
            return value
        array = np.asarray(value, value.dtype if isinstance(value, np.ndarray) else np.float32)
        name = f"{self._prefix}constant.{len(self._constants)}"
        self._constants[name] = array.astype(np.int64 if array.dtype.kind in "iu" else np.float32, copy=False)
        return Var(self, name)

    def input(self, name: str, shape: Sequence[int], dtype: int = TensorProto.FLOAT) -> Var:
        """A new input of the backward model."""
        self._inputs[name] = helper.make_tensor_value_info(name, dtype, shape)
        return Var(self, name)

    def value(self, name: str) -> Var:
        """A value of the forward model, as float32."""
        if name not in self._used:
            dtype = self.forward.types[name]
            if name in self.forward.constants:
                self._used[name] = self._turned(self.forward.constants[name].astype(np.float32, copy=False))
            else:
                var = self.input(name, self.forward.shapes[name], dtype)
                self._used[name] = var if dtype == TensorProto.FLOAT else self.op("Cast", var, to=TensorProto.FLOAT)
        return self._used[name]

    def _turned(self, array: Array) -> Var:
        """A constant; of a view with its axes in another order, what it is a view of."""
        order = sorted(range(array.ndim), key=lambda axis: -array.strides[axis])
        if array.flags.c_contiguous or not (whole := array.transpose(order)).flags.c_contiguous:
            return self.var(array)
        return self.var(whole).transpose(np.argsort(order).tolist())

    def model(self, outputs: dict[str, Var]) -> tuple[bytes, list[str]]:
        """The model of these outputs, without unused nodes, and the names of its inputs. Empties the tape."""
        for name, var in outputs.items():
            self.nodes.append(helper.make_node("Identity", [var.name], [name]))
        needed, nodes = set(outputs), []
        for node in reversed(self.nodes):
            if needed.intersection(node.output):
                nodes.append(node)
                needed.update(node.input)
        inputs = [value for name, value in self._inputs.items() if name in needed]
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(BLOCKED, 1)]
        model = onnx.ModelProto(ir_version=IR, opset_import=opsets)
        model.graph.name = "backward"
        model.graph.node.extend(reversed(nodes))
        model.graph.input.extend(inputs)
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
        self.initialize(model.graph, needed)
        self._used.clear()
        return model.SerializeToString(), [value.name for value in inputs]

    def initialize(self, graph: onnx.GraphProto, needed: set[str]) -> None:
        """Moves those of the tape's constants that are needed to a graph."""
        for name in list(self._constants):  # mostly weights: there is no room for two copies
            array = self._constants.pop(name)
            if name in needed:
                graph.initializer.append(tensor_of(array, name))


@dataclass(frozen=True, slots=True)
class Var:
    """A value of the backward model. Arithmetic broadcasts; comparisons give 0.0 or 1.0."""

    tape: Tape = field(repr=False)
    name: str

    def __add__(self, other: Operand) -> Var:
        return self.tape.op("Add", self, other)

    def __sub__(self, other: Operand) -> Var:
        return self.tape.op("Sub", self, other)

    def __rsub__(self, other: Operand) -> Var:
        return self.tape.op("Sub", other, self)

    def __mul__(self, other: Operand) -> Var:
        return self.tape.op("Mul", self, other)

    def __truediv__(self, other: Operand) -> Var:
        return self.tape.op("Div", self, other)

    def __rtruediv__(self, other: Operand) -> Var:
        return self.tape.op("Div", other, self)

    def __pow__(self, other: Operand) -> Var:
        return self.tape.op("Pow", self, other)

    def __neg__(self) -> Var:
        return self.tape.op("Neg", self)

    def __gt__(self, other: float) -> Var:
        return self._compare("Greater", other)

    def __lt__(self, other: float) -> Var:
        return self._compare("Less", other)

    __radd__, __rmul__ = __add__, __mul__

    def same(self, other: Operand) -> Var:
        """1.0 where equal."""
        return self._compare("Equal", other)

    def _compare(self, op: str, other: Operand) -> Var:
        return self.tape.op("Cast", self.tape.op(op, self, other), to=TensorProto.FLOAT)

    def apply(self, op: str, *inputs: Operand, **attributes: Any) -> Var:
        """The output of an operator whose first input is this."""
        return self.tape.op(op, self, *inputs, **attributes)

    def reshape(self, shape: Sequence[int]) -> Var:
        """The same elements in another shape; sizes may be 0, but only from opset 14 on."""
        empty = {"allowzero": 1} if 0 in shape else {}
        return self.apply("Reshape", np.array(shape, np.int64), **empty)

    def transpose(self, permutation: Sequence[int]) -> Var:
        """Axes in another order."""
        return self.apply("Transpose", perm=list(permutation))

    def sum(self, axes: Sequence[int], keepdims: bool = True) -> Var:
        """Sum over these axes; the value itself if there are none."""
        if not axes:
            return self
        return self.apply("ReduceSum", np.array(axes, np.int64), keepdims=int(keepdims))

    def mean(self, axes: Sequence[int]) -> Var:
        """Mean over these axes, which stay with size 1."""
        return self.apply("ReduceMean", np.array(axes, np.int64), keepdims=1)

    def expand(self, shape: Sequence[int]) -> Var:
        """Broadcast to `shape`."""
        return self.apply("Expand", np.array(shape, np.int64))

    def pad(self, before: Sequence[int], after: Sequence[int]) -> Var:
        """Zeros around; a negative number crops."""
        if not any(before) and not any(after):
            return self
        return self.apply("Pad", np.array([*before, *after], np.int64))


Operand = Var | Array | float


class Node:
    """One node of the forward model, as its rule sees it."""

    def __init__(self, proto: onnx.NodeProto, opset: int) -> None:
        standard = proto.domain in ("", "ai.onnx")
        self.op = proto.op_type if standard else f"{proto.domain}::{proto.op_type}"
        self.name = proto.name or (proto.output[0] if proto.output else "")
        self.inputs = list(proto.input)
        self.outputs = list(proto.output)
        self.opset = opset
        self.attributes = {a.name: helper.get_attribute_value(a) for a in proto.attribute}
        self.subgraphs = [a.g for a in proto.attribute if a.type == onnx.AttributeProto.GRAPH]
        self.grads: list[Var | None] = []
        """Gradients of the outputs, while the node's rule runs."""
        self.wanted: set[str] = set()
        """Inputs whose gradients are needed, while the node's rule runs."""

    tape: Tape
    """The tape that the rule writes to; set before it runs."""

    @property
    def dy(self) -> Var:
        """Gradient of the first output."""
        assert self.grads[0] is not None
        return self.grads[0]

    @property
    def x(self) -> Var:
        """The first input."""
        return self.input(0)

    @property
    def y(self) -> Var:
        """The first output."""
        return self.tape.value(self.outputs[0])

    @property
    def rank(self) -> int:
        """Number of axes of the first input."""
        return len(self.shape(0))

    def input(self, index: int) -> Var:
        """An input's value."""
        return self.tape.value(self.inputs[index])

    def shape(self, index: int) -> tuple[int, ...]:
        """An input's shape."""
        return self.tape.forward.shapes[self.inputs[index]]

    @property
    def out_shape(self) -> tuple[int, ...]:
        """The first output's shape."""
        return self.tape.forward.shapes[self.outputs[0]]

    def has(self, index: int) -> bool:
        """Whether an optional input is given."""
        return index < len(self.inputs) and bool(self.inputs[index])

    def wants(self, index: int) -> bool:
        """Whether an input's gradient is needed: for rules in which it is expensive."""
        return self.inputs[index] in self.wanted

    def constant(self, index: int) -> Array:
        """An input that depends on no input of the model. Raises NoGradient if it does."""
        if self.inputs[index] not in self.tape.forward.constants:
            raise NoGradient(f"its input {index} is not constant")
        return self.tape.forward.constants[self.inputs[index]]

    def operand(self, index: int) -> Var | Array:
        """An input: as a constant if it depends on no input of the model, else its value."""
        found = self.tape.forward.constants.get(self.inputs[index])
        return self.input(index) if found is None else found

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute's value; strings as str."""
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def ints(self, name: str, index: int) -> list[int] | None:
        """Integers that are an attribute in older opsets and an input in newer ones; None if absent."""
        if self.has(index):
            return [int(i) for i in self.constant(index).ravel()]
        found: list[int] | None = self.attr(name)
        return found


Rule = Callable[[Node], Iterator[tuple[int, Var]]]
"""Yields (index of an input, its gradient). Gradients that are not needed are dropped."""
RULES: dict[str, Rule] = {}
"""By operator; ``domain::Op`` if the domain is not ONNX's own."""


def rule(*ops: str) -> Callable[[Rule], Rule]:
    """Registers a rule for these operators."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(ops, function))
        return function

    return register


def sum_to(grad: Var, shape: Sequence[int], target: Sequence[int]) -> Var:
    """The gradient of an operand of shape `target` that was broadcast to `shape`."""
    if tuple(shape) == tuple(target):
        return grad
    missing = len(shape) - len(target)
    axes = [i for i, size in enumerate(shape) if i < missing or (target[i - missing] == 1 and size != 1)]
    return grad.sum(axes).reshape(target)
