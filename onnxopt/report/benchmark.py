"""A benchmark on the terminal: 80 columns, plain text when piped."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from onnxopt.measure.benchmark import Benchmark, Measured, SpeedRatio
from onnxopt.report.table import columns
from onnxopt.report.text import many, shortened, size

_MOST_OPS, _NAME = 8, 16
"""The most operators shown of a model, the rest being one line; characters of a model's name."""


def print_benchmark(console: Console, found: Benchmark) -> None:
    """The machine, then tables: sizes and memory of each model, latency, comparisons, throughput, operators."""
    machine = found.machine
    lines = [
        f"{machine.cpu}, {_count(machine.cores, 'core')}, {size(machine.memory)} RAM",
        f"{machine.system}, load {machine.load:.1f}, onnxruntime {machine.onnxruntime}, onnxopt {machine.onnxopt}",
        ", ".join((_count(found.threads, "thread"), *found.providers, f"on {found.data}")),
    ]
    for line in lines:
        console.print(line, style="bold", highlight=False, markup=False)
    for table in (_costs(found.models), _latencies(found.models)):
        console.print()
        console.print(table, markup=False)
    for pair in found.paired:
        console.print(words(pair), style="bold" if pair.significant else None, highlight=False, markup=False)
    for table in (_throughput(found.models), _operators(found.models)):
        if table.row_count:
            console.print()
            console.print(table, markup=False)
    console.print()
    for line in _notes(found):
        console.print(line, style="dim", highlight=False, markup=False)


def words(pair: SpeedRatio) -> str:
    """One comparison in one line: ``small.onnx: 1.10x slower than big.onnx (1.08 to 1.12)``."""
    mine, other = Path(pair.path).name, Path(pair.against).name
    if not pair.enough:
        return f"{mine}: too few processes to tell it from {other} ({pair.low:.2f}x to {pair.high:.2f}x seen)"
    if not pair.significant:
        return f"{mine}: no significant difference from {other} ({pair.low:.2f}x to {pair.high:.2f}x)"
    if pair.ratio > 1:
        return f"{mine}: {pair.ratio:.2f}x slower than {other} ({pair.low:.2f} to {pair.high:.2f})"
    return f"{mine}: {1 / pair.ratio:.2f}x faster than {other} ({1 / pair.high:.2f} to {1 / pair.low:.2f})"


def _name(model: Measured) -> str:
    return shortened(Path(model.path).name, _NAME)


def _costs(models: tuple[Measured, ...]) -> Table:
    table = columns("model", "file", "params", "MACs", "load ms", "first ms", "peak RSS", "steady")
    for m in models:
        macs = "" if m.macs is None else many(m.macs)
        table.add_row(_name(m), size(m.file_size), many(m.parameters), macs, _ms(m.load_ms),
                      _ms(m.first_run_ms), size(m.peak_rss), size(m.steady_rss))  # fmt: skip
    return table


def _latencies(models: tuple[Measured, ...]) -> Table:
    table = columns("latency", "batch", "mean ms", "95 % interval", "median", "p95", "runs")
    for m in models:
        one = m.latency
        interval = f"{_ms(one.low_ms)} to {_ms(one.high_ms)}{'' if one.settled else ' !'}"
        table.add_row(_name(m), str(m.batch), _ms(one.mean_ms), interval, _ms(one.median_ms), _ms(one.p95_ms),
                      str(one.runs))  # fmt: skip
    return table


def _throughput(models: tuple[Measured, ...]) -> Table:
    table = columns("throughput", "batch", "threads", "samples/s")
    for m in models:
        for one in m.throughput:
            table.add_row(_name(m), str(one.batch), str(one.threads), f"{one.samples_per_s:.4g}")
    return table


def _operators(models: tuple[Measured, ...]) -> Table:
    table = columns("time by operator", "operator", "nodes", "ms", "share")
    for m in models:
        shown = len(m.ops) if len(m.ops) <= _MOST_OPS + 1 else _MOST_OPS
        rest = m.ops[shown:]
        for op in m.ops[:shown]:
            table.add_row(_name(m), op.op, str(op.nodes), _ms(op.ms), f"{op.share:.1%}")
        if rest:
            table.add_row(_name(m), f"{len(rest)} others", str(sum(op.nodes for op in rest)),
                          _ms(sum(op.ms for op in rest)), f"{sum(op.share for op in rest):.1%}")  # fmt: skip
    return table


def _notes(found: Benchmark) -> list[str]:
    """Energy, what is missing, and how it was measured."""
    lines = []
    for m in found.models:
        name = Path(m.path).name
        lines += [] if m.energy_mj is None else [f"{name}: energy {m.energy_mj:.3g} mJ a run above idle"]
        lines += [f"{name}: {note}" for note in m.notes]
    if reasons := {m.energy_note for m in found.models if m.energy_mj is None}:
        lines.append(f"energy: not available: {', '.join(sorted(reasons))}")
    if any(not m.latency.settled for m in found.models):
        lines.append("! wider than 5 % of the mean: the machine is busy, or --seconds are few")
    warm = ", ".join(str(m.warm_up_runs) for m in found.models)
    lines.append(f"{found.processes} fresh processes of each model took turns, after {warm} warm-up runs")
    lines.append("loading excluded; RSS is what a process takes beyond one without the model")
    if found.paired:
        lines.append("differences: significant at the 1 % level, with their 95 % interval")
    return lines


def _ms(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}" if value >= 0.001 else f"{value:.1g}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
