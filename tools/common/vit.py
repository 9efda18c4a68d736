"""A vision transformer as PyTorch exports it (Dosovitskiy et al. 2021), of weights that are drawn."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from common.bert import Encoder, Shape, Weights

SMALL = Shape(12, 384, 6)
"""Of ViT-S: 22 million weights."""
_IMAGE, _PATCH, _CLASSES = 224, 16, 1000


def vit(shape: Shape, weights: Weights) -> onnx.ModelProto:
    """The classifier of images [batch, 3, 224, 224] by patches of 16 x 16."""
    writer, width, patches = Encoder(weights=weights, shape=shape), shape.width, (_IMAGE // _PATCH) ** 2
    cut = writer.node(
        "Conv", "image", writer.weight("patch_embed.weight", width, 3, _PATCH, _PATCH),
        writer.weight("patch_embed.bias", width), strides=[_PATCH] * 2, kernel_shape=[_PATCH] * 2,
    )  # fmt: skip
    rows = writer.node("Transpose", writer.node("Reshape", cut, np.array([0, 0, -1])), perm=[0, 2, 1])
    x = writer.node("Add", rows, writer.weight("pos_embed", 1, patches, width))
    for index in range(shape.layers):
        name = f"blocks.{index}"
        x = writer.node("Add", x, writer.attended(writer.norm(x, f"{name}.norm1.LayerNorm"), "", name))
        x = writer.node("Add", x, writer.fed(writer.norm(x, f"{name}.norm2.LayerNorm"), name))
    pooled = writer.node("ReduceMean", writer.norm(x, "norm.LayerNorm"), axes=[1], keepdims=0)
    writer.output(writer.linear(pooled, "head", width, _CLASSES), "logits")
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, _IMAGE, _IMAGE])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", _CLASSES])
    graph = helper.make_graph(writer.nodes, "vit", [image], [logits], list(writer.tensors.values()))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
