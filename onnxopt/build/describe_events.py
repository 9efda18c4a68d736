"""Describes what a plan did to every weight, bytes included, as events."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from onnxopt.build.built import Built
from onnxopt.build.workspace import Workspace
from onnxopt.graph import Users
from onnxopt.passes.math import relative_index
from onnxopt.results.events import Chain, Event, Histogram

_GAP_BITS = 4
"""Width of relative indices, as in Deep Compression's tables."""


def chains(work: Workspace) -> Iterator[Chain]:
    """The factorised layers, with multiply-accumulates if they were counted."""
    for one in work.form.factored.chains:
        counted = [work.macs[part] for part in one.parts if part in work.macs]
        if len(counted) < len(one.parts):
            yield one
            continue
        # The last factor computes the layer's outputs, so it is applied as often as the layer's weight was.
        before = counted[-1] // work.graph.values(one.parts[-1]).size * one.weights_before
        yield replace(one, macs_before=before, macs_after=sum(counted))


def events(work: Workspace, built: Built, file_size: int) -> Iterator[Event]:
    """Events of factorised weights, of all stored weights with their bytes in the file, and of the rest of the file.

    Arguments:
        file_size: bytes of the written file.
    """
    work.graph.reset()  # events describe the original weights
    factored = work.form.factored
    for gone in factored.events:
        yield replace(gone, macs=work.macs.get(gone.path))
    sizes, codecs = built.packed.sizes, built.packed.codecs
    named = {event.path: event for event in built.events}
    source, inner, written = Users(work.source.model), Users(work.graph.model), Users(built.exported)
    linears = work.graph.linears()
    ranks = {part: one.ranks for one in factored.chains for part in one.parts}
    matrices = {site.path for site in work.sites if work.request.detailed and site.axis is not None}
    weights = dict(work.graph.weights())  # the others are scales of weights
    reasons = _reasons(work, built)
    for path, encoding in built.encodings.items():
        users = inner.of(path)
        values = built.grids.get(path, encoding).values()
        rounded = {linear.output for linear in linears.get(path, ())} & built.rounded
        if path in built.grids:
            rounded |= {name for linear in linears.get(path, ()) for name in (linear.y, f"{linear.y}@float")}
        event = named.get(path) or Event(
            path, values.shape, users[0].op_type if users else "", "lossless", weights.get(path, 0), 0,
            values.size, 0.0,
        )  # fmt: skip
        yield replace(
            event, bytes_before=event.bytes_before if path in weights.keys() - factored.parts else 0,
            bytes_after=sizes[path], codec=codecs[path], reason=event.reason or reasons.get(path, ""),
            zeros=float(1 - np.count_nonzero(values) / values.size),
            sensitivity=event.sensitivity if work.digest else None,
            histogram=Histogram.of(work.graph.values(path) if path in weights else values, values),
            sizes=relative_index.sizes(encoding, _GAP_BITS) if path in matrices else None,
            macs=work.macs.get(path), ranks=ranks.get(path, ()),
            nodes_before=source.texts(source.that_became(path, users)),
            nodes_after=written.texts(written.until(path, rounded)),
        )  # fmt: skip
    others = {*built.encodings, *factored.parts}
    before = sum(size for path, size in work.graph.weights() if path not in others)
    after = file_size - sum(sizes.values())
    yield Event("(graph and rest)", (), "", "", before, after, 0, 0.0, "deflate")


def _reasons(work: Workspace, built: Built) -> dict[str, str]:
    """Why weights stay as they were, by path."""
    steps = built.plan.steps
    without = {site.path: "its floats were tuned" if site.path in work.tuned else "the plan has no step for it"
               for site in work.sites if steps and site.path not in steps}  # fmt: skip
    return {**without, **work.graph.kept(), **work.form.factored.reasons}
