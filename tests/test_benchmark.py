"""Benchmarks: statistics on synthetic times, one real measurement, the command."""

from __future__ import annotations

import itertools
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import FLOAT, cnn, lstm, mlp, model, weights
from compressing import compressed
from onnx import helper
from scipy import stats
from scipy.signal import lfilter

from common.lessons import run_by
from onnxopt import OnnxoptError, cli
from onnxopt.measure.benchmark import Latency, benchmark, milliseconds, time_ratio
from onnxopt.measure.benchmark.energy import Rapl
from onnxopt.measure.benchmark.latency import PROCESSES, latency, log_ratios, paired, take_turns
from onnxopt.measure.benchmark.machine import cpu
from onnxopt.measure.benchmark.profile import time_by_op
from onnxopt.measure.benchmark.worker import Worker
from onnxopt.report.benchmark import words

DIGITS = Path(__file__).resolve().parents[1] / "models" / "digits.onnx"


class Machine:
    """A machine that drifts, is interrupted, is slow for a while, and is slower for the second model in each turn."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.log_speed, self.last = 0.0, None

    def block(self, process: Simulated, runs: int) -> np.ndarray:
        self.log_speed += 0.02 * self.rng.standard_normal()  # a random walk: 25 % over a benchmark
        after_other = 0.02 if self.last not in (None, process) else 0.0
        self.last = process
        noise = lfilter([0.013], [1, -0.9], self.rng.standard_normal(runs))  # autocorrelated
        interrupted = self.rng.random(runs) < 0.02
        tail = np.where(interrupted, 1 + np.minimum(20, self.rng.pareto(1.5, runs)), 1.0)
        return process.ms * np.exp(noise + self.log_speed + after_other) * tail


class Simulated:
    """A process, with its own luck in memory."""

    def __init__(self, machine: Machine, ms: float) -> None:
        self.machine, self.ms = machine, ms * math.exp(0.03 * machine.rng.standard_normal())

    def block(self, runs: int) -> np.ndarray:
        return self.machine.block(self, runs)


def simulate(seed: int, *slower: float) -> list[list[Sequence[np.ndarray]]]:
    machine = Machine(seed)

    @contextmanager
    def start(_: int) -> Iterator[list[Simulated]]:
        yield [Simulated(machine, 5.0 * factor) for factor in (1.0, *slower)]

    return take_turns(start, seconds=1e9)


def compare(seed: int, slower: float) -> tuple[bool, bool, float]:
    """Whether a difference is found, whether the interval holds the truth, the ratio."""
    times = simulate(seed, slower)
    found = paired("b", "a", log_ratios(times[1], times[0]))
    assert found.low <= found.ratio <= found.high
    return found.significant, found.low <= slower <= found.high, found.ratio


@pytest.mark.slow
def test_a_model_is_as_fast_as_itself() -> None:
    found = [compare(seed, 1.0) for seed in range(24)]
    assert sum(significant for significant, *_ in found) <= 3  # at 1 %, more than 3 of 24 are one in ten thousand
    assert sum(covered for _, covered, _ in found) >= 20


@pytest.mark.slow
def test_ten_percent_are_found() -> None:
    found = [compare(seed, 1.1) for seed in range(14)]
    assert sum(significant and ratio > 1 for significant, _, ratio in found) >= 13
    assert sum(covered for _, covered, _ in found) >= 11
    assert np.mean([ratio for *_, ratio in found]) == pytest.approx(1.1, abs=0.01)


def test_the_interval_of_the_mean_holds_it() -> None:
    """Between processes that differ by 5 %, with 200 alike runs each: the runs' own scatter says 0.1 %."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(300):
        luck = np.exp(0.05 * rng.standard_normal(10) - 0.05**2 / 2)
        found = latency([[one * np.exp(0.02 * rng.standard_normal(100)) for _ in range(2)] for one in luck])
        held += found.low_ms <= 1.0002 <= found.high_ms
    assert 275 <= held <= 295


def test_latency_counts_every_run() -> None:
    found = latency([[np.array([1.0, 2.0]), np.array([3.0])], [np.array([2.0, 2.0, 8.0])]])
    assert found.runs == 6
    assert found.mean_ms == pytest.approx((2 + 4) / 2)
    assert found.median_ms == 2
    assert found.p95_ms == pytest.approx(6.75)
    assert not found.settled
    assert latency([[np.full(5, 2.0)]] * 3) == Latency(2.0, 2.0, 2.0, 2.0, 2.0, 15, True)


@pytest.mark.parametrize(("count", "outer"), [(6, 0.05), (8, 0.01), (10, 0.01), (10, 0.05)])
def test_the_test_is_exact(count: int, outer: float) -> None:
    """Over all signs that equally sized differences can take, it errs no more often than it says, and not much less."""
    sizes = np.linspace(0.5, 1.5, count)
    wrong = 0
    for signs in itertools.product((1, -1), repeat=count):
        found = paired("b", "a", sizes * signs)
        wrong += found.significant if outer == 0.01 else not found.low <= 1 <= found.high
    assert 0 < wrong / 2**count <= outer


def test_few_processes_say_nothing() -> None:
    found = paired("b", "a", np.array([0.5, 0.6, 0.7, 0.8]))
    assert not found.significant
    assert not found.enough
    assert "too few processes" in words(found)
    assert (found.low, found.high) == pytest.approx((math.exp(0.5), math.exp(0.8)))


@pytest.mark.parametrize(("ratio", "text"), [
    (1.1, "b.onnx: 1.10x slower than a.onnx (1.09 to 1.11)"),
    (0.5, "b.onnx: 2.00x faster than a.onnx (1.98 to 2.02)"),
    (1.0, "b.onnx: no significant difference from a.onnx (0.99x to 1.01x)"),
])  # fmt: skip
def test_comparisons_in_words(ratio: float, text: str) -> None:
    assert words(paired("folder/b.onnx", "a.onnx", math.log(ratio) + np.linspace(-0.02, 0.02, 10))) == text


def test_wilcoxon_agrees_with_scipy() -> None:
    rng = np.random.default_rng(1)
    for _ in range(40):
        logs = rng.standard_normal(12) + rng.uniform(0, 1.5)
        found = paired("b", "a", logs)
        p = stats.wilcoxon(logs, method="exact").pvalue
        assert found.significant == (p <= 0.01)
        assert (not found.low <= 1 <= found.high) == (p <= 0.05)


def test_noise_takes_more_processes() -> None:
    class Lucky:
        def __init__(self, ms: float) -> None:
            self.ms = ms

        def block(self, runs: int) -> np.ndarray:
            return np.full(runs, self.ms)

    def processes(spread: float) -> int:
        rng = np.random.default_rng(0)

        @contextmanager
        def start(_: int) -> Iterator[list[Lucky]]:
            yield [Lucky(5 * math.exp(spread * rng.standard_normal())) for _ in range(2)]

        return len(take_turns(start, 1e9)[0])

    assert processes(0.001) == PROCESSES
    assert PROCESSES < processes(0.06) < 50


def test_time_is_kept() -> None:
    class Slow:
        def block(self, runs: int) -> np.ndarray:
            return np.full(runs, 30_000.0)

    @contextmanager
    def start(_: int) -> Iterator[list[Slow]]:
        yield [Slow()]

    times = take_turns(start, seconds=1e-9)
    assert [len(blocks) for blocks in times[0]] == [2, 2]


def chain(layers: int, width: int = 256) -> onnx.ModelProto:
    """x[n, width] through equal layers: twenty-two take 10 % longer than twenty."""
    nodes = [helper.make_node("MatMul", [f"h{i}", "w"], [f"h{i + 1}"]) for i in range(layers)]
    made = model(nodes, {"w": weights(width, width, scale=1e-2)}, {"h0": ["n", width]}, {f"h{layers}": ["n", width]})
    made.graph.node[-1].name = "last"
    return made


@pytest.mark.alone
@pytest.mark.slow
def test_a_real_model_against_itself_and_a_slower_one(tmp_path: Path) -> None:
    onnx.save(chain(20), tmp_path / "a.onnx")
    onnx.save(chain(22), tmp_path / "b.onnx")
    paths = [tmp_path / "a.onnx", tmp_path / "a.onnx", tmp_path / "b.onnx"]
    alike, slower = benchmark(paths, threads=[1], batches=[32], seconds=30).paired
    assert not alike.significant or alike.ratio == pytest.approx(1, abs=0.02)  # one interval in twenty lies, by chance
    assert slower.significant
    assert slower.low <= 1.1 <= slower.high or slower.ratio == pytest.approx(1.1, abs=0.05)


@pytest.mark.alone
@pytest.mark.slow
def test_a_real_measurement(tmp_path: Path) -> None:
    onnx.save(mlp(128), tmp_path / "plain.onnx")
    (tmp_path / "small.onnx").write_bytes(compressed(mlp(128)))
    onnx.save(lstm(), tmp_path / "other.onnx")  # other inputs, and a batch of one
    seen: list[tuple[str, float]] = []
    found = benchmark(
        [tmp_path / name for name in ("plain.onnx", "small.onnx", "other.onnx")],
        threads=[1], batches=[2, 3], seconds=0.1, progress=lambda what, share: seen.append((what, share)),
    )  # fmt: skip
    plain, small, other = found.models
    assert found.data == "noise"
    assert found.threads == 1
    assert found.processes >= 2
    assert plain.macs == small.macs == 2 * (128 * 256 + 256 * 10)
    assert plain.parameters == small.parameters == 128 * 256 + 256 * 10 + 10
    assert plain.file_size == (tmp_path / "plain.onnx").stat().st_size
    assert plain.inputs == {"x": (2, 128)}
    assert plain.batch == 2
    for one in found.models:
        assert one.load_ms > 0
        assert one.first_run_ms > 0
        assert one.warm_up_runs >= 3
        assert one.latency.runs > 0
        assert one.latency.low_ms <= one.latency.mean_ms <= one.latency.high_ms
        assert one.peak_rss >= one.steady_rss >= 0
        assert sum(op.share for op in one.ops) == pytest.approx(1)
        assert (one.energy_mj is None) == bool(one.energy_note)
    assert {op.op for op in plain.ops} == {op.op for op in small.ops}  # the inner model is what is looked at
    assert [(t.batch, t.threads) for t in plain.throughput] == [(2, 1), (3, 1)]
    assert all(t.samples_per_s > 0 for t in plain.throughput)
    assert [Path(pair.path).name for pair in found.paired] == ["small.onnx", "other.onnx"]
    shares = [share for _, share in seen]
    assert shares == sorted(shares)
    assert other.ops[0].op == "LSTM"


def test_fixed_batches_are_said(tmp_path: Path) -> None:
    fixed = mlp(64)
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(fixed, tmp_path / "m.onnx")
    (found,) = benchmark([tmp_path / "m.onnx"], threads=[1], seconds=0.1).models
    assert found.batch == 4
    assert [t.batch for t in found.throughput] == [4]
    assert any("batches of 4 only" in note for note in found.notes)


def test_workers_fail_in_one_sentence(tmp_path: Path) -> None:
    onnx.save(cnn(), tmp_path / "m.onnx")
    x = np.zeros((1, 3, 16, 16), np.float32)
    with pytest.raises(OnnxoptError, match=r"m\.onnx: does not run: .*x"):
        Worker(tmp_path / "m.onnx", [{"x": x[:, :2]}], 1)
    with pytest.raises(OnnxoptError, match=r"none\.onnx: .*"):
        Worker(tmp_path / "none.onnx", [{"x": x}], 1)
    with Worker(tmp_path / "m.onnx", [{"x": x}], 1) as worker:
        assert worker.block(4).shape == (4,)
        os.kill(worker._process.pid, 9)
        with pytest.raises(OnnxoptError, match=r"m\.onnx: .* ended with code -9"):
            worker.block(1)


@pytest.mark.alone
def test_time_of_a_loop_is_not_its_bodys(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("MatMul", ["s", "w"], ["t"]), helper.make_node("Identity", ["go"], ["on"])],
        "body",
        [value("i", 7, []), value("go", 9, []), value("s", FLOAT, [64, 256])],
        [value("on", 9, []), value("t", FLOAT, [64, 256])],
    )
    made = model(
        [helper.make_node("Loop", ["n", "", "x"], ["y"], body=body)],
        {"n": np.int64(20), "w": weights(256, 256, scale=1e-3)}, {"x": [64, 256]}, {"y": [64, 256]},
    )  # fmt: skip
    onnx.save(made, tmp_path / "m.onnx")
    ops = {op.op: op for op in time_by_op(tmp_path / "m.onnx", {"x": np.zeros((64, 256), np.float32)}, 1)}
    assert ops["MatMul"].share > 0.5
    assert ops["MatMul"].nodes == 1
    assert ops["MatMul"].ms > ops["Loop"].ms


def test_energy(tmp_path: Path) -> None:
    with pytest.raises(OnnxoptError, match="no counters"):
        Rapl(tmp_path)
    for name in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "max_energy_range_uj").write_text("999\n")
        (tmp_path / name / "energy_uj").write_text("900\n")
    first, second, part = (tmp_path / name / "energy_uj" for name in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0"))

    def work() -> None:
        first.write_text("950\n")
        second.write_text("100\n")  # wrapped around
        part.write_text("950\n")  # of the first one, and in its count already

    joules, _ = Rapl(tmp_path).spent(work)
    assert joules == pytest.approx((50 + 200) / 1e6)
    first.unlink()
    with pytest.raises(OnnxoptError, match="may not be read"):
        Rapl(tmp_path)


@pytest.mark.parametrize(("info", "name"), [
    ("cpu family\t: 6\nmodel\t\t: 167\nmodel name\t: A processor\n", "A processor (family 6, model 167)"),
    ("processor\t: 0\nmodel name\t: Another\n", "Another"),
])  # fmt: skip
def test_processors_have_names(info: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: info)
    assert cpu() == name


def command(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["onnxopt", "benchmark", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code in (0, None, 1)


@pytest.mark.alone
def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    np.save(tmp_path / "digits.npy", np.zeros((4, 1, 8, 8), np.float32))
    options = ("--seconds", 0.1, "--threads", "1", "--batch", "1,2")
    (block,) = run_by("tests/test_benchmark.py", "docs/howto/speed.md")
    for name in (models := block.text.split()[2:]):
        (tmp_path / name).write_bytes(DIGITS.read_bytes())
    monkeypatch.chdir(tmp_path)
    command(monkeypatch, *models, *options)
    shown = capsys.readouterr()
    expected = "fast.onnx|mean ms|95 %|p95|RSS|samples/s|Conv|energy|warm-up|onnxruntime"
    for word in expected.split("|"):
        assert word in shown.out, word
    assert "too few processes" in shown.out
    assert max(map(len, shown.out.splitlines())) <= 80
    assert not shown.err
    command(monkeypatch, DIGITS, *options, "--json", "--data", tmp_path / "digits.npy")
    found = json.loads(capsys.readouterr().out)
    assert found["models"][0]["latency"]["runs"] > 0
    assert found["machine"]["cores"] >= 1
    assert found["data"].endswith("digits.npy")
    assert found["paired"] == []


def test_bad_input_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    onnx.save(mlp(64), tmp_path / "m.onnx")
    (tmp_path / "text.onnx").write_text("this is no model, just some text that goes on for a while")
    np.save(tmp_path / "wrong.npy", np.zeros((4, 63), np.float32))
    for given, expected in (
        ((tmp_path / "none.onnx",), ("none.onnx", "No such file")),
        ((tmp_path / "m.onnx", tmp_path / "text.onnx"), ("text.onnx", "not an ONNX model")),
        ((tmp_path / "m.onnx", "--batch", "0,1"), ("--batch", "'0,1'", "as in 1,8")),
        ((tmp_path / "m.onnx", "--threads", "two"), ("--threads", "'two'")),
        ((tmp_path / "m.onnx", "--seconds", 0), ("--seconds", "more than zero")),
        ((tmp_path / "m.onnx", "--data", tmp_path / "wrong.npy"), ("wrong.npy", "63")),
    ):
        command(monkeypatch, *given)
        out, err = capsys.readouterr()
        assert not out
        (line,) = err.splitlines()
        assert line.startswith("onnxopt: ")
        assert all(word in line for word in expected), line


def products(count: int) -> onnx.ModelProto:
    """x[1, 512] through so many matrices, one after the other."""
    nodes = [helper.make_node("MatMul", [f"h{i}" if i else "x", "w"], [f"h{i + 1}"]) for i in range(count)]
    return model(nodes, {"w": weights(512, 512, scale=0.01)}, {"x": [1, 512]}, {f"h{count}": [1, 512]})


@pytest.mark.alone
def test_small_models_in_turns() -> None:
    one, many = milliseconds(
        [products(count).SerializeToString() for count in (1, 20)], {"x": np.ones((1, 512), np.float32)}
    )
    assert 3 * one < many


@pytest.mark.alone
def test_speed_alone(tmp_path: Path) -> None:
    paths = [tmp_path / "one.onnx", tmp_path / "many.onnx"]
    for path, count in zip(paths, (1, 20), strict=True):
        onnx.save(products(count), path)
    shares: list[float] = []
    found = time_ratio(*paths, [{"x": np.ones((1, 512), np.float32)}], 0.1, shares.append)
    assert found.path == str(paths[0])
    assert found.against == str(paths[1])
    assert 0 < found.low <= found.ratio <= found.high < 0.5
    assert not found.enough  # of the time there was for processes
    with pytest.raises(OnnxoptError, match=r"one\.onnx.*does not run"):
        time_ratio(*paths, [{"x": np.ones((1, 3), np.float32)}], 0.1, shares.append)
