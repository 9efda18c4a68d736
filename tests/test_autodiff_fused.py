"""Differentiation rules of the runtime's own operators, and of blocks, against central differences."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from builders import weights
from carriers import MS, integers
from differences import Array, check, node, spread

SCALES = np.linspace(0.5, 1.5, 12, dtype=np.float32)


@pytest.mark.parametrize(
    ("op", "further", "attributes"),
    [
        ("FusedMatMul", [weights(4, 5)], {"alpha": 0.5}),
        ("FusedMatMul", [weights(5, 4)], {"transB": 1}),
        ("FusedMatMul", [weights(2, 3, 5)], {"transA": 1}),
        ("FusedMatMul", [weights(5, 3)], {"transA": 1, "transB": 1, "alpha": 2.0}),
        ("Gelu", [], {}),
        ("BiasGelu", [weights(4)], {}),
        ("FastGelu", [weights(4)], {}),
        ("FastGelu", [], {}),
        ("QuickGelu", [], {"alpha": 1.5}),
        ("SkipLayerNormalization", [weights(2, 3, 4), *(weights(4, seed=i) for i in (1, 2, 3))], {}),
        ("SkipSimplifiedLayerNormalization", [weights(2, 3, 4), weights(4, seed=1), weights(4, seed=2)], {}),
    ],
)  # fmt: skip
def test_a_fused_operator(op: str, further: list[Array], attributes: dict[str, Any]) -> None:
    tensors = {f"t{i}": array for i, array in enumerate(further)}
    check([node(op, ["x", *tensors], ["y"], domain=MS, **attributes)], spread(2, 3, 4), tensors)


def test_the_sum_that_a_normalization_returns_counts() -> None:
    tensors = {"skip": weights(2, 3, 4), "gamma": weights(4, seed=1)}
    norm = node("SkipLayerNormalization", ["x", *tensors], ["n", "", "", "s"], domain=MS)
    check([norm, node("Add", ["n", "s"], ["y"])], spread(2, 3, 4), tensors)


def test_root_mean_square() -> None:
    check([node("RMSNormalization", ["x", "g"], ["y"], axis=-1)], spread(2, 3, 4), {"g": weights(4)}, 23)


@pytest.mark.parametrize(("bits", "zeros"), [(4, ""), (4, "packed"), (4, "floats"), (8, ""), (8, "packed")])
def test_blocks_of_a_product(bits: int, zeros: str) -> None:
    """40 inputs: the last block of 16 is shorter."""
    q = integers(0, 2**bits - 1, np.uint8, 4, 3, 16 * bits // 8)
    tensors: dict[str, Array] = {"q": q, "s": SCALES}
    if zeros:
        packed = integers(0, 255, np.uint8, 4, 2 if bits == 4 else 3)
        tensors["z"] = packed.ravel() if zeros == "packed" else np.full((4, 3), 7.5, np.float32)
    made = node("MatMulNBits", ["x", *tensors], ["y"], domain=MS, K=40, N=4, bits=bits, block_size=16)
    check([made], spread(3, 40), tensors, fixed={"z"})


def test_blocks_of_a_table() -> None:
    tensors = {"q": integers(0, 15, ml_dtypes.uint4, 6, 32), "s": SCALES.reshape(6, 2)}
    tensors |= {"z": integers(6, 9, ml_dtypes.uint4, 6, 2), "i": np.array([[3, 0, 3], [1, 5, 2]])}
    gather = node("GatherBlockQuantized", ["q", "i", "s", "z"], ["g"], domain=MS, block_size=16)
    check([gather, node("Mul", ["g", "x"], ["y"])], spread(2, 3, 1), tensors)


def test_blocks_before_a_product() -> None:
    tensors = {"q": integers(-8, 7, ml_dtypes.int4, 32, 6), "s": SCALES.reshape(2, 6)}
    nodes = [node("DequantizeLinear", ["q", "s"], ["w"], axis=0, block_size=16), node("MatMul", ["x", "w"], ["y"])]
    check(nodes, spread(3, 32), tensors, 21)
