"""The pass protocol: an instance *is* a decision, its fields are the step's arguments."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import Field, fields
from math import frexp
from typing import ClassVar, Self

import numpy as np

from onnxopt.calibration.stats import Floats, Stats
from onnxopt.encoding import Array
from onnxopt.errors import OnnxoptError
from onnxopt.graph import Graph, Site
from onnxopt.spec.plan import Step

_QUIETEST = 1e-3


class Skip(Exception):
    """A pass leaves this site as it is; the text says why and ends in the report."""


def finite(values: Array) -> Floats:
    """The weight in float64. Raises Skip where no grid of finite steps can hold it, or there is nothing to hold."""
    w = values.astype(np.float64)
    if not np.isfinite(w).all():
        raise Skip("holds infinities or NaNs")
    if not w.any():
        raise Skip("all zeros")
    return w


def integer_length(largest: float) -> int:
    """Bits before the point in dynamic fixed point, the sign included: ``ceil(log2 largest) + 1``, exactly."""
    mantissa, exponent = frexp(largest)  # the mantissa is at least a half, and below one
    return exponent + (mantissa > 0.5)


def channel_rms(w: Floats, channel: int | None) -> Floats:
    """Root mean square of every index of the axis `channel` (None: of all), as a share of the whole weight's.

    At least `_QUIETEST`, so that a dead channel costs nothing.
    """
    others = None if channel is None else tuple(a for a in range(w.ndim) if a != channel)
    power = np.atleast_1d(np.square(w).mean(axis=others))
    return np.asarray(np.maximum(np.sqrt(power / np.square(w).mean()), _QUIETEST))


def matrix(values: Array, site: Site, stats: Stats) -> Array:
    """The weight as ``[groups, outputs, inputs]``; where nothing multiplies it, an output is an index of its axis."""
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


def correct_bias(graph: Graph, error: Array, stats: Stats) -> None:
    """What an error of the weight adds to the node's outputs on average goes to its bias.

    Nothing happens where the node has no bias of its own, or its inputs are not known.

    Arguments:
        error: ``[groups, outputs, inputs]``, the weight as it was, less as it is.
    """
    if stats.linear is None or stats.moments is None or stats.linear.bias is None:
        return
    bias = graph.values(stats.linear.bias)
    shift = np.einsum("goi,gi->go", error, stats.moments.mean).ravel()
    graph.adjust(stats.linear.bias, (bias + shift).astype(bias.dtype))


def _key(field: Field[object]) -> str:
    """As plans write it: ``in`` is the field ``in_``, as Python wants the word for itself."""
    return field.name.rstrip("_")


class Pass(ABC):
    """Subclasses are frozen dataclasses in a module of their own in this folder."""

    name: ClassVar[str]

    @classmethod
    @abstractmethod
    def space(cls, site: Site, stats: Stats) -> Iterator[Self]:
        """Legal decisions for this site, cheapest in bytes first; none where the pass does not apply."""

    @abstractmethod
    def apply(self, graph: Graph, site: Site, stats: Stats) -> tuple[Site, ...]:
        """Rewrites `graph` at `site` and returns the sites of the parts it made (``path@part``).

        Raises Skip where the site must stay as it is.
        """

    def predict(self, values: Array, site: Site, stats: Stats) -> float | None:
        """Root of noise over signal in the node's own outputs that `stats` promise; None where they cannot."""
        return None

    def step(self) -> Step:
        """This decision as the plan writes it."""
        changed = [f for f in fields(self) if getattr(self, f.name) != f.default]  # type: ignore[arg-type]
        return Step(self.name, tuple((_key(f), getattr(self, f.name)) for f in changed))

    @classmethod
    def from_step(cls, step: Step) -> Self:
        """The decision that a plan's step names. Raises OnnxoptError where its arguments are not the pass's."""
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
