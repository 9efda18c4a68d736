"""What `evaluate` found, as terminal tables: 80 columns, plain text when piped."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from onnxopt.measure.evaluation import NO_ANSWER, Classification, Estimate, Evaluated, Evaluation, McNemar
from onnxopt.report.text import size

_MOST_CLASSES, _WORST = 20, 5
"""The most classes that are shown; of more, so many of the worst."""
_WIDTH = 80


def print_evaluation(console: Console, found: Evaluation) -> None:
    """A row for each model, how each differs from the first, and the classes of the last."""
    first, last = found.models[0], found.models[-1]
    labels = {0: "no labels", found.samples: "with labels"}.get(found.labelled, f"{found.labelled} with labels")
    _say(console, f"{found.data}: {found.samples} samples, {labels}", "bold")
    _print_table(console, ("model", "size", "time", "top-1", "95 %", "top-5", "prec.", "recall", "F1"),
                 [_row(model, _name(model, found)) for model in found.models])  # fmt: skip
    if first.classification:
        _say(console, "shares in %; precision, recall, F1: macro averages over the classes")
    if others := found.models[1:]:
        _say(console, f"\nagainst {_name(first, found)}:")
        _print_table(console, ("model", "same top-1", "95 %", "KL in nats", "cosine", "noise/signal", "same labels"),
                     [_deviation(model, _name(model, found)) for model in others])  # fmt: skip
        tested = [_test(m.deviation.paired, _name(m, found)) for m in others if m.deviation and m.deviation.paired]
        if tested:
            _say(console, "top-1 in points, the same samples:")
            _print_table(console, ("model", "top-1", "95 %", "p", ""), tested)
        if all(m.deviation and m.deviation.agreement is None and m.deviation.cosine is None for m in others):
            _say(console, "no output of scores [samples, classes]: only differences between the outputs are measured")
    elif first.classification is None:
        _say(console, "no output of scores [samples, classes]: labels are not used")
    for model in found.models:
        if (c := model.classification) and c.unanswered:
            text = f"scores of NaN for {c.unanswered} of {c.samples} samples, which count as wrong"
            _say(console, f"{_name(model, found)}: {text}", "yellow")
    if last.classification:
        _print_classes(console, last.classification, first if others else None, _name(last, found))
        _print_confusion(console, last.classification, _name(last, found))


def _name(model: Evaluated, found: Evaluation) -> str:
    """The file's name; the path where two in different folders are called the same."""
    paths: set[Path] = {other.path for other in found.models}
    return model.path.name if len({path.name for path in paths}) == len(paths) else str(model.path)


def _row(model: Evaluated, name: str) -> list[str]:
    head = [name, size(model.size), f"{model.seconds:.2f} s" if model.seconds < 100 else f"{model.seconds:.0f} s"]
    if (c := model.classification) is None:
        return [*head, *[""] * 6]
    shares = ["" if share is None else f"{100 * share:.1f}" for share in (c.top5, c.precision, c.recall, c.f1)]
    return [*head, _percent(c.top1.value), _interval(c.top1), *shares]


def _deviation(model: Evaluated, name: str) -> list[str]:
    assert model.deviation is not None
    d = model.deviation
    divergence = "" if d.divergence is None else f"{d.divergence:.2g}"
    same = "" if d.agreement is None else _percent(d.agreement.value)
    noise = "" if d.noise is None else f"{d.noise:.3f}"
    cosine = "" if d.cosine is None else f"{d.cosine:.5f}"
    labels = "" if d.labels is None else _percent(d.labels)
    return [name, same, _interval(d.agreement), divergence, cosine, noise, labels]


def _test(test: McNemar, name: str) -> list[str]:
    points = test.difference
    interval = f"{100 * points.low:+.2f} to {100 * points.high:+.2f}"
    p = "< 0.001" if test.p < 0.001 else f"{test.p:.3g}"
    return [name, f"{100 * points.value:+.2f}", interval, p, test.verdict]


def _print_classes(console: Console, found: Classification, first: Evaluated | None, name: str) -> None:
    shown, which = found.by_class, "by class"
    if len(shown) > _MOST_CLASSES:
        labelled = [c for c in shown if c.samples]
        shown = tuple(sorted(labelled, key=lambda c: (c.f1, -c.samples))[:_WORST])
        which = f"the {_WORST} worst classes by F1"
    _say(console, f"\n{name}, {which}:")
    before = {c.index: c.f1 for c in first.classification.by_class} if first and first.classification else {}
    _print_table(console, ("class", "samples", "predicted", "prec.", "recall", "F1", "F1 of first"), [
        [str(c.index), str(c.samples), str(c.predicted), *map(_percent, (c.precision, c.recall, c.f1)),
         _percent(before.get(c.index))] for c in shown
    ])  # fmt: skip
    if len(shown) < len(found.by_class):
        _say(console, f"({len(found.by_class)} classes occur; --json has all, and the confusion matrix)")


def _print_confusion(console: Console, found: Classification, name: str) -> None:
    """Where it fits, rows by label, columns by answer."""
    counts = {(label, answer): count for label, answer, count in found.confusion}
    labels = sorted({label for label, _ in counts})
    columns = sorted({index for pair in counts for index in pair}, key=lambda index: (index == NO_ANSWER, index))
    headers = ["", *("NaN" if index == NO_ANSWER else str(index) for index in columns)]
    rows = [[str(label), *(str(counts.get((label, answer), ".")) for answer in columns)] for label in labels]
    widest = max(len(cell) for row in (headers, *rows) for cell in row)
    if len(rows) > _MOST_CLASSES or len(headers) * (widest + 2) - 2 > _WIDTH:
        return
    _say(console, f"\n{name}, samples by class (rows) and answer (columns):")
    _print_table(console, headers, rows)


def _print_table(console: Console, headers: Iterable[str], rows: list[list[str]]) -> None:
    """Columns that are empty in every row are left out."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    cells = list(zip(*rows, strict=True))
    kept = [(header, column) for header, column in zip(headers, cells, strict=True) if any(column)]
    for header, _ in kept:
        if header == "model":  # long names take more lines, numbers stay whole
            table.add_column(header, overflow="fold")
        else:
            table.add_column(header, justify="right" if header else "left", no_wrap=True)
    for row in zip(*(column for _, column in kept), strict=True):
        table.add_row(*row)
    console.print(table, markup=False)


def _say(console: Console, text: str, style: str | None = None) -> None:
    console.print(text, style=style, highlight=False, markup=False)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2f}"


def _interval(share: Estimate | None) -> str:
    return "" if share is None else f"{100 * share.low:.1f}-{100 * share.high:.1f}"
