"""Every weight is an entry, in whatever way the graph carries it: it is quantized, or has a reason why it is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import weights
from carriers import CARRIERS, carrier, ids, integers, node
from rich.console import Console

import onnxopt
from onnxopt.data import quiet_session, runnable_feeds
from onnxopt.graph.cleanup import clean
from onnxopt.graph.normalise import normalise
from onnxopt.report.table import print_result

INTEGERS = {
    "dequantize_tensor", "dequantize_channel", "dequantize_uint8", "dequantize_block", "dequantize_int4",
    "dequantize_uint4_block", "nbits", "nbits_8", "gather_blocks", "gather_int8",
}  # fmt: skip
"""Models whose weight stays what it is: the kernels take integers. tests/test_moved_integers.py has more, with data."""
FOLDED = {
    "cast_float16": "c", "cast_bfloat16": "c", "cast_float8": "c", "cast_int8": "d", "transpose": "m", "reshape": "m",
    "dequantize_int32": "d", "dequantize_float8": "d", "einsum_turned": "w@turned.y", "loop_state": "weight",
    "scan_state": "weight",
}  # fmt: skip
"""Models whose weight a clean-up makes the operand of a product, and that operand."""
SMALL = 64
"""Elements: fewer are no entry."""


def optimized(name: str, folder: Path) -> tuple[onnx.ModelProto, onnxopt.Result]:
    made = CARRIERS[name]()
    onnx.save(made, folder / "model.onnx")
    return made, onnxopt.optimize(folder / "model.onnx", folder / "small.onnx")


@pytest.mark.parametrize("name", CARRIERS)
def test_each_weight_is_quantized_or_has_a_reason(name: str, tmp_path: Path) -> None:
    made, result = optimized(name, tmp_path)
    events = {event.path: event for event in result.events}
    for event in result.events[:-1]:
        assert event.step != "lossless" or event.reason, event.path
    for tensor in made.graph.initializer:
        if tensor.name not in events and FOLDED.get(name) not in events:
            assert np.prod(tensor.dims) < SMALL, tensor.name
    main = events[FOLDED.get(name, "w")]
    assert (main.step == "lossless") == (name in INTEGERS)
    assert result.events[-1].bytes_before < 4 * SMALL  # all others are no weights
    assert onnxopt.verify(tmp_path / "small.onnx").identical_outputs


@pytest.mark.parametrize("name", FOLDED)
def test_folding_keeps_the_outputs(name: str) -> None:
    before = CARRIERS[name]()
    normalise(before)
    after, changed, failed = clean(before)
    assert any(changed.values())
    assert not failed
    sessions = [quiet_session(made.SerializeToString()) for made in (before, after)]
    for feeds in runnable_feeds(sessions[0], 2):
        wanted, got = (session.run(None, feeds)[0] for session in sessions)
        assert np.abs(got - wanted).max() < 1e-6 * np.abs(wanted).max()


@pytest.mark.parametrize(
    ("name", "path"), [("nbits", "scales"), ("gather_blocks", "scales"), ("dequantize_block", "scale")]
)
def test_scales_of_blocks_are_quantized(name: str, path: str, tmp_path: Path) -> None:
    """Scales are a fifth of such a model, and as uncertain as the integers that they scale."""
    _, result = optimized(name, tmp_path)
    scales = next(event for event in result.events if event.path == path)
    assert scales.bytes_after < 0.3 * scales.bytes_before
    assert 0 < scales.error < 0.02


def test_few_floats_of_a_quantized_model_are_left_alone(tmp_path: Path) -> None:
    """They would save next to nothing."""
    nodes = [
        node("Gather", ["w", "x"], ["g"]),
        node("DequantizeLinear", ["g", "scale"], ["d"]),
        node("Add", ["d", "b"], ["y"]),
    ]
    tensors = {"w": integers(-127, 127, np.int8, 512, 128), "scale": np.float32(0.01), "b": weights(128)}
    onnx.save(ids(carrier(nodes, tensors, outputs=["n", 8, 128])), tmp_path / "model.onnx")
    result = onnxopt.optimize(tmp_path / "model.onnx", tmp_path / "small.onnx")
    reasons = {event.path: event.reason for event in result.events}
    assert reasons["b"] == "all such floats make under 1% of the model's bytes"
    assert result.check is not None
    assert result.check.found.error == 0


def test_integers_that_quantization_does_not_make_smaller_keep_every_bit(tmp_path: Path) -> None:
    """At so little noise, floats on a grid take more bits than the integers."""
    onnx.save(CARRIERS["cast_int8"](), tmp_path / "model.onnx")
    result = onnxopt.optimize(tmp_path / "model.onnx", tmp_path / "small.onnx", onnxopt.Contract(error=0.001))
    assert not result.plan.steps
    assert result.left_out == {"quantization": "the file is no smaller with it"}
    assert result.met
    assert result.check is not None
    assert result.check.found.error == 0
    assert result.bytes_after < result.bytes_before


def test_what_stays_is_printed(tmp_path: Path) -> None:
    _, result = optimized("skip_norm", tmp_path)
    console = Console(width=200, record=True)
    print_result(console, result)
    printed = console.export_text()
    assert "3 weights, 1.3 kB: kept as they were: no pass changes such inputs of SkipLayerNormalization" in printed
    assert "2.3% of the weights, 1.5 kB of 67.1 kB" in printed


def test_one_weight_with_a_reason_has_its_name(tmp_path: Path) -> None:
    _, result = optimized("standard_attention", tmp_path)
    console = Console(width=200, record=True)
    print_result(console, result)
    assert "scale: kept as it was: no pass changes such inputs of RMSNormalization" in console.export_text()
