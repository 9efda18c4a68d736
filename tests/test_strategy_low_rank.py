"""Factor chains: adopted where they save bytes, time on a fake clock, or both; otherwise the model stays unchanged."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from builders import decaying, model, network
from onnx import helper
from rich.console import Console

import onnxopt
from onnxopt import Contract, Missed, OnnxoptError, Result, api
from onnxopt.measure.benchmark import SpeedRatio
from onnxopt.report import html
from onnxopt.report.json import to_json
from onnxopt.report.table import print_result
from onnxopt.results.strategy import StrategyReport
from onnxopt.spec.plan import Step

pytestmark = pytest.mark.slow

Array = np.ndarray[Any, Any]
DIGITS = Path(__file__).resolve().parents[1] / "models" / "digits.onnx"
GOALS = ("size", "speed", "balanced")


@pytest.fixture
def low_rank(tmp_path: Path) -> Path:
    onnx.save(network(2.0), tmp_path / "low_rank.onnx")
    return tmp_path / "low_rank.onnx"


@pytest.fixture
def full_rank(tmp_path: Path) -> Path:
    onnx.save(network(0.0), tmp_path / "full_rank.onnx")
    return tmp_path / "full_rank.onnx"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(0).standard_normal((600, 192), np.float32))
    return tmp_path / "data.npz"


class Machine:
    """A clock: a microsecond for a thousand weights, one more for every layer; INT8 and weight-only save nothing."""

    def __init__(self, layer: float = 1e-3, ratios: Sequence[float] = (0.5,)) -> None:
        self.layer, self.ratios = layer, list(ratios)
        self.compared: list[set[str]] = []

    def time_many(self, models: Sequence[bytes], feeds: Mapping[str, Array]) -> list[float]:
        graphs = [onnx.ModelProto.FromString(content).graph for content in models]
        if any(node.op_type == "MatMulNBits" for graph in graphs for node in graph.node):
            return [1.0] * len(models)
        return [1e-6 * sum(int(np.prod(t.dims)) for t in g.initializer) + self.layer * len(g.node) for g in graphs]

    def profile(self, model: bytes, feeds: object) -> dict[str, float]:
        return {}

    def race(self, models: Sequence[Path], against: Path, feeds: object, advance: object) -> list[SpeedRatio]:
        names = {t.name for t in onnx.load(models[0]).graph.initializer}
        if not any("@" in name for name in names - {t.name for t in onnx.load(against).graph.initializer}) or any(
            node.op_type in ("QuantizeLinear", "DynamicQuantizeLinear") for node in onnx.load(models[0]).graph.node
        ):
            return [SpeedRatio("in INT8", "in floats", 1.0, 0.9, 1.1, False, True) for _ in models]
        self.compared.append({name for name in names if "@" in name})
        ratio = self.ratios.pop(0) if len(self.ratios) > 1 else self.ratios[0]
        sure = ratio < 0.99 or ratio > 1.01
        return [SpeedRatio(str(models[0]), str(against), ratio, ratio - 0.01, ratio + 0.01, sure, True)]

    def optimized(self, source: Path, data: Path | None, goal: str | None, **more: Any) -> Result:
        output = source.with_name(f"small.{goal}.onnx")
        return onnxopt.optimize(source, output, Contract(error=0.05), data=data, goal=goal, clock=self, **more)


@pytest.fixture
def machine() -> Machine:
    return Machine()


def found(result: Result) -> StrategyReport:
    one = result.strategy("low_rank")
    assert one is not None
    return one


def layer(result: Result, path: str) -> Any:
    return SimpleNamespace(**next(one for one in found(result).layers if one["path"] == path))


@pytest.mark.parametrize("goal", GOALS)
def test_a_layer_whose_spectrum_decays_becomes_a_chain(machine: Machine, low_rank: Path, data: Path, goal: str) -> None:
    plain, result = machine.optimized(low_rank, data, None), machine.optimized(low_rank, data, goal)
    assert plain.strategy("low_rank") is None
    assert (found(result).goal, found(result).kept, found(result).reason) == (goal, True, "")
    assert {"wide@u", "wide@v"} <= {event.path for event in result.events}
    assert {onnx.load(low_rank).graph.initializer[0].name} == {"wide"}
    one = layer(result, "wide")
    assert one.accepted
    assert Step.parse(one.step).name == "svd"
    assert result.plan.steps["wide"] == Step.parse(one.step)
    assert one.weights_after < one.weights_before == 256 * 192
    assert one.macs_after == one.weights_after
    assert result.check is not None
    assert result.check.found.error <= 0.05
    assert found(result).trial == result.kept
    if goal != "speed":
        assert result.bytes_after < plain.bytes_after
        assert one.bytes_after < one.bytes_before
    if goal == "size":
        assert (one.ms_before, one.ms_after, found(result).time) == (None, None, None)
    else:
        assert one.ms_after < one.ms_before
        assert found(result).time is not None
        assert (found(result).time.path, found(result).time.against) == ("with factor chains", "without")
        assert all(rank % 8 == 0 for _, rank in Step.parse(one.step).args)


@pytest.mark.parametrize("goal", GOALS)
def test_noise_never_becomes_a_chain(machine: Machine, full_rank: Path, data: Path, goal: str) -> None:
    plain, result = machine.optimized(full_rank, data, None), machine.optimized(full_rank, data, goal)
    assert not found(result).kept
    assert found(result).reason == "no factor chain pays"
    one = layer(result, "wide")
    assert not one.accepted
    assert one.reason
    assert result.output.read_bytes() == plain.output.read_bytes()


def test_a_chain_that_is_slower_is_refused_by_how_much(low_rank: Path, data: Path, machine: Machine) -> None:
    machine.layer = 1.0
    result = machine.optimized(low_rank, data, "speed")
    one = layer(result, "wide")
    assert not one.accepted
    assert one.ms_after / one.ms_before > 1.9
    assert one.reason.startswith(f"{one.ms_after / one.ms_before:.2f}x the time: ")
    assert not machine.compared  # nothing was left to compare


def test_what_slows_the_whole_model_is_refused(low_rank: Path, data: Path, machine: Machine) -> None:
    machine.ratios = [1.04]
    plain, result = machine.optimized(low_rank, data, None), machine.optimized(low_rank, data, "speed")
    assert not found(result).kept
    assert found(result).time is not None
    assert found(result).time.ratio == 1.04
    assert layer(result, "wide").reason == "the model takes 1.040x the time with factor chains (1.030 to 1.050)"
    assert result.output.read_bytes() == plain.output.read_bytes()
    assert machine.compared == [{"wide@u", "wide@v"}]


def test_the_better_half_is_tried_where_all_are_slower(tmp_path: Path, data: Path, machine: Machine) -> None:
    nodes = [helper.make_node("MatMul", [f"h{i}" if i else "x", f"w{i}"], [f"h{i + 1}"], f"mm{i}") for i in range(2)]
    tensors = {"w0": decaying(192, 224, 2.0), "w1": decaying(224, 640, 2.0)}
    onnx.save(model(nodes, tensors, {"x": ["n", 192]}, {"h2": ["n", 640]}), tmp_path / "two.onnx")
    machine.ratios = [1.1, 0.9]
    result = machine.optimized(tmp_path / "two.onnx", data, "speed")
    assert [len(parts) for parts in machine.compared] == [4, 2]
    accepted = [one["path"] for one in found(result).layers if one["accepted"]]
    assert accepted == ["w1"]  # the larger one: layers cost the same, weights do not
    assert layer(result, "w0").reason.startswith("the model takes 1.100x the time")


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.slow
def test_two_runs_and_the_plan_give_the_same_file(machine: Machine, low_rank: Path, data: Path, goal: str) -> None:
    first = machine.optimized(low_rank, data, goal)
    content = first.output.read_bytes()
    assert machine.optimized(low_rank, data, goal).output.read_bytes() == content
    planned = onnxopt.plan(low_rank, Contract(error=0.05), data=data, goal=goal, clock=machine)
    assert planned == first.plan
    applied = onnxopt.apply(low_rank, planned, low_rank.with_name("applied.onnx"), data=data)
    assert applied.output.read_bytes() == content


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.slow
def test_a_real_network_keeps_its_contract(machine: Machine, tmp_path: Path, goal: str) -> None:
    plain, result = (
        onnxopt.optimize(DIGITS, tmp_path / "small.onnx", Contract(error=0.1), goal=asked, clock=machine)
        for asked in (None, goal)
    )
    assert result.met
    assert result.check is not None
    assert result.check.found.error <= 0.1
    if goal == "size":
        assert result.bytes_after <= plain.bytes_after
    assert [one["path"] for one in found(result).layers] == [f"{name}.weight" for name in
                                                             ("conv1", "conv2", "dense1", "dense2")]  # fmt: skip


def test_a_given_size_gets_less_noise(machine: Machine, low_rank: Path, data: Path) -> None:
    contract = Contract(target_ratio=12)
    plain, result = (
        onnxopt.optimize(low_rank, low_rank.with_name("small.onnx"), contract, data=data, goal=goal, clock=machine)
        for goal in (None, "size")
    )
    assert found(result).kept
    assert result.bytes_before / result.bytes_after >= 12
    assert plain.check is not None
    assert result.check is not None
    assert result.check.found.error < plain.check.found.error


def test_what_the_user_decided_is_no_layer_to_choose_for(machine: Machine, low_rank: Path, data: Path) -> None:
    rules = onnxopt.spec.overrides.Overrides.parse('[[rule]]\nmatch = "wide"\nmax_bits = 6')
    result = machine.optimized(low_rank, data, "size", overrides=rules)
    assert [one["path"] for one in found(result).layers] == ["narrow"]


def test_chains_of_rules_stay(machine: Machine, low_rank: Path, data: Path) -> None:
    """A rule's chain for the narrow layer, and one that is chosen for the wide one."""
    rules = onnxopt.spec.overrides.Overrides.parse('[[rule]]\nmatch = "narrow"\nstep = "svd{rank=9}"')
    result = machine.optimized(low_rank, data, "size", overrides=rules)
    assert found(result).kept
    assert [one["path"] for one in found(result).layers] == ["wide"]
    assert {"wide@u", "wide@v", "narrow@u", "narrow@v"} <= {event.path for event in result.events}
    assert {chain.path for chain in result.chains} == {"wide", "narrow"}
    page = html.render(json.loads(to_json(result)))
    table = page.partition('<section id="factorised"')[2].partition("</section>")[0]
    assert "narrow" in table
    assert "wide" not in table  # it is among those that were chosen


def test_contradictions(machine: Machine, low_rank: Path, tmp_path: Path) -> None:
    for more, message in (
        ({"lossless": True}, "--lossless and --for contradict"),
        ({"recipe": onnxopt.spec.recipes.Recipe.open("deep-compression")}, "--recipe and --for contradict"),
    ):
        with pytest.raises(OnnxoptError, match=message):
            onnxopt.optimize(low_rank, tmp_path / "small.onnx", goal="size", **more)  # type: ignore[arg-type]
    with pytest.raises(OnnxoptError, match="--for is 'sise', expected size, speed, balanced"):
        onnxopt.optimize(low_rank, tmp_path / "small.onnx", goal="sise")


@pytest.mark.parametrize(("misses", "kept"), [(1, True), (2, False)])
def test_what_misses_on_the_check_is_made_more_carefully(
    machine: Machine, low_rank: Path, data: Path, misses: int, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With half the drop, and where that misses, too, without chains."""
    write, sizes = api.write_checked, list[float]()

    def missing(decided: Any, output: Path) -> Result:
        if len(sizes) < misses:
            sizes.append(decided.kept.size)
            raise Missed("the check misses")
        return write(decided, output)

    monkeypatch.setattr(api, "write_checked", missing)
    contract, output = Contract(max_drop=0.01, metric="mse"), low_rank.with_name("small.onnx")
    result = onnxopt.optimize(low_rank, output, contract, data=data, goal="speed", clock=machine)
    assert result.bounds == contract  # the check and the report have what was asked for
    assert found(result).kept == kept == ("wide@u" in {event.path for event in result.events})
    if kept:
        assert result.bytes_after > sizes[0]
        assert found(result).trial == result.kept
    else:
        assert sizes[1] > sizes[0]
        assert found(result).reason == "the finished file misses the contract"
        assert layer(result, "wide").reason == found(result).reason


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize("name", ["low_rank", "full_rank"])
def test_the_page_has_every_layer(
    machine: Machine, name: str, goal: str, data: Path, request: pytest.FixtureRequest
) -> None:
    result = machine.optimized(request.getfixturevalue(name), data, goal)
    page = html.render(json.loads(to_json(result)))
    table = page.partition('<section id="low_rank"')[2].partition("</section>")[0]
    assert "Low-rank factorisation" in table
    assert table.count("<tbody>") == len(found(result).layers) == 2
    assert ("Not used: no factor chain pays" in table) == (name == "full_rank")
    assert ("the time" in table.partition("<table")[0]) == (name == "low_rank" and goal != "size")
    assert 'href="#strategies"' in page


def test_terminal_and_json(machine: Machine, low_rank: Path, data: Path) -> None:
    result, lines = machine.optimized(low_rank, data, "speed"), StringIO()
    print_result(Console(file=lines, width=80), result)
    shown = lines.getvalue()
    for word in ("svd", "0.500x the time", "narrow", "Weights"):
        assert word in shown, word
    assert max(map(len, shown.splitlines())) <= 80
    (one,) = [s for s in json.loads(to_json(result))["strategies"] if s["name"] == "low_rank"]
    assert one["kept"]
    assert one["layers"][0]["accepted"]
    assert one["time"]["ratio"] == 0.5
    text = (Path(__file__).resolve().parents[1] / "docs" / "result.md").read_text(encoding="utf-8")
    for name in (*one, *one["time"], *one["columns"][0]):
        assert f"`{name}`" in text, name
