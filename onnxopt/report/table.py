"""Results as terminal tables: 80 columns, plain text when piped."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from rich.console import Console, RenderableType
from rich.table import Table

from onnxopt.archive import Inspection
from onnxopt.events import Event
from onnxopt.result import Result


def size(count: int) -> str:
    """Bytes in the unit that reads best: 1 kB is 1000 bytes."""
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.2f} GB"


def print_result(console: Console, result: Result) -> None:
    """The tables of `optimize`: the search, bytes by layer, the totals."""
    if len(result.trials) > 1:
        console.print(_search(result))
    if result.events:
        console.print(_layers(result.events))
    for event in result.events:
        if event.reason:
            kept = "kept as it was: " if event.step == "lossless" else ""
            console.print(f"{event.path}: {kept}{event.reason}", style="yellow", markup=False)
    if result.unchanged:
        console.print(f"{result.output}: a copy of the source, {size(result.bytes_before)}: compressing saves nothing")
    else:
        ratio, half = result.bytes_before / result.bytes_after, result.bytes_fp16 / result.bytes_after
        console.print(
            f"{result.output}: {size(result.bytes_before)} -> {size(result.bytes_after)}, "
            f"{ratio:.2f}x smaller than fp32, {half:.2f}x than fp16",
            style="bold",
            highlight=False,
        )
    for line in _found(result):
        console.print(line, highlight=False, markup=False)
    if result.contract and not result.met:
        console.print(f"MISSED: {result.contract}", style="bold red", markup=False)
    memory = "" if result.peak_memory is None else f", peak memory {size(result.peak_memory)}"
    console.print(f"{result.seconds:.1f} s{memory}", highlight=False)
    missing = {
        "not calibrated": result.not_calibrated,
        "outputs not compared": result.not_checked,
        "speed not measured": result.not_benchmarked,
    }
    for what, reason in missing.items():
        if reason:
            console.print(f"{what}: {reason}", style="yellow", markup=False)


def _found(result: Result) -> Iterator[str]:
    """What was measured, on what."""
    if result.calibrated:
        yield f"calibrated on {result.calibrated}; asked for: {result.contract or result.recipe or 'a plan'}"
    if result.check is None:
        return
    found = result.check.found
    noise = "the same" if found.error == 0 else f"noise over signal {found.error:.3f}"
    yield f"outputs on {result.check.data} ({found.samples} samples), through the loader: {noise}"
    if found.before is not None and found.after is not None and found.drop is not None:
        yield f"metric there: {found.before:.4g} -> {found.after:.4g}, a drop of {found.drop:.3g}"


def _search(result: Result) -> RenderableType:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("strength" if result.recipe else "slope", "size", "noise/signal", "drop"):
        table.add_column(name, justify="right", no_wrap=True)
    for trial in result.trials:
        noise = "" if trial.error is None else f"{trial.error:.3f}"
        drop = "" if trial.drop is None else f"{trial.drop:.3g}"
        table.add_row(f"{trial.slope:.2e}", size(trial.size), noise, drop)
    return table


def _table(*right: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("weight", overflow="ellipsis", no_wrap=True, max_width=18)
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _layers(events: tuple[Event, ...]) -> RenderableType:
    """Errors are noise over signal in the layer's own outputs, else (without a promise) in the weight."""
    table = _table("shape", "step", "bytes", "bits", "zeros", "promise", "error")
    for e in events:
        bits, zeros = (f"{e.bits:.2f}", f"{e.zeros:.0%}") if e.elements else ("", "")
        promised = "" if e.predicted is None else f"{e.predicted:.3f}"
        error = f"{e.error if e.measured is None else e.measured:.3f}" if e.elements else ""
        name = re.sub(r"\{[^}]*\}", "", e.step)
        table.add_row(e.path, "x".join(map(str, e.shape)), name, size(e.bytes_after), bits, zeros, promised, error)
    return table


def print_inspection(console: Console, info: Inspection) -> None:
    """Header, plan, entries, bytes by codec."""
    console.print(
        f"{info.path}: {size(info.file_size)}, container version {info.version}, "
        f"inner model {size(info.model_size)}, source sha256 {info.plan.model_sha256[:12]}...",
        style="bold",
        highlight=False,
        soft_wrap=True,
    )
    table = _table("shape", "coded", "codec", "step")
    for e in info.entries:
        if not e.hidden:
            scales = 0 if e.auxiliary is None else info.entries[e.auxiliary].coded_size
            step = str(info.plan.steps.get(e.name, "lossless"))
            table.add_row(e.name, "x".join(map(str, e.dims)), size(e.coded_size + scales), e.codec, step)
    console.print(table)
    by_codec: Counter[str] = Counter()
    for e in info.entries:
        by_codec[e.codec] += e.coded_size
    rest = info.file_size - sum(by_codec.values())
    parts = [f"{codec} {size(count)}" for codec, count in by_codec.most_common()]
    console.print("bytes by codec: " + ", ".join([*parts, f"graph, names, plan, header {size(rest)}"]), soft_wrap=True)
