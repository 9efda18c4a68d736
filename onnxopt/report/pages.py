"""HTML pages from Jinja templates, and how they show numbers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from itertools import groupby
from math import floor, isfinite, log10
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxopt.report import classical
from onnxopt.report.text import size

if TYPE_CHECKING:
    import jinja2


def page(template: str, view: Mapping[str, Any]) -> str:
    """A page: a template in `templates/`, filled in."""
    return _environment().get_template(template).render(view)


def fragment(template: str, view: Mapping[str, Any]) -> str:
    """A part of a page: the text of a template, filled in."""
    return _environment().from_string(template).render(view)


@cache
def _environment() -> jinja2.Environment:
    import jinja2  # noqa: PLC0415 (only reports pay for it)

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"size": size, "sig": significant, "histogram": _histogram, "percent": _percent,
                            "cell": classical.text}  # fmt: skip
    return environment


def significant(value: float | None, digits: int = 3) -> str:
    """A number to so many digits: small ones as powers of ten, large ones in full; integers are exact."""
    from onnxopt.report.plots import power_of_ten  # noqa: PLC0415 (matplotlib is slow to import)

    if value is None:
        return "\N{EN DASH}"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\N{THIN SPACE}")
    if value == 0 or not isfinite(value):
        return f"{value:g}"
    exponent = floor(log10(abs(value)))
    if exponent < -3:
        return power_of_ten(value, digits - 1)
    rounded = float(f"{value:.{digits - 1}e}")
    return f"{rounded:,.{max(0, digits - 1 - exponent)}f}".replace(",", "\N{THIN SPACE}")


def _histogram(counts: Mapping[str, Any]) -> dict[str, Any]:
    """Outlines as SVG paths, each bin 1 wide and the highest 100 high, and the count of the highest bin.

    Heights are square roots of counts, so that tails show.
    """
    most = max(1, *counts["before"], *counts["after"])
    paths: dict[str, Any] = {"most": most}
    for key in ("before", "after"):
        levels = groupby(round(100 - 100 * (count / most) ** 0.5) for count in counts[key])
        paths[key] = f"M0 100{''.join(f'V{level}h{len(list(bins))}' for level, bins in levels)}V100"
    return paths


def _percent(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f} %"
