"""Results as terminal tables: 80 columns, plain text when piped."""

from __future__ import annotations

from collections import Counter

from rich.console import Console, RenderableType
from rich.table import Table

from onnxopt.api import Result
from onnxopt.archive import Inspection
from onnxopt.events import Event


def size(count: int) -> str:
    """Bytes in the unit that reads best: 1 kB is 1000 bytes."""
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.2f} GB"


def print_result(console: Console, result: Result) -> None:
    """The table of `optimize`: bytes by layer, then the totals."""
    if result.events:
        console.print(_layers(result.events))
    for event in result.events:
        if event.reason:
            console.print(f"{event.path}: kept as it was: {event.reason}", style="yellow", markup=False)
    if result.unchanged:
        console.print(f"{result.output}: a copy of the source, {size(result.bytes_before)}: compressing saves nothing")
    else:
        ratio, half = result.bytes_before / result.bytes_after, result.bytes_fp16 / result.bytes_after
        console.print(
            f"{result.output}: {size(result.bytes_before)} -> {size(result.bytes_after)}, "
            f"{ratio:.2f}x smaller than fp32, {half:.2f}x than fp16, {result.seconds:.1f} s",
            style="bold",
            highlight=False,
        )
    if result.not_compared:
        console.print(f"outputs not compared: {result.not_compared}", style="yellow", markup=False)
    elif result.output_error is not None:
        error = result.output_error
        text = "the same" if error == 0 else f"noise over signal {error:.3f}"
        console.print(f"outputs on random inputs, through the loader: {text}", highlight=False)
    if result.peak_memory is not None:
        console.print(f"peak memory {size(result.peak_memory)}", highlight=False)
    if result.not_probed:
        console.print(f"sensitivities not measured: {result.not_probed}", style="yellow", markup=False)


def _table(*right: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("weight", overflow="ellipsis", no_wrap=True, max_width=24)
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _layers(events: tuple[Event, ...]) -> RenderableType:
    table = _table("shape", "before", "after", "bits", "error", "codec")
    for e in events:
        bits, error = (f"{e.bits:.2f}", f"{e.error:.2%}") if e.elements else ("", "")
        shape = "x".join(map(str, e.shape))
        table.add_row(e.path, shape, size(e.bytes_before), size(e.bytes_after), bits, error, e.codec)
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
