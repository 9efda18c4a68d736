"""The tables of the papers: by hand, in 80 columns, in JSON, and on the page."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import onnxopt
from onnxopt import OnnxoptError
from onnxopt.cli import command as cli
from onnxopt.passes.math.relative_index import Sizes
from onnxopt.report import classical, html
from onnxopt.report.json import to_json
from onnxopt.results.events import Event
from onnxopt.spec.recipes import Recipe

DIGITS = Path(__file__).resolve().parents[1] / "models" / "digits.onnx"
STEPS = """
[[rule]]
op = "Conv"
axes = 2
step = "prune{sigma=0.3} > codebook{k=64} > fixedpoint{bits=10}"
[[rule]]
op = ["Gemm", "MatMul"]
axes = 2
step = "prune{sigma=0.7} > codebook{k=16} > fixedpoint{bits=6}"
"""
CHAIN = """
[[rule]]
match = "dense1.weight"
step = "svd{rank=16}"
[[rule]]
match = "dense1.weight@?"
step = "fixedpoint{bits=8} > prune{sigma=0.2}"
[[rule]]
match = "conv2.weight"
step = "fixedpoint{bits=8} > prune{sigma=0.4}"
"""
# 100 weights of 32 bits, 20 kept, two fillers; values in 5 bits, 66 coded; gaps in 4, 44 coded; a table of 32 values.
SIZES = Sizes(100, 32, 20, 22, 5, 4, 1024, 66, 44, 1400, 1500)
OTHER = Sizes(300, 32, 40, 78, 7, 4, 32, 312, 234, 4000, 5000)


def event(path: str, sizes: Sizes | None, step: str = "prune{keep=0.2} > codebook{k=32}", **more: Any) -> Event:
    elements = sizes.weights if sizes else 0
    return replace(Event(path, (10, 10), "Conv", step, 4 * elements, elements // 2, elements, 0.1, sizes=sizes), **more)


REST = Event("(graph, small tensors)", (), "", "", 10, 10, 0, 0.0)
BIAS = Event("b", (10,), "Conv", "lossless", 40, 40, 10, 0.0)


def printed(found: classical.PaperTable) -> list[str]:
    out = io.StringIO()
    classical.print_table(Console(file=out, width=80), found)
    return out.getvalue().splitlines()


def test_deep_compression_by_hand() -> None:
    found = classical.of("deep-compression", [event("a", SIZES), BIAS, event("b", OTHER), REST])
    first, second = found.rows
    assert (first.layer, second.layer, found.total.layer) == ("a", "b", "total")
    assert first.values[:6] == (100, 20, 5, 3, 4, 2)
    percent = [100 * bits / 3200 for bits in (22 * 36, 22 * 9 + 1024, 66 + 44 + 1024, 1400, 1500, 8 * 50)]
    assert first.values[6:] == pytest.approx(percent)
    assert found.total.values[:2] == (400, 15)
    assert found.total.values[2:6] == pytest.approx(((22 * 5 + 78 * 7) / 100, 378 / 100, 4, 278 / 100))
    assert found.total.values[8] == pytest.approx(100 * (110 + 1024 + 546 + 32) / (400 * 32))
    assert found.total.values[11] == pytest.approx(100 * 8 * 200 / (400 * 32))


def test_microbrain_by_hand() -> None:
    events = [
        Event("fc", (20, 20), "Gemm", "svd{rank=5}", 1600, 0, 0, 0.0, macs=400),
        event("conv", SIZES, macs=5000),
        event("fc@v", SIZES, bytes_before=0, macs=100),
        event("fc@u", OTHER, bytes_before=0, macs=300),
        event("table", SIZES),
        REST,
    ]
    found = classical.of("microbrain", events)
    assert [row.layer for row in found.rows] == ["conv", "fc", "table"]  # in the order of what is stored
    conv, fc, table = (row.values for row in found.rows)
    assert conv == (400, (66 + 44 + 1024) / 8, 50, 5000, 1000, 20)
    assert fc == (1600, (66 + 44 + 1024 + 312 + 234 + 32) / 8, 200, 400, 20 + 40, 15)
    assert table[3:] == (None, None, None)
    assert found.total.values[2:] == (300, 5400, 1060, pytest.approx(100 * 1060 / 5400))


def test_hierarchical_by_hand() -> None:
    chain = "prune{{sigma=1}} > codebook{{k=32}} > fixedpoint{{bits={}}} > outputs{{bits=8}}"
    events = [
        event("a", SIZES, chain.format(10)),
        event("b", OTHER, chain.format(12)),
        event("c", SIZES, chain.format(6), op="Gemm"),
        event("d", SIZES, chain.format(6), op="Gemm", reason="all zeros"),
        BIAS,
        REST,
    ]
    found = classical.of("hierarchical", events)
    assert [row.values[:5] for row in found.rows] == [
        (100, 80, 5, 10, 8),
        (300, pytest.approx(100 * 26 / 30), 7, 12, 8),
        (100, 80, 5, 6, 8),
        (100, 80, None, None, None),  # not known how far it got
    ]
    fixed = 22 * 9 + 32 * 10  # the centroids in 10 bits
    assert found.rows[0].values[5] == pytest.approx(100 * fixed / 3200)
    assert found.rows[3].values[5] == pytest.approx(100 * (22 * 9 + 1024) / 3200)
    assert found.total.values[:3] == (600, pytest.approx(100 * 5 / 6), pytest.approx(17 / 3))
    assert found.notes == ("convolutions 10 to 12 bits, matrices 6 to 32 bits, layer outputs 8 to 32 bits",)


@pytest.mark.parametrize("name", ["deep-compression", "microbrain", "hierarchical"])
def test_large_networks_fit_80_columns(name: str) -> None:
    large = Sizes(37_748_736, 32, 3_397_386, 4_364_000, 5, 4, 1024, 17_019_600, 16_146_800, 999_000_000, 999_000_000)
    events = [event(f"features.{i}.a.long.name.weight", large, macs=10**9 + i) for i in range(3)]
    lines = printed(classical.of(name, events))
    assert max(map(len, lines)) <= 80
    body = [line for line in lines if line.startswith("featu")]
    assert len(body) == 3
    assert all(line.count("…") == 1 for line in body)  # of the name; numbers are whole
    assert ("1.00G" if name == "microbrain" else "37.7M") in body[0]


def test_a_model_without_matrices_has_an_empty_table() -> None:
    for name in ("deep-compression", "microbrain", "hierarchical"):
        found = classical.of(name, [BIAS, REST])
        assert not found.rows
        assert printed(found)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (34_848, "count", "34.8k"), (500, "count", "500"), (1_135_256_096, "count", "1.14G"),
        (25_000, "count", "25.0k"),
        (2.386, "%", "2.39"), (20.53, "%", "20.5"), (100.0, "%", "100"), (0.0, "%", "0.00"), (None, "%", ""),
        (8, "bits", "8"), (6.304, "bits", "6.30"), (240_600_000, "bytes", "240.6 MB"),
    ],
)  # fmt: skip
def test_numbers_are_short(value: float | None, unit: str, text: str) -> None:
    assert classical.text(value, unit) == text


def recipe(folder: Path, table: str, rules: str) -> Path:
    path = folder / f"{table}.toml"
    path.write_text(f'title = "Mine"\ntable = "{table}"\n{rules}')
    return path


def optimized(folder: Path, table: str, rules: str, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, Any]:
    command = ["optimize", str(DIGITS), "-o", str(folder / "small.onnx"), "--recipe", str(recipe(folder, table, rules))]
    cli.app([*command, "--json", *more], standalone_mode=False)
    return dict(json.loads(capsys.readouterr().out))


@pytest.mark.slow
def test_a_recipe_shows_its_papers_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = optimized(tmp_path, "hierarchical", STEPS, capsys)
    rows, total = result["table"]["rows"], result["table"]["total"]["values"]
    assert [row["layer"] for row in rows] == ["conv1.weight", "conv2.weight", "dense1.weight", "dense2.weight"]
    assert total[0] == sum(row["values"][0] for row in rows) == 24 * 9 + 48 * 216 + 128 * 768 + 1280
    events = {e["path"]: e for e in result["events"]}
    for row in rows:
        zeros, width, bits = row["values"][1:4]
        assert zeros == pytest.approx(100 * events[row["layer"]]["zeros"])
        assert width <= (6 if row["layer"].startswith("conv") else 4)
        assert bits == (10 if row["layer"].startswith("conv") else 6)
    assert result["table"]["notes"] == ["convolutions 10 bits, matrices 6 bits, layer outputs 32 bits"]
    names = ["prune", "prune > codebook", "prune > codebook > fixedpoint"]
    assert [stage["steps"] for stage in result["stages"]] == names
    assert result["stages"][-1] == {
        "steps": names[-1],
        "size": result["bytes_after"],
        "found": result["check"]["found"],
    }
    sizes, errors = zip(*((stage["size"], stage["found"]["error"]) for stage in result["stages"]), strict=True)
    assert sizes[0] > 2 * sizes[1]
    assert 0 < errors[0] < errors[-1]
    page = html.render(result)
    assert 'id="paper"' in page
    assert page.count('<tr><th scope="row" class="text">conv') == 2
    assert "Convolutions 10 bits, matrices 6 bits" in page


@pytest.mark.slow
def test_a_stage_is_what_its_plan_makes(tmp_path: Path) -> None:
    chosen = Recipe.open(str(recipe(tmp_path, "deep-compression", STEPS)))
    result = onnxopt.optimize(DIGITS, tmp_path / "small.onnx", recipe=chosen)
    first = next(result.plan.stages())
    assert {str(step) for step in first.steps.values()} == {"prune{sigma=0.3}", "prune{sigma=0.7}"}
    made = onnxopt.apply(DIGITS, first, tmp_path / "first.onnx")
    names = len(str(result.stages[0].steps))
    assert abs(made.bytes_after - result.stages[0].size) <= names  # the plan inside says the same
    assert made.check is not None
    assert result.stages[0].found is not None
    assert made.check.found.error == result.stages[0].found.error
    assert made.events[0].sizes is None  # nobody asked


@pytest.mark.slow
def test_chains_are_counted_as_the_layer_that_they_were(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = optimized(tmp_path, "microbrain", CHAIN, capsys)
    rows = {row["layer"]: row["values"] for row in result["table"]["rows"]}
    events = {e["path"]: e for e in result["events"]}
    parts = [events[f"dense1.weight@{part}"] for part in "uv"]
    before, _, stored, macs_before, macs_after, left = rows["dense1.weight"]
    assert before == 4 * 128 * 768
    assert stored == sum(part["bytes_after"] for part in parts)
    assert macs_before == 128 * 768
    done = sum(np.prod(part["shape"]) * (1 - part["zeros"]) for part in parts)  # a matrix multiplies once
    assert macs_after == pytest.approx(done, abs=1)
    assert left == pytest.approx(100 * macs_after / macs_before)
    positions = rows["conv2.weight"][3] / (48 * 216)
    assert positions == int(positions) > 1
    assert rows["conv2.weight"][4] == pytest.approx(rows["conv2.weight"][3] * (1 - events["conv2.weight"]["zeros"]))
    assert rows["dense2.weight"][3] == rows["dense2.weight"][4] == 1280


@pytest.mark.slow
def test_the_table_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = recipe(tmp_path, "deep-compression", STEPS)
    cli.app(["optimize", str(DIGITS), "-o", str(tmp_path / "o.onnx"), "--recipe", str(path)], standalone_mode=False)
    lines = capsys.readouterr().out.splitlines()
    assert "Deep Compression: layer by layer" in lines
    assert any(line.startswith("prune > codebook > fixedpoint") for line in lines)


def test_an_unknown_table_is_said_before_anything_is_done(tmp_path: Path) -> None:
    path = recipe(tmp_path, "shallow", STEPS)
    with pytest.raises(OnnxoptError, match="no table is called 'shallow'; there are deep-compression, microbrain, "):
        cli.app(["optimize", str(DIGITS), "-o", str(tmp_path / "o.onnx"), "--recipe", str(path)], standalone_mode=False)
    assert not (tmp_path / "o.onnx").exists()


@pytest.mark.slow
def test_an_engines_result_has_no_table(tmp_path: Path) -> None:
    result = json.loads(to_json(onnxopt.optimize(DIGITS, tmp_path / "o.onnx", onnxopt.Contract(error=0.1))))
    assert result["table"] is None
    assert not result["stages"]
    assert 'id="paper"' not in html.render(result)
