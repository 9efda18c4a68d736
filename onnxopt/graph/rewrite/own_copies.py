"""Values that products read as copies of their own, so that the noise of rounding a value is that of what they read."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import NodeProto, helper

from onnxopt.graph.rewrite.fusion import FusedOp, QdqSupport


def own_copies(model: onnx.ModelProto, ops: Sequence[FusedOp]) -> tuple[onnx.ModelProto, dict[str, str]]:
    """The model with a copy of some values, and the names of these copies, by value.

    A value that its node makes in floats in any case is rounded for integer nodes only. Where products and others read
    it, as the layers of a transformer and the sum around them do, the products read a copy. The model is not changed.

    Arguments:
        ops: `fused_ops` of the model.
    """
    makers = {op.output: op for op in ops}
    readers: dict[str, list[FusedOp]] = {}
    for op in ops:
        for name in dict.fromkeys(op.inputs):
            readers.setdefault(name, []).append(op)
    copies, reading = dict[str, str](), dict[int, str]()
    for name, every in readers.items():
        maker, products = makers.get(name), [op for op in every if op.weight is not None]
        moved = any(op.kind is QdqSupport.PASSTHROUGH for op in every)
        if maker is None or maker.kind is not QdqSupport.NONE or moved or not 0 < len(products) < len(every):
            continue
        copies[name] = f"{name}@own"
        reading |= {op.first: name for op in products}
    if not copies:
        return model, {}
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    nodes, made = list[NodeProto](), set[str]()
    for index, node in enumerate(changed.graph.node):
        if index in reading:
            name = reading[index]
            if name not in made:
                made.add(name)
                nodes.append(helper.make_node("Identity", [name], [copies[name]], copies[name]))
            node.input[list(node.input).index(name)] = copies[name]
        nodes.append(node)
    nodes = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del changed.graph.node[:]
    changed.graph.node.extend(nodes)
    return changed, copies
