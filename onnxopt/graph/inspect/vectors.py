"""Whether an output holds vectors, such as embeddings, whose elements are no scores of classes."""

from __future__ import annotations

import onnx

_VIEWS = frozenset({"Reshape", "Flatten", "Identity", "Squeeze", "Unsqueeze", "Cast", "Transpose"})
"""Operators that keep every element."""
_SCALES = frozenset({"Mul", "Div"})
"""Operators that, with a constant, change the scale: scores have a temperature."""
_ENDS = _SCALES | {
    "LayerNormalization", "SkipLayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization",
    "LpNormalization", "ReduceSum", "Gather", "Slice", "Tanh",
}  # fmt: skip
"""Operators that end with vectors: a normalization, a mean over tokens, the vector of one token, a pooler. Scores end
with a linear layer, a pool of pixels or a Softmax."""


def gives_vectors(model: onnx.ModelProto, output: str) -> bool:
    """Whether the operator that makes an output says that it holds vectors."""
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output if name}
    constants = {tensor.name for tensor in graph.initializer} | {
        name for name, node in makers.items() if node.op_type == "Constant"
    }
    node = makers.get(output)
    while node is not None and (node.op_type in _VIEWS or (node.op_type in _SCALES and node.input[1] in constants)):
        node = makers.get(node.input[0])
    return node is not None and node.op_type in _ENDS
