"""Every weight is an entry, in whatever way the graph carries it: it is quantized, or has a reason why it is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from carriers import CARRIERS
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
"""Models whose weight stays what it is: the kernels take integers."""
FOLDED = {"cast_float16": "c", "cast_bfloat16": "c", "cast_float8": "c", "cast_int8": "d", "transpose": "m",
          "reshape": "m", "dequantize_int32": "d", "dequantize_float8": "d", "einsum_turned": "w@turned.y"}  # fmt: skip
"""Models whose weight becomes a product's operand before it runs, and that value."""
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


def test_what_stays_is_printed(tmp_path: Path) -> None:
    _, result = optimized("skip_norm", tmp_path)
    console = Console(width=200, record=True)
    print_result(console, result)
    printed = console.export_text()
    assert "gamma: kept as it was: no pass knows what input 2 of SkipLayerNormalization does" in printed
    assert "2.3% of the weights, 1.5 kB of 67.1 kB" in printed


def test_weights_with_one_reason_share_a_line(tmp_path: Path) -> None:
    _, result = optimized("nbits", tmp_path)
    console = Console(width=200, record=True)
    print_result(console, result)
    assert "2 weights, 6.3 kB: kept as they were: its elements are uint8" in console.export_text()
