"""Tables as published systems show them, one row for each layer, from the events of a result.

Deep Compression (Han, Mao & Dally 2016, Table 4), MicroBrain (Ge et al., Table I) and ETRI's hierarchical compression
(Kim et al., Tables 2 and 4). Biases are not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from rich.console import Console
from rich.table import Table

from onnxopt.errors import OnnxoptError
from onnxopt.passes.math.relative_index import Sizes
from onnxopt.report.table import columns
from onnxopt.report.text import shortened, size
from onnxopt.results.events import Event
from onnxopt.results.result import Stage
from onnxopt.spec.plan import Scalar, Step

_LONGEST = 17
"""Characters of a layer's name that a terminal has room for."""


@dataclass(frozen=True, slots=True)
class Column:
    """One number of every layer."""

    heading: str
    unit: str
    """Its format: count, bytes, bits or %."""
    title: str


@dataclass(frozen=True, slots=True)
class Row:
    """One layer, or all."""

    layer: str
    values: tuple[float | None, ...]
    """By column; None where a value is unknown or has no meaning."""


@dataclass(frozen=True, slots=True)
class PaperTable:
    """A table as in a paper, with our numbers."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    total: Row
    notes: tuple[str, ...]


def of(name: str, events: Sequence[Event]) -> PaperTable:
    """The table of this name, from events with sizes by relative indices. Raises OnnxoptError where there is none."""
    check(name)
    return _TABLES[name](events)


def check(name: str) -> None:
    """Raises OnnxoptError where no table has this name."""
    if name not in _TABLES:
        raise OnnxoptError(f"no table is called {name!r}; there are {', '.join(_TABLES)}")


def _deep_compression(events: Sequence[Event]) -> PaperTable:
    columns = (
        Column("count", "count", "Weights"),
        Column("kept", "%", "Weights that are not zero"),
        Column("value bits", "bits", "Of a stored weight's value"),
        Column("+H", "bits", "The same after Huffman coding"),
        Column("index bits", "bits", "Of the gap to the stored weight before"),
        Column("+H", "bits", "The same after Huffman coding"),
        Column("P", "%", "Pruned: size with relative indices, of the source's"),
        Column("P+Q", "%", "Pruned and quantized"),
        Column("P+Q +H", "%", "Pruned, quantized and Huffman-coded"),
        Column("CSR", "%", "Pruned and quantized, in compressed sparse rows"),
        Column("CSC", "%", "Pruned and quantized, in compressed sparse columns"),
        Column("file", "%", "Its size in the file, with the default codecs"),
    )
    return PaperTable(
        "Deep Compression: layer by layer", columns,
        tuple(Row(event.path, _coded([sizes], event.bytes_after)) for event, sizes in _weights(events)),
        Row("total", _coded([sizes for _, sizes in _weights(events)],
                            sum(event.bytes_after for event, _ in _weights(events)))),
        ("bits of one stored weight; sizes in %: P pruned, Q quantized, H Huffman-coded",),
    )  # fmt: skip


def _coded(each: Sequence[Sizes], stored: int) -> tuple[float | None, ...]:
    """A row of Deep Compression's table; `stored` is in bytes."""
    weights, tokens, kept = (sum(getattr(s, name) for s in each) for name in ("weights", "tokens", "kept"))
    values, gaps = (sum(s.tokens * getattr(s, name) for s in each) for name in ("value_bits", "gap_bits"))
    coded = [sum(getattr(s, name) for s in each) / max(1, tokens)
             for name in ("huffman_value_bits", "huffman_gap_bits")]  # fmt: skip
    stages = ("pruned_bits", "quantized_bits", "coded_bits", "csr_bits", "csc_bits")
    source = sum(s.weights * s.source_bits for s in each)
    rates = [100 * sum(getattr(s, name) for s in each) / max(1, source) for name in stages]
    return (
        weights, 100 * kept / max(1, weights), _whole(values / max(1, tokens)), coded[0], _whole(gaps / max(1, tokens)),
        coded[1], *rates, 100 * 8 * stored / max(1, source),
    )  # fmt: skip


def _microbrain(events: Sequence[Event]) -> PaperTable:
    columns = (
        Column("before", "bytes", "Weights in the source"),
        Column("coded", "bytes", "Relative indices, Huffman-coded, as the paper stores them"),
        Column("file", "bytes", "Their size in the file, with the default codecs"),
        Column("MACs before", "count", "Multiply-accumulates of one input"),
        Column("MACs after", "count", "Those with weights that are not zero"),
        Column("left", "%", "Multiply-accumulates, after of before"),
    )
    rows = [Row(layer.path, _resources(layer, parts)) for layer, parts in _by_layer(events)]
    sums = [_sum(row.values[i] for row in rows) for i in range(5)]
    return PaperTable("MicroBrain: resources before and after", columns, tuple(rows), Row("total", _left(sums)), ())


def _resources(layer: Event, parts: Sequence[tuple[Event, Sizes]]) -> tuple[float | None, ...]:
    """A row of MicroBrain's table: a layer, and its weights or factors in the file."""
    done = [part.macs if part.macs is None else round(part.macs * sizes.density) for part, sizes in parts]
    coded = sum(sizes.coded_bits for _, sizes in parts) / 8
    return _left([layer.bytes_before, coded, sum(part.bytes_after for part, _ in parts), layer.macs, _sum(done)])


def _left(values: Sequence[float | None]) -> tuple[float | None, ...]:
    """The numbers, and the last of the one before it in %."""
    before, after = values[-2:]
    return (*values, 100 * after / before if before and after is not None else None)


def _hierarchical(events: Sequence[Event]) -> PaperTable:
    columns = (
        Column("count", "count", "Weights"),
        Column("pruned", "%", "Weights that are zero"),
        Column("centroid bits", "bits", "Of the index of a centroid"),
        Column("weight bits", "bits", "In fixed point, of a centroid"),
        Column("output bits", "bits", "In fixed point, of the layer's outputs"),
        Column("P+Q", "%", "Size with relative indices, of the source's"),
        Column("file", "%", "Its size in the file, with the default codecs"),
    )
    rows, every, found = [], [], dict[str, set[float]]()
    for event, plain in _weights(events):
        shared = plain.value_bits if _arguments(event, "codebook") is not None else None
        weight, output = (_bits(event, name) for name in ("fixedpoint", "outputs"))
        sizes = plain
        if shared and weight:  # centroids are stored in fixed point
            sizes = replace(plain, table_bits=plain.table_bits * weight // plain.source_bits)
        kind = "convolutions" if event.op.startswith("Conv") else "matrices"
        found.setdefault(kind, set()).add(weight or sizes.source_bits)
        found.setdefault("layer outputs", set()).add(output or sizes.source_bits)
        rates = _coded([sizes], event.bytes_after)
        rows.append(Row(event.path, (sizes.weights, 100 - 100 * sizes.density, shared, weight, output, rates[7],
                                     rates[11])))  # fmt: skip
        every.append(sizes)
    rates = _coded(every, sum(event.bytes_after for event, _ in _weights(events)))
    centroids = [row.values[2] for row in rows if row.values[2] is not None]
    total = (rates[0], 100 - (rates[1] or 0), fmean(centroids) if centroids else None, None, None, rates[7], rates[11])
    kinds = (kind for kind in ("convolutions", "matrices", "layer outputs") if kind in found)
    notes = [f"{kind} {_span(found[kind])} bits" for kind in kinds]
    return PaperTable("Hierarchical compression", columns, tuple(rows), Row("total", total), (", ".join(notes),))


_TABLES: dict[str, Callable[[Sequence[Event]], PaperTable]] = {
    "deep-compression": _deep_compression,
    "microbrain": _microbrain,
    "hierarchical": _hierarchical,
}
"""By the names that recipes use."""


def _weights(events: Iterable[Event]) -> list[tuple[Event, Sizes]]:
    return [(event, event.sizes) for event in events if event.sizes is not None]


def _by_layer(events: Sequence[Event]) -> list[tuple[Event, list[tuple[Event, Sizes]]]]:
    """Every layer of the source, and what is stored of it: its weight, or the factors that replace it."""
    gone = [event for event in events if event.shape and not event.elements]
    found: dict[str, tuple[Event, list[tuple[Event, Sizes]]]] = {}
    for event, sizes in _weights(events):
        layer = next((one for one in gone if event.path.startswith(f"{one.path}@")), event)
        found.setdefault(layer.path, (layer, []))[1].append((event, sizes))
    return list(found.values())


def _arguments(event: Event, name: str) -> dict[str, Scalar] | None:
    """Of the pass of this name; None where it was not applied to the weight."""
    steps = {one.name: dict(one.args) for one in Step.parse(event.step)}
    return None if event.reason else steps.get(name)


def _bits(event: Event, name: str) -> int | None:
    bits = (_arguments(event, name) or {}).get("bits")
    return bits if isinstance(bits, int) else None


def _span(numbers: set[float]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low}" if low == high else f"{low} to {high}"


def _sum(values: Iterable[float | None]) -> float | None:
    """Of those that are known."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _whole(value: float) -> float:
    return int(value) if value == int(value) else value


def text(value: float | None, unit: str) -> str:
    """A number to three digits, in the format of its column."""
    if value is None:
        return ""
    if unit == "bytes":
        return size(round(value))
    if unit == "bits":
        return str(value) if isinstance(value, int) else f"{value:.2f}"
    if unit == "%":
        return _three_digits(value)
    if value < 1000:
        return str(round(value))
    scale, letter = next((10**e, s) for e, s in ((9, "G"), (6, "M"), (3, "k")) if value >= 10**e)
    return _three_digits(value / scale) + letter


def _three_digits(value: float) -> str:
    return f"{value:#.3g}".rstrip(".") if value < 999.5 else f"{value:.0f}"


def print_table(console: Console, found: PaperTable) -> None:
    """In 80 columns."""
    console.print(f"\n{found.title}", style="bold", highlight=False)
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("layer", no_wrap=True)
    for column in found.columns:
        table.add_column(column.heading.replace(" ", "\n"), justify="right", no_wrap=True)
    for row in (*found.rows, found.total):
        cells = [text(value, column.unit) for value, column in zip(row.values, found.columns, strict=True)]
        table.add_row(shortened(row.layer, _LONGEST), *cells)
    console.print(table, markup=False)
    for note in found.notes:
        console.print(note, highlight=False, markup=False)


def print_stages(console: Console, stages: Sequence[Stage]) -> None:
    """Size, noise and metric of the model after each step."""
    measured = ("metric", "drop") if any(map(_metric, stages)) else ()
    table = columns("after", "size", "noise/signal", *measured)
    for stage in stages:
        noise = "" if stage.found is None or stage.found.error is None else f"{stage.found.error:.3f}"
        table.add_row(stage.steps, size(stage.size), noise, *_metric(stage))
    console.print()
    console.print(table, markup=False)


def _metric(stage: Stage) -> tuple[str, ...]:
    """The value and its drop; nothing where no metric was measured."""
    if stage.found is None or stage.found.after is None or stage.found.drop is None:
        return ()
    return f"{stage.found.after:.4g}", f"{stage.found.drop:.3g}"
