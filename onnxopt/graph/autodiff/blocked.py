"""Convolutions in the layout of ONNX Runtime's fastest kernels on the CPU, for weights that are no constants.

The runtime lays tensors out in blocks of channels by itself, but only where it knows the weights beforehand. In
training, the weights are inputs. In the gradient of the weights, both sides are activations. So the layout is asked for
here, by the operators of the models that the runtime saves when it has optimized one (``com.microsoft.nchwc``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto
from onnxruntime import InferenceSession

from onnxopt.data import providers_in_use, quiet_session
from onnxopt.graph.autodiff.tape import BLOCKED, Forward, Tape, Var

_SIZES = (16, 8)
"""Of a block, that the runtime may have; the kernels of each processor have one."""


def block() -> int:
    """Channels of a block; 0 where sessions have no kernels with blocks."""
    return 0 if providers_in_use() else _block()


@cache
def _block() -> int:
    """Found by trying: no interface of the runtime tells it."""
    generator, most = np.random.default_rng(0), max(_SIZES)
    x, w = (generator.normal(size=(2 * most, most, side, side)).astype(np.float32) for side in (5, 3))
    for size in _SIZES:
        tape = Tape(Forward({}, {}, {}))
        feeds = {"x": tape.input("x", x.shape), "w": tape.input("w", w.shape)}
        blocked = convolved(rows_of(feeds["x"]), _in_blocks(feeds["w"], w.shape, size), w.shape, pads=[1] * 4)
        plain = feeds["x"].apply("Conv", feeds["w"], pads=[1] * 4)
        model, _ = tape.model({"blocked": blocked, "plain": plain})
        try:
            session: InferenceSession = quiet_session(model)
            found, wanted = session.run(["blocked", "plain"], {"x": x, "w": w})
        except Exception:  # the runtime's own types, which share no base class: there are no such kernels
            return 0
        if np.allclose(found, wanted, rtol=1e-3, atol=1e-3):
            return size
    return 0


def fits(shape: Sequence[int], group: int) -> bool:
    """Whether a convolution whose weights have this shape can be done in blocks."""
    size = block()
    return size > 0 and group == 1 and len(shape) == 4 and shape[0] % size == shape[1] % size == 0


def convolved(rows: Var, kernel: Var, shape: Sequence[int], bias: Var | None = None, **attributes: Any) -> Var:
    """A convolution ``[n, shape[0], ...]``.

    Arguments:
        rows: what is convolved, see `rows_of`.
        kernel: in blocks, see `weights` and `samples`.
        shape: ``[outputs, inputs, height, width]`` of the kernel.
        attributes: as those of Conv.
    """
    given = [kernel] if bias is None else [kernel, bias]
    found = rows.apply("Conv", *given, domain=BLOCKED, **{**attributes, "kernel_shape": list(shape[2:])})
    return found.apply("ReorderOutput", domain=BLOCKED, channels=shape[0])


def rows_of(x: Var) -> Var:
    """Values ``[n, channels, height, width]`` in blocks; the same node for all that read them so."""
    known = x.tape.blocked
    if x.name not in known:
        known[x.name] = x.apply("ReorderInput", domain=BLOCKED)
    return known[x.name]


def padded(rows: Var, shape: Sequence[int], before: Sequence[int], after: Sequence[int]) -> Var:
    """Rows with zeros around. In blocks, there is more to copy at a time.

    Arguments:
        shape: ``[n, channels, height, width]``.
        before: zeros above and on the left.
        after: zeros below and on the right.
    """
    (count, channels, height, width), size = shape, block()
    found = rows.reshape([count, channels // size, height, width * size])
    found = found.pad([0, 0, before[0], before[1] * size], [0, 0, after[0], after[1] * size])
    return found.reshape([count, channels, height + before[0] + after[0], width + before[1] + after[1]])


def weights(w: Var, shape: Sequence[int]) -> Var:
    """Weights ``[outputs, inputs, height, width]`` as a kernel in blocks."""
    return _in_blocks(w, shape, block())


def _in_blocks(w: Var, shape: Sequence[int], size: int) -> Var:
    outputs, inputs, height, width = shape
    parts = w.reshape([outputs // size, size, inputs // size, size, height * width])
    return parts.transpose([0, 2, 4, 3, 1]).reshape(shape)


def samples(values: Var, shape: Sequence[int]) -> Var:
    """Values ``[n, channels, height, width]`` as a kernel in blocks, with the channels as outputs and n as inputs."""
    (count, channels, height, width), size = shape, block()
    parts = rows_of(values).reshape([count // size, size, channels // size, height * width, size])
    return parts.transpose([2, 0, 3, 1, 4]).reshape([channels, count, height, width])


def with_blocks(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> onnx.ModelProto:
    """The model with blocks in its convolutions whose weights are inputs; the model itself where none fits.

    Arguments:
        shapes: of all values.
    """
    given = {value.name for value in model.graph.input if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    given -= {tensor.name for tensor in model.graph.initializer}
    found = {node.output[0] for node in model.graph.node if _is_dynamic(node, given, shapes)}
    if not found:
        return model
    tape = Tape(Forward({}, {}, {}), prefix=f"{min(found)}@")
    for node in model.graph.node:
        if node.output[0] not in found:
            tape.nodes.append(node)
            continue
        x, w, *bias = (Var(tape, name) for name in node.input if name)
        shape = shapes[w.name]
        convolved(rows_of(x), weights(w, shape), shape, *bias, **_attributes(node))
        tape.nodes[-1].output[0] = node.output[0]
    needed = {name for node in tape.nodes for name in node.input}
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    del changed.graph.node[:]
    changed.graph.node.extend(tape.nodes)
    tape.initialize(changed.graph, needed)
    changed.opset_import.append(onnx.helper.make_opsetid(BLOCKED, 1))
    return changed


def _is_dynamic(node: onnx.NodeProto, given: set[str], shapes: Mapping[str, Sequence[int]]) -> bool:
    if node.op_type != "Conv" or node.domain not in ("", "ai.onnx") or node.input[1] not in given:
        return False
    return fits(shapes[node.input[1]], _attributes(node).get("group", 1))


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
