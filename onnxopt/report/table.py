"""Results as terminal tables: 80 columns, plain text when piped."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from rich.bar import Bar
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from onnxopt.report.json import plain
from onnxopt.report.strategies import print_strategies
from onnxopt.report.text import many, shortened, size
from onnxopt.results.events import Chain, Event
from onnxopt.results.result import Result
from onnxopt.runtime.archive import Inspection
from onnxopt.search.evaluator import Comparison
from onnxopt.spec.plan import Step

_WIDTH, _NAME, _BAR = 80, 16, 8
"""Columns of a terminal; of a weight's name there, which gets what a wider one has more; of a bar."""


def columns(left: str, *right: str) -> Table:
    """A table without lines: a column of names, others of numbers."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(left, no_wrap=True)
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def print_result(console: Console, result: Result) -> None:
    """The tables of `optimize`: the search, bytes by layer, the totals."""
    if len(result.trials) > 1:
        console.print(_search(result), markup=False)
        console.print()
    if result.events:
        console.print(_layers(console, result.events), markup=False)
        console.print()
    if chains := [one for one in result.chains if one.path not in _searched(result)]:
        console.print(_chains(console, chains), markup=False)
        console.print()
    if result.contract or result.plan.steps:  # else every bit was to be kept
        for line in _reasons(result.events):
            console.print(line, style="yellow", markup=False)
    print_strategies(console, plain(result)["strategies"])
    console.print(_headline(result), highlight=False)
    console.print(_facts(result))
    if result.contract and not result.met:
        console.print(f"MISSED: {result.contract}", style="bold red", markup=False)
    missing = {
        **{f"left out {name}": reason for name, reason in result.left_out.items()},
        "not calibrated": result.not_calibrated,
        "outputs not compared": result.not_checked,
        "speed not measured": result.not_benchmarked,
    }
    for what, reason in missing.items():
        if reason:
            console.print(f"{what}: {reason}", style="yellow", markup=False)


def _reasons(events: Sequence[Event]) -> Iterator[str]:
    """Why weights stay as they were, or have not all that was asked for; one line for all with one reason."""
    alike: dict[tuple[bool, str], list[Event]] = {}
    for event in events:
        if event.reason:
            alike.setdefault((event.step == "lossless", event.reason), []).append(event)
    for (lossless, reason), group in alike.items():
        if len(group) == 1:
            yield f"{group[0].path}: {'kept as it was: ' if lossless else ''}{reason}"
        else:
            total = size(sum(event.bytes_after for event in group))
            yield f"{len(group)} weights, {total}: {'kept as they were: ' if lossless else ''}{reason}"


def _lossless(events: Sequence[Event]) -> str:
    """How much of the weights stays as it was; empty where that is all of it, or nothing."""
    kept = sum(event.bytes_before for event in events if event.step in ("lossless", ""))
    total = sum(event.bytes_before for event in events)
    return f"{kept / total:.1%} of the weights, {size(kept)} of {size(total)}" if 0 < kept < total else ""


def _headline(result: Result) -> Text:
    if result.unchanged:
        why = "no other file is the same model" if "compression" in result.left_out else "compressing saves nothing"
        return Text(f"{result.output}: a copy of the source, {size(result.bytes_before)}: {why}")
    ratio, half = result.bytes_fp32 / result.bytes_after, result.bytes_fp16 / result.bytes_after
    return Text.assemble(
        f"{result.output}: {size(result.bytes_before)} -> {size(result.bytes_after)}, ",
        (f"{ratio:.2f}x smaller than fp32", "green"), f", {half:.2f}x than fp16", style="bold",
    )  # fmt: skip


def _facts(result: Result) -> RenderableType:
    """What was asked for, what was measured, on what."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    rows = {"asked for": result.contract, "recipe": result.recipe, "calibrated on": result.calibrated}
    if result.check:
        found = result.check.found
        rows["outputs"] = f"{_outputs(found)} on {result.check.data}, {found.samples} samples"
        if found.before is not None and found.after is not None and found.drop is not None:
            name = result.bounds.metric if result.bounds else "metric"
            rows[name] = f"{found.before:.4g} -> {found.after:.4g}, a drop of {found.drop:.3g}"
    if (promised := result.promised) is not None:
        rows["new samples"] = (f"drop by {promised.expected:.2g}, and with {100 * promised.confidence:g} % confidence "
                               f"by at most {promised.high:.2g}")  # fmt: skip
        rows["samples"] = promised.outlook
    rows["lossless"] = _lossless(result.events)
    memory = "" if result.peak_memory is None else f", peak memory {size(result.peak_memory)}"
    rows["rests on"] = result.rests_on
    rows["took"] = f"{result.seconds:.1f} s{memory}"
    for what, text in rows.items():
        if text:
            table.add_row(what, Text(text))
    return table


def _outputs(found: Comparison) -> str:
    """How the outputs differ."""
    if not found.measured:
        return "not measured: they show no numbers"
    if found.error in (None, 0.0) and found.agreement in (None, 1.0) and found.rows in (None, 1.0):
        return "the same"
    noise = [] if found.error is None else [f"noise over signal {found.error:.3f}"]
    labels = [] if found.agreement is None else [f"{100 * found.agreement:.4g} % of the labels the same"]
    rows = [] if found.rows in (None, 1.0) else [f"as many rows in {100 * found.rows:.4g} % of the samples"]
    return ", ".join(noise + labels + rows)


def _search(result: Result) -> RenderableType:
    dropped = any(trial.drop is not None for trial in result.trials)
    slope = "strength" if result.recipe else "slope"
    table = columns("try", slope, "size", "noise/signal", *(["drop"] if dropped else []))
    table.add_column()
    for number, trial in enumerate(result.trials, 1):
        cells = [f"{trial.slope:.2e}", size(trial.size), "" if trial.error is None else f"{trial.error:.3f}"]
        drop = trial.drop if trial.likely is None else trial.likely
        cells += [] if drop is None else [f"{drop:.3g}"]
        written = trial == result.kept
        table.add_row(str(number), *cells, "written" if written else "", style="green" if written else None)
    return table


def _layers(console: Console, events: tuple[Event, ...]) -> RenderableType:
    """Errors are noise over signal in the layer's own outputs, or in the weight where those were not measured."""
    table = columns("weight", "shape", "step", "bytes", "", "bits", "zeros", "error")
    shape, step, bar = (table.columns[i] for i in (1, 2, 4))
    shape.style = step.style = "dim"
    bar.max_width = _BAR
    step.no_wrap = bar.no_wrap = False  # they give way where there is no room
    most = max(e.bytes_after for e in events)
    for e in events:
        length = "" if console.options.ascii_only else Bar(most, 0, e.bytes_after, color="cyan")
        bits, zeros = (f"{e.bits:.2f}", f"{e.zeros:.0%}") if e.elements else ("", "")
        error = f"{e.error if e.measured is None else e.measured:.3f}" if e.elements else ""
        table.add_row(
            _name(console, e.path), "x".join(map(str, e.shape)), re.sub(r"\{[^}]*\}", "", e.step),
            size(e.bytes_after), length, bits, zeros, error,
        )  # fmt: skip
    return table


def _searched(result: Result) -> set[str]:
    """Layers that a strategy factorised; the strategy has a table of its own."""
    return {row["path"] for one in result.strategies for row in one.layers if row["accepted"]}


def _chains(console: Console, chains: Sequence[Chain]) -> RenderableType:
    """M and E are Kim et al.'s: how many times fewer weights and multiply-accumulates."""
    table = columns("layer", "step", "weights", "M", "MACs", "E")
    table.columns[1].style = "dim"
    for one in chains:
        work, ratio = "", ""
        if one.macs_before is not None and one.macs_after is not None and one.less_work is not None:
            work, ratio = f"{many(one.macs_before)} -> {many(one.macs_after)}", f"{one.less_work:.2f}"
        table.add_row(
            _name(console, one.path), f"{Step.parse(one.step).name} {', '.join(map(str, one.ranks))}",
            f"{many(one.weights_before)} -> {many(one.weights_after)}", f"{one.smaller:.2f}", work, ratio,
        )  # fmt: skip
    return table


def _name(console: Console, path: str) -> str:
    return shortened(path, _NAME + max(0, console.width - _WIDTH))


def print_inspection(console: Console, info: Inspection) -> None:
    """Header, plan, entries, bytes by codec."""
    console.print(
        f"{info.path}: {size(info.file_size)}, container version {info.version}, "
        f"inner model {size(info.model_size)}, source sha256 {info.plan.model_sha256[:12]}...",
        style="bold",
        highlight=False,
        soft_wrap=True,
    )
    table = columns("weight", "shape", "coded", "codec", "step")
    for e in info.entries:
        if not e.hidden:
            shared = None if e.reconstruction == "relative" else e.auxiliary
            scales = 0 if shared is None else info.entries[shared].coded_size
            step = str(info.plan.steps.get(e.name, "lossless"))
            dims = "x".join(map(str, e.dims))
            table.add_row(_name(console, e.name), dims, size(e.coded_size + scales), e.codec, step)
    console.print(table, markup=False)
    by_codec: Counter[str] = Counter()
    for e in info.entries:
        by_codec[e.codec] += e.coded_size
    rest = info.file_size - sum(by_codec.values())
    parts = [f"{codec} {size(count)}" for codec, count in by_codec.most_common()]
    console.print("bytes by codec: " + ", ".join([*parts, f"graph, names, plan, header {size(rest)}"]), soft_wrap=True)
