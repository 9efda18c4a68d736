"""What the graph says of each input: images, signals, token ids, masks, and their scale."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import onnx

from onnxopt.data.laws import Array
from onnxopt.files.set_aside import elements_of, is_set_aside

MOVES = (
    "Cast", "Identity", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Transpose", "Expand", "Slice", "Concat", "Pad",
    "Clip", "Tile",
)  # fmt: skip
"""Operators that pass elements on as they are."""
_DECODES = ("Identity", "Cast", "DequantizeLinear", "Mul", "Sub", "Add")
"""Operators that make a table of numbers of a stored one."""
_COMPARES = ("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual")


@dataclass(frozen=True, slots=True)
class Reader:
    """A node that reads an input's elements, unchanged but for their places."""

    node: onnx.NodeProto
    operand: int
    """Index of the input at this node."""
    added: int
    """The most that is added to it before."""


@dataclass(frozen=True)
class Hints:
    """A model's graph, asked about its inputs. Nodes of branches and loops count as nodes of the graph.

    Arguments:
        model: as it came, not changed.
    """

    model: onnx.ModelProto
    _constants: dict[str, onnx.TensorProto] = field(default_factory=dict, init=False, repr=False)
    _readers: dict[str, list[onnx.NodeProto]] = field(default_factory=dict, init=False, repr=False)
    _makers: dict[str, onnx.NodeProto] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        for graph in _graphs(self.model.graph):
            self._constants.update((tensor.name, tensor) for tensor in graph.initializer)
            for node in graph.node:
                if node.op_type == "Constant":
                    self._constants.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
                self._makers.update(dict.fromkeys(node.output, node))
                for name in node.input:
                    self._readers.setdefault(name, []).append(node)

    def readers(self, name: str) -> Iterator[Reader]:
        """The nodes that compute something of this input."""
        seen, todo = {name}, [(name, 0)]
        while todo:
            value, added = todo.pop(0)
            for node in self._readers.get(value, []):
                operand = list(node.input).index(value)
                more = self._added(node, operand)
                if more is None:
                    yield Reader(node, operand, added)
                    continue
                new = [output for output in node.output if output not in seen]
                seen.update(new)
                todo += [(output, added + more) for output in new]

    def _added(self, node: onnx.NodeProto, operand: int) -> int | None:
        """The most that a node adds to an operand whose elements it passes on; None if it does something else."""
        if (node.op_type in MOVES and operand == 0) or node.op_type == "Concat":
            return 0
        if node.op_type != "Add":
            return None
        other = self.constant(node.input[1 - operand])
        return int(other.max()) if other is not None and other.size and other.dtype.kind in "iu" else None

    def constant(self, name: str) -> Array | None:
        """The values of a constant; None if this is no constant, or its values lie in another file."""
        tensor = self._constants.get(name)
        if tensor is None or (tensor.data_location == onnx.TensorProto.EXTERNAL and not is_set_aside(tensor)):
            return None
        return elements_of(tensor)

    def tensor(self, name: str) -> onnx.TensorProto:
        """A constant as it is stored, under this name. Raises KeyError if there is none."""
        named = onnx.TensorProto()
        named.CopyFrom(self._constants[name])
        named.name = name
        return named

    def direct(self, name: str) -> list[onnx.NodeProto]:
        """The nodes that read a value."""
        return self._readers.get(name, [])

    def known(self, name: str) -> bool:
        """Whether the graph has this input and reads it."""
        return name in self._readers

    def rows(self, name: str) -> int | None:
        """How many rows the tables have that this input indexes: the fewest; None if it indexes none."""
        found = []
        for reader in self.readers(name):
            inputs, size = reader.node.input, None
            if reader.node.op_type in ("Gather", "GatherElements", "GatherND") and reader.operand == 1:
                table = self._table(inputs[0])
                axis = next((a.i for a in reader.node.attribute if a.name == "axis"), 0)
                size = table.dims[axis] if table is not None and table.dims else None
            elif reader.node.op_type == "OneHot" and reader.operand == 0:
                depth = self.constant(inputs[1])
                size = None if depth is None else int(depth.ravel()[0])
            elif reader.node.op_type == "Equal":  # a comparison with 0, 1, 2, ... makes one hot
                several = self._behind(inputs[1 - reader.operand])
                size = several.size if several is not None and several.size > 1 else None
            if size and size > reader.added:
                found.append(int(size) - reader.added)
        return min(found, default=None)

    def _table(self, name: str) -> onnx.TensorProto | None:
        """The constant that a table is made of, which may be stored as integers."""
        while name not in self._constants and name in self._makers and self._makers[name].op_type in _DECODES:
            name = self._makers[name].input[0]
        return self._constants.get(name)

    def _behind(self, name: str) -> Array | None:
        """The constant that a value is made of by moving elements."""
        while (found := self.constant(name)) is None and name in self._makers and self._makers[name].op_type in MOVES:
            name = self._makers[name].input[0]
        return found

    def compared(self, name: str) -> list[int]:
        """The integer constants that this input is compared with."""
        found = []
        for reader in self.readers(name):
            if reader.node.op_type in _COMPARES:
                other = self.constant(reader.node.input[1 - reader.operand])
                if other is not None and other.size == 1:
                    found.append(int(other.ravel()[0]))
        return found

    def filtered(self, name: str) -> bool:
        """Whether this input is filtered or resized as an image is: by nodes with windows, or by batch normalization.

        An input that is joined with a computed value before that, as a cache is, does not count.
        """
        seen, todo = {name}, [name]
        while todo:
            value = todo.pop(0)
            for node in self._readers.get(value, []):
                if node.op_type in _WINDOWS and list(node.input).index(value) == 0:
                    return True
                others = [other for other in node.input if other and other != value]
                moves = node.op_type in MOVES and node.op_type != "Concat"
                if moves or (node.op_type in _SCALES and all(other in self._constants for other in others)):
                    new = [output for output in node.output if output not in seen]
                    seen.update(new)
                    todo += new
        return False

    @cached_property
    def scales(self) -> Mapping[str, tuple[float, float]]:
        """Factor and offset of inputs that the model itself normalises; see `scale`."""
        found = {value.name: self.scale(value.name) for value in self.model.graph.input}
        return {name: scale for name, scale in found.items() if scale != (1.0, 0.0)}

    def scale(self, name: str) -> tuple[float, float]:
        """Factor and offset that make values of mean 0 and variance 1 what the model normalises to these.

        A model that begins with ``(x - 127.5) / 128`` takes pixels, so the scale is ``(128, 127.5)``. A batch
        normalization of the input tells its mean and its variance, QuantizeLinear the range that it covers.
        """
        factor, offset = 1.0, 0.0  # input = factor * value + offset
        while len(self._readers.get(name, [])) == 1:
            node = self._readers[name][0]
            found = self._inverted(node, name)
            if found is None:
                break
            a, b = found
            factor, offset = factor * a, offset + factor * b
            if node.op_type in ("BatchNormalization", "QuantizeLinear"):
                break
            name = node.output[0]
        return factor, offset

    def _inverted(self, node: onnx.NodeProto, name: str) -> tuple[float, float] | None:
        """a and b of ``input = a output + b`` for a node that scales `name`; None if it does something else."""
        if node.op_type in MOVES and node.op_type != "Concat":
            return (1.0, 0.0) if node.input[0] == name else None
        if node.op_type == "BatchNormalization" and node.input[0] == name:
            mean, variance = self.constant(node.input[3]), self.constant(node.input[4])
            return None if mean is None or variance is None else (float(np.sqrt(variance.mean())), float(mean.mean()))
        if node.op_type == "QuantizeLinear" and node.input[0] == name:
            step = self.constant(node.input[1])
            zero = self.constant(node.input[2]) if len(node.input) > 2 else np.zeros(1, np.uint8)
            if step is None or zero is None or zero.dtype.kind not in "iu":
                return None
            middle = (float(np.iinfo(zero.dtype).min) + float(np.iinfo(zero.dtype).max)) / 2
            return 64 * float(step.mean()), float(step.mean()) * (middle - float(zero.mean()))
        return self._arithmetic(node, name)

    def _arithmetic(self, node: onnx.NodeProto, name: str) -> tuple[float, float] | None:
        """The same for arithmetic with a constant."""
        if node.op_type not in _SCALES or len(node.input) != 2:
            return None
        first = node.input[0] == name
        other = self.constant(node.input[1 if first else 0])
        if other is None or other.dtype.kind not in "iuf" or not other.size:
            return None
        c = float(np.mean(other))
        match node.op_type:
            case "Sub":
                return (1.0, c) if first else (-1.0, c)
            case "Add":
                return 1.0, -c
            case "Mul" if c != 0:
                return 1 / c, 0.0
            case "Div" if c != 0 and first:
                return c, 0.0
        return None


def input_scale(model: onnx.ModelProto) -> dict[str, tuple[float, float]]:
    """By input that the model itself normalises, factor and offset; see `Inputs.scale`."""
    return dict(Hints(model).scales)


_WINDOWS = (
    "Conv", "ConvTranspose", "MaxPool", "AveragePool", "Resize", "Upsample", "BatchNormalization",
    "InstanceNormalization", "QLinearConv", "ConvInteger",
)  # fmt: skip
_SCALES = ("Sub", "Add", "Mul", "Div", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _graphs(attribute.g)
            for inner in attribute.graphs:
                yield from _graphs(inner)
