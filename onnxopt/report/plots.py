"""Figures of the HTML report, as inline SVG that takes its colours and font from the page.

matplotlib draws with stand-in colours; `_inline` turns them into the page's CSS custom properties, so that a figure
follows light and dark, and hangs hover texts on what was given a name while drawing.
"""

from __future__ import annotations

import io
import itertools
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import isfinite
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

_INK, _MUTED, _LINE, _BEFORE, _AFTER, _WARN, _CARD = (f"#0{i}010{i}" for i in range(1, 8))
_PROPERTIES = {_INK: "ink", _MUTED: "muted", _LINE: "line", _BEFORE: "before", _AFTER: "after", _WARN: "warn",
               _CARD: "card"}  # fmt: skip
_STYLE: dict[Any, Any] = {
    "axes.axisbelow": True, "axes.edgecolor": _LINE, "axes.facecolor": "none", "axes.grid": True,
    "axes.labelcolor": _MUTED, "axes.labelsize": 12, "axes.spines.right": False, "axes.spines.top": False,
    "figure.facecolor": "none", "font.size": 12, "grid.color": _LINE, "grid.linewidth": 0.7, "svg.fonttype": "none",
    "svg.hashsalt": "onnxopt", "text.color": _INK, "text.parse_math": False, "xtick.color": _LINE,
    "xtick.labelcolor": _MUTED, "xtick.labelsize": 11, "ytick.color": _LINE, "ytick.labelcolor": _MUTED,
    "ytick.labelsize": 11, "xtick.minor.bottom": False, "ytick.minor.left": False, "savefig.dpi": 72,
}  # fmt: skip
_SERIES = ("#d98200", "#16a077", "#c8609a", "#8a6fd1", "#3aa0c4", "#a08a00", "#d0574a", "#6b8f3c")
"""Colours of labelled lines, readable on light and dark."""
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_FIRST = 5
"""The number of most sensitive weights that are labelled in a scan."""
_FAR = 8.0
"""Where a figure of curves ends, relative to the bound: a search goes beyond."""
_NAMED = 16
"""The most layers that are named on the axis; more are numbered."""


@dataclass(slots=True)
class Titles:
    """Hover texts, by the id of what they are for."""

    texts: dict[str, str] = field(default_factory=dict)

    def of(self, text: str) -> str:
        """A new id with this text."""
        name = f"t{len(self.texts)}"
        self.texts[name] = text
        return name


def search(trials: Sequence[Mapping[str, Any]], kept: Mapping[str, Any] | None, bounds: Mapping[str, Any],
           source: int) -> str:  # fmt: skip
    """The curve of the search: size against loss of each file that was tried.

    Arguments:
        trials: as the result holds them; at least one.
        kept: the one that was written.
        bounds: what was asked for.
        source: bytes of the source.
    """
    drops = bounds["max_drop"] is not None and all(t["drop"] is not None for t in trials)
    errors = all(t["error"] is not None for t in trials)
    key = "drop" if drops else "error" if errors else "slope"
    scale, unit = _unit(max(t["size"] for t in trials))
    label = {"drop": f"drop of {bounds['metric']}", "error": "noise over signal of the outputs",
             "slope": "slope: noise that each element may add"}[key]  # fmt: skip
    with _figure("search", 5.9, 4.1) as (figure, titles, out):
        axes = figure.subplots()
        logarithmic = key != "drop" and all(t[key] > 0 for t in trials)
        axes.set(xlabel=f"size of the file ({unit})", ylabel=label, yscale="log" if logarithmic else "linear")
        points = sorted(trials, key=lambda t: float(t["size"]))
        axes.plot([t["size"] / scale for t in points], [t[key] for t in points], color=_MUTED, lw=1, zorder=2)
        for t in points:
            chosen = kept is not None and t["slope"] == kept["slope"]
            text = f"{t['size'] / scale:.4g} {unit}, {label.partition(':')[0]} {t[key]:.3g}, slope {t['slope']:.3g}"
            x, y = t["size"] / scale, t[key]
            if key == "drop" and t["uncertainty"]:
                axes.errorbar(x, y, t["uncertainty"], color=_MUTED, lw=1, capsize=2, zorder=3)
            axes.plot(x, y, "o", ms=9 if chosen else 6, mfc=_AFTER if chosen else _CARD, mec=_AFTER, mew=1.4, zorder=4,
                      gid=titles.of(("written: " if chosen else "tried: ") + text))  # fmt: skip
        bound = bounds["max_drop"] if key == "drop" else bounds["error"] if key == "error" else None
        if bound is not None:
            axes.axhline(bound, color=_WARN, ls=(0, (4, 3)), lw=1.3, zorder=1,
                         gid=titles.of(f"asked for: at most {bound:g}"))  # fmt: skip
            axes.annotate(f"asked for: at most {bound:g}", (1, bound), (0, 4), xycoords=("axes fraction", "data"),
                          textcoords="offset points", ha="right", color=_WARN)  # fmt: skip
        size = bounds["target_size"] or (bounds["target_ratio"] and int(source / bounds["target_ratio"]))
        if size:
            axes.axvline(size / scale, color=_WARN, ls=(0, (4, 3)), lw=1.3, zorder=1,
                         gid=titles.of(f"asked for: at most {size / scale:.4g} {unit}"))  # fmt: skip
            axes.annotate(f"asked for: at most {size / scale:.4g} {unit}", (1, 1), (0, 3), xycoords="axes fraction",
                          textcoords="offset points", ha="right", color=_WARN)  # fmt: skip
        if logarithmic:
            _plain_log(axes, "y")
        axes.margins(0.08, 0.12)
    return out[0]


def margins(leads: Mapping[str, Any]) -> str:
    """How many samples have a lead of a size, and how many of them changed their answer.

    Arguments:
        leads: as `check.found.margins` holds them; the noise is above 0.
    """
    with _figure("margins", 5.9, 3.2) as (figure, titles, out):
        axes = figure.subplots()
        axes.set(xlabel="lead of the answer over the next class", ylabel="samples")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        for i, (count, changed) in enumerate(zip(leads["samples"], leads["changed"], strict=True)):
            low, high = i * leads["width"], (i + 1) * leads["width"]
            text = f"lead {low:.3g} to {high:.3g}: {count} samples, {changed} with another answer"
            for height, bottom, color in ((count - changed, changed, _BEFORE), (changed, 0, _AFTER)):
                if height:
                    axes.bar(low, height, leads["width"] * 0.9, bottom, align="edge", color=color,
                             gid=titles.of(text))  # fmt: skip
        axes.axvline(leads["noise"], color=_WARN, ls=(0, (4, 3)), lw=1.3,
                     gid=titles.of(f"noise: a standard deviation of {leads['noise']:.3g}"))  # fmt: skip
    return out[0]


def layers(events: Sequence[Mapping[str, Any]]) -> str:
    """Bytes, bits, zeros and sensitivity of each layer above each other, in graph order; at least one layer."""
    where = range(1, len(events) + 1)
    sensitive = [e["sensitivity"] for e in events]
    panels = ["bytes", "bits", "zeros"] + ["sensitivity"] * any(map(_positive, sensitive))
    with _figure("layers", 11.2, 1.5 + 1.55 * len(panels)) as (figure, titles, out):
        rows = figure.subplots(len(panels), sharex=True, height_ratios=[1.7] + [1] * (len(panels) - 1))
        axes = rows[0]
        sizes = [(max(1, e["bytes_before"]), max(1, e["bytes_after"])) for e in events]
        axes.set(yscale="log", ylabel="bytes in the file")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _bytes(value)))
        for x, e, (before, after) in zip(where, events, sizes, strict=True):
            text = f"{e['path']}: {_bytes(before)} before, {_bytes(after)} after, {before / after:.3g}x smaller"
            axes.plot(x, before, "o", ms=4.5, color=_BEFORE, clip_on=False, gid=titles.of(text))
            axes.plot(x, after, "o", ms=4.5, color=_AFTER, clip_on=False, gid=titles.of(text))
        axes.vlines(where, *zip(*sizes, strict=True), color=_BEFORE, lw=1.2, alpha=0.6, zorder=1)
        bars = {"bits": ("bits per weight", [e["bits"] for e in events], "{:.2f} bits per weight"),
                "zeros": ("zeros (%)", [100 * e["zeros"] for e in events], "{:.1f} % zeros")}  # fmt: skip
        for axes, key in zip(rows[1:], panels[1:], strict=True):
            if key == "sensitivity":
                axes.set(yscale="log", ylabel="sensitivity")
                axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: power_of_ten(value)))
                for x, e in zip(where, events, strict=True):
                    if _positive(e["sensitivity"]):
                        axes.plot(
                            x,
                            e["sensitivity"],
                            "o",
                            ms=4.5,
                            color=_AFTER,
                            gid=titles.of(
                                f"{e['path']}: one element contributes {e['sensitivity']:.2g} of the outputs' power"
                            ),
                        )
                continue
            label, values, text = bars[key]
            axes.set_ylabel(label)
            axes.yaxis.set_major_locator(MaxNLocator(4))
            axes.set_ylim(0, 1.08 * max(values) or 1)
            drawn = axes.bar(where, values, min(0.7, 0.04 * len(events)), color=_AFTER, clip_on=False)
            for bar, e, value in zip(drawn, events, values, strict=True):
                bar.set_gid(titles.of(f"{e['path']}: {text.format(value)}"))
        for axes in rows:
            axes.grid(visible=False, axis="x")
        figure.align_ylabels()
        rows[-1].set_xlim(0.3, len(events) + 0.7)
        if len(events) <= _NAMED:
            rows[-1].set_xticks(where, [_short(e["path"]) for e in events], rotation=28, ha="right")
        else:
            rows[-1].set_xlabel("weight, in graph order (the numbers of the table below)")
    return out[0]


def predictions(events: Sequence[Mapping[str, Any]]) -> str:
    """Measured against predicted noise in the outputs of each layer; at least one layer has both."""
    both = [e for e in events if _positive(e["predicted"]) and _positive(e["measured"])]
    with _figure("predictions", 5.9, 4.1) as (figure, titles, out):
        axes = figure.subplots()
        axes.set(xscale="log", yscale="log", xlabel="predicted noise over signal of the layer's outputs",
                 ylabel="measured, on inputs held back")  # fmt: skip
        every = [e[key] for e in both for key in ("predicted", "measured")]
        ends = (min(every) / 1.5, max(every) * 1.5)
        axes.plot(ends, ends, color=_MUTED, lw=1, ls=(0, (4, 3)), gid=titles.of("measured as predicted"))
        axes.annotate("as predicted", (ends[0], ends[0]), (24, 4), textcoords="offset points", color=_MUTED)
        for e in both:
            axes.plot(
                e["predicted"],
                e["measured"],
                "o",
                ms=6,
                color=_AFTER,
                alpha=0.75,
                mew=0,
                gid=titles.of(f"{e['path']}: predicted {e['predicted']:.3g}, measured {e['measured']:.3g}"),
            )
        axes.set(xlim=ends, ylim=ends)
        _plain_log(axes, "x")
        _plain_log(axes, "y")
    return out[0]


def operators(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> str:
    """Time by type of operator, the longest first, before above after; at least one operator."""
    total: dict[str, list[float]] = {}
    for index, ops in enumerate((before, after)):
        for one in ops:
            total.setdefault(one["op"], [0.0, 0.0])[index] += one["ms"]
    rows = sorted(total.items(), key=lambda item: max(item[1]), reverse=True)[:12]
    with _figure("operators", 5.9, 1.1 + 0.42 * len(rows)) as (figure, titles, out):
        axes = figure.subplots()
        for index, (what, color) in enumerate((("before", _BEFORE), ("after", _AFTER))):
            drawn = axes.barh([y + 0.2 * (2 * index - 1) for y in range(len(rows))], [ms[index] for _, ms in rows],
                              0.36, color=color, label=what)  # fmt: skip
            for bar, (op, times) in zip(drawn, rows, strict=True):
                bar.set_gid(titles.of(f"{op} {what}: {times[index]:.3g} ms a run"))
        axes.set_yticks(range(len(rows)), [_short(op) for op, _ in rows])
        axes.set(xlabel="time in a run (ms)")
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.legend(frameon=False, loc="lower right")
    return out[0]


def sensitivity(weights: Mapping[str, Sequence[float | None]], settings: Sequence[float], step: str, label: str) -> str:
    """Loss when one weight alone is changed, at several settings: a line for each weight.

    Arguments:
        weights: by path, a value for each setting; None where there is none.
        settings: from left to right.
        step: what was done, with ``$x`` for the setting.
        label: what the values are.
    """
    lines = [(path, [(x, value) for x, value in enumerate(values) if value is not None and isfinite(value)])
             for path, values in weights.items()]  # fmt: skip
    lines = sorted((line for line in lines if line[1]), key=lambda line: sum(value for _, value in line[1]))
    with _figure("sensitivity", 11.2, 5.4) as (figure, titles, out):
        axes = figure.subplots()
        axes.set(xlabel=f"$x in {step}", ylabel=label)
        axes.set_xticks(range(len(settings)), [f"{setting:g}" for setting in settings])
        named = lines[-_FIRST:]
        for path, marks in lines:
            style: dict[str, Any] = {"color": _MUTED, "lw": 1, "alpha": 0.6}
            if (path, marks) in named:
                style = {"color": _AFTER, "lw": 1.8}
            text = ", ".join(f"{value:.3g} at {settings[x]:g}" for x, value in marks)
            axes.plot(*zip(*marks, strict=True), marker="o", ms=4, gid=titles.of(f"{path}: {text}"), **style)
        low, high = axes.get_ylim()
        y = low
        for path, ((x, value), *_) in sorted(named, key=lambda line: line[1][0][1]):
            y = max(value, y + 0.05 * (high - low))  # above the name before
            axes.annotate(_short(path), (x, y), (-10, 0), textcoords="offset points", ha="right", va="center",
                          color=_AFTER)  # fmt: skip
        axes.set_xlim(-0.25 * len(settings), len(settings) - 0.9)
    return out[0]


def curves(found: Mapping[str, Sequence[tuple[float, float]]], label: str, bound: float | None) -> str:
    """Compression ratio against loss, a line for each system; the first one stands out.

    Arguments:
        found: by name, ratios and costs.
        label: what the costs are.
        bound: what was asked for; None where that was no cost.
    """
    with _figure("curves", 11.2, 5.4) as (figure, titles, out):
        axes = figure.subplots()
        axes.set(xscale="log", xlabel="times smaller than the source", ylabel=label)
        colors = itertools.cycle(_SERIES)
        for index, (name, points) in enumerate(found.items()):
            color, width = (next(colors), 1.4) if index else (_AFTER, 2.4)
            axes.plot(*zip(*points, strict=True), color=color, lw=width, zorder=3 - bool(index), label=_short(name))
            for ratio, cost in points:
                text = f"{name}: {ratio:.3g}x smaller, {label} {cost:.3g}"
                axes.plot(ratio, cost, "os^Dv<>P"[index % 8], ms=6, color=color, zorder=4, gid=titles.of(text))
        if bound is not None:
            axes.axhline(bound, color=_WARN, ls=(0, (4, 3)), lw=1.3, zorder=1)
            axes.annotate(f"asked for: at most {bound:g}", (1, bound), (0, 4), xycoords=("axes fraction", "data"),
                          textcoords="offset points", ha="right", color=_WARN)  # fmt: skip
            axes.set_ylim(top=min(axes.get_ylim()[1], _FAR * bound))
        _plain_log(axes, "x")
        axes.legend(frameon=False, loc="upper left")
    return out[0]


def tuning(passes: Sequence[Mapping[str, Any]], cost: str) -> str:
    """Bytes of the file above its loss, over passes; `cost` is the key of the loss, which may be None."""
    label = "drop" if cost == "drop" else "noise over signal"
    with _figure("tuning", 11.2, 4.6) as (figure, titles, out):
        for axes, key, what in zip(figure.subplots(2, 1, sharex=True), ("size", cost), ("bytes", label), strict=True):
            axes.set_ylabel(what)
            marks = [one for one in passes if one[key] is not None]
            axes.plot([one["epoch"] for one in marks], [one[key] for one in marks], color=_MUTED, lw=1)
            for one in marks:
                text = f"{one['epoch']} passes, round {one['round']}: {_bytes(one['size'])}, {what} {one[key]:.4g}"
                axes.plot(one["epoch"], one[key], "o", ms=5, color=_AFTER, gid=titles.of(text))
        axes.set_xlabel("passes over the training samples")
    return out[0]


def _positive(value: float | None) -> bool:
    return value is not None and value > 0


def _unit(most: float) -> tuple[float, str]:
    return next((scale, unit) for scale, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B"))
                if most >= scale or scale == 1)  # fmt: skip


def _bytes(value: float) -> str:
    scale, unit = _unit(value)
    return f"{value / scale:.3g} {unit}"


def power_of_ten(value: float, digits: int = 0) -> str:
    """The number as its mantissa, where one is asked for or it is not 1, times a power of ten."""
    mantissa, _, exponent = f"{value:.{digits}e}".partition("e")
    power = f"10{str(int(exponent)).translate(_SUPERSCRIPTS)}"
    return power if mantissa == "1" else f"{mantissa}\N{MULTIPLICATION SIGN}{power}"


def _short(path: str, most: int = 22) -> str:
    text = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in path)
    return text if len(text) <= most else f"…{text[1 - most :]}"


def _plain_log(axes: Axes, which: str) -> None:
    """1, 2, 5 in every decade, as plain numbers where these are short."""
    axis = axes.yaxis if which == "y" else axes.xaxis
    low, high = axis.get_view_interval()
    steps = (1, 2, 5) if high / low < 300 else (1,)
    axis.set_major_locator(mpl.ticker.LogLocator(subs=steps))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if value > 5e-4 else power_of_ten(value)))
    axis.set_minor_formatter(NullFormatter())


@contextmanager
def _figure(name: str, width: float, height: float) -> Iterator[tuple[Figure, Titles, list[str]]]:
    """A figure in inches, hover texts, and the list that its SVG is put into."""
    out: list[str] = []
    with mpl.rc_context(_STYLE):
        figure, titles, drawn = Figure((width, height), layout="constrained"), Titles(), io.BytesIO()
        yield figure, titles, out
        with warnings.catch_warnings():  # of letters that its font lacks: the page's has them
            warnings.filterwarnings("ignore", "Glyph")
            figure.savefig(drawn, format="svg", metadata={"Date": None})
    out.append(_inline(name, drawn.getvalue(), titles.texts))


def _inline(name: str, svg: bytes, titles: Mapping[str, str]) -> str:
    """matplotlib's SVG as a part of an HTML page: no namespaces, ids of its own, the page's colours and font."""
    root = ElementTree.fromstring(svg)
    used = set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", svg.decode()))
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}style")):  # the latter would hold for the whole page
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.text = element.text and (element.text.strip() or None)
        element.tail = None
        own = element.attrib.pop("id", "")
        element.attrib = {key.rpartition("}")[2]: _page(value, name) for key, value in element.attrib.items()}
        if own in used:
            element.set("id", f"{name}-{own}")
        if own in titles:
            element.insert(0, title := ElementTree.Element("title"))
            title.text = titles[own]
    root.attrib = {"viewBox": root.attrib["viewBox"], "class": f"plot {name}", "aria-hidden": "true"}
    return ElementTree.tostring(root, "unicode")


def _page(value: str, name: str) -> str:
    """An attribute's value for the page; numbers are as exact as a screen shows."""
    value = re.sub(r"(url\(#|^#)(?=[a-zA-Z])", rf"\g<1>{name}-", value)
    value = re.sub(r"#0[1-7]010[1-7]", lambda color: f"var(--{_PROPERTIES[color[0]]})", value)
    value = re.sub(r"font: ([0-9.]+px) [^;]*", r"font-size: \1", value)
    value = re.sub(r"-?\d+\.\d{2,}", lambda number: f"{float(number[0]):.1f}".removesuffix(".0"), value)
    return re.sub(r"  +", " ", value).strip()
