"""The pass protocol: an instance *is* a decision, and its fields are the arguments of its step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import Field, fields
from math import frexp, inf
from typing import ClassVar, Self

import numpy as np

from onnxopt.calibration.stats import Floats, Stats
from onnxopt.encoding import Array
from onnxopt.errors import OnnxoptError
from onnxopt.graph import Graph, Site
from onnxopt.spec.plan import Step

_LEAST_RMS = 1e-3
_RANGE = (1e-15, 1e15)
"""Of the largest element: float32 holds its square, weighted by moments and gains."""


class Skip(Exception):
    """A pass leaves this site as it is; the text is the reason that the report gives."""


def finite(values: Array, any_size: bool = False) -> Floats:
    """The weight in float64. Raises as `require_finite` does."""
    require_finite(values, any_size)
    return values.astype(np.float64)


def require_finite(values: Array, any_size: bool = False) -> None:
    """Raises Skip if a weight holds infinities or NaNs, or only zeros, or is out of `_RANGE`.

    Arguments:
        any_size: whether the range does not matter, as no squares of the weight meet statistics.
    """
    if not np.isfinite(values).all():
        raise Skip("holds infinities or NaNs")
    if not values.any():
        raise Skip("all zeros")
    largest, (low, high) = max(float(values.max()), -float(values.min())), _RANGE
    if not any_size and not low <= largest <= high:
        raise Skip(f"its largest element is {largest:.3g}, expected {low:g} to {high:g}")


def integer_length(largest: float) -> int:
    """Integer bits of dynamic fixed point, including the sign: ``ceil(log2 largest) + 1``, exactly."""
    mantissa, exponent = frexp(largest)  # the mantissa is in [0.5, 1)
    return exponent + (mantissa > 0.5)


def channel_rms(w: Floats, channel: int | None) -> Floats:
    """RMS of each slice along the axis `channel` (None: of the whole weight), relative to that of the weight.

    At least `_LEAST_RMS`, so that a dead channel costs nothing.
    """
    others = None if channel is None else tuple(a for a in range(w.ndim) if a != channel)
    squares = np.square(w)
    power = np.atleast_1d(squares.mean(axis=others))
    return np.asarray(np.maximum(np.sqrt(power / squares.mean()), _LEAST_RMS))


def matrix(values: Array, site: Site, stats: Stats) -> Array:
    """The weight as ``[groups, outputs, inputs]``; if its use is unknown, an output is an index along its axis."""
    if stats.linear is not None:
        return stats.linear.matrix(values)
    rows = values[None] if site.axis is None else np.moveaxis(values, site.axis, 0)
    return rows.reshape(1, len(rows), -1)


def tensor(rows: Array, site: Site, stats: Stats) -> Array:
    """The inverse of `matrix`."""
    if stats.linear is not None:
        return stats.linear.tensor(rows)
    if site.axis is None:
        return rows.reshape(site.shape)
    others = site.shape[: site.axis] + site.shape[site.axis + 1 :]
    return np.moveaxis(rows.reshape(-1, *others), 0, site.axis)


def correct_bias(graph: Graph, error: Array, stats: Stats, about_mean: bool = False) -> None:
    """Adds to the node's bias what an error of the weight takes from its outputs on average.

    Does nothing if the node has no bias of its own, or the moments of its inputs are not known. Nor if real inputs may
    be like none of the samples (`Stats.row_noise`): their mean would be another.

    Arguments:
        error: ``[groups, outputs, inputs]``, the original weight less the new one.
        about_mean: whether the error was made as small as the moments about the mean allow, which rests on this
            correction.
    """
    if stats.linear is None or stats.moments is None or stats.linear.bias is None:
        return
    if stats.row_noise < inf and not about_mean:
        return
    bias = graph.values(stats.linear.bias)
    shift = np.einsum("goi,gi->go", error, stats.moments.mean).ravel()
    graph.adjust(stats.linear.bias, (bias + shift).astype(bias.dtype))


def _key(field: Field[object]) -> str:
    """A field's name in plans: the field ``in_`` is ``in`` there, which is a keyword in Python."""
    return field.name.rstrip("_")


class Pass(ABC):
    """Subclasses are frozen dataclasses in a module of their own in this folder."""

    name: ClassVar[str]

    @classmethod
    @abstractmethod
    def space(cls, site: Site, stats: Stats) -> Iterator[Self]:
        """Legal decisions for this site, cheapest in bytes first; none if the pass does not apply."""

    @abstractmethod
    def apply(self, graph: Graph, site: Site, stats: Stats) -> tuple[Site, ...]:
        """Rewrites `graph` at `site` and returns the sites of the parts it made (``path@part``).

        Raises Skip if the site must stay as it is.
        """

    def predict(self, values: Array, site: Site, stats: Stats) -> float | None:
        """Predicted noise over signal (RMS) in the node's own outputs; None if `stats` do not suffice."""
        return None

    def step(self) -> Step:
        """This decision as a step of a plan."""
        changed = [f for f in fields(self) if getattr(self, f.name) != f.default]  # type: ignore[arg-type]
        return Step(self.name, tuple((_key(f), getattr(self, f.name)) for f in changed))

    @classmethod
    def from_step(cls, step: Step) -> Self:
        """The decision of a plan's step. Raises OnnxoptError if its arguments are not those of the pass."""
        known = {_key(f): f.name for f in fields(cls)}  # type: ignore[arg-type]
        unknown = [key for key, _ in step.args if key not in known]
        if unknown:
            raise OnnxoptError(
                f"step {step}: {cls.name} takes {', '.join(sorted(known)) or 'nothing'}, not {unknown[0]}"
            )
        try:
            return cls(**{known[key]: value for key, value in step.args})
        except (TypeError, ValueError) as error:
            raise OnnxoptError(f"step {step}: {error}") from error
