"""Which axis of stored arrays counts the samples, and how a batch is cut from them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxopt.data.inputs import Input, known
from onnxopt.data.random import Array

_BATCH_NAME = re.compile(r"\w*batch\w*|n|b|bs", re.IGNORECASE)
"""Names that exporters give to the dimension of the batch; a product such as "batch*heads" is another one."""


@dataclass(frozen=True, slots=True)
class Cut:
    """How the feeds of one input are cut from its array."""

    axis: int | None
    """The axis of the samples; None if every batch takes the whole array."""
    stacked: bool = False
    """Whether the array has an axis more than the input, so that each element along it is a whole feed."""
    fixed: int | None = None
    """Samples that the input takes at once; None if any number."""

    def feed(self, array: Array, chosen: Array) -> Array:
        """The part of the array that holds the samples with these indices."""
        if self.axis is None:
            return array
        return array[chosen[0]] if self.stacked else np.take(array, chosen, self.axis)


def named_axis(entry: Input) -> int | None:
    """The axis of the batch if the model names it; else None."""
    sizes = enumerate(entry.shape)
    return next((axis for axis, size in sizes if isinstance(size, str) and _BATCH_NAME.fullmatch(size)), None)


def samples_of(feeds: Mapping[str, Array], inputs: Sequence[Input]) -> int:
    """Samples of one batch: along the axis that the model names, or else along the first; 1 if there is no axis."""
    for find in (named_axis, lambda entry: 0):
        for entry in inputs:
            axis, array = find(entry), feeds[entry.name]
            if axis is not None and array.ndim > axis:
                return int(array.shape[axis])
    return 1


def layout(
    inputs: Sequence[Input], arrays: Mapping[str, Array], labels: int | None
) -> tuple[int, dict[str, Cut]] | None:
    """The number of samples, and how each input's feeds are cut; None if the arrays do not fit the inputs.

    Samples lie along the axis that the model names as its batch, or else along the one on which all arrays agree, the
    first if possible. An array of exactly the input's fixed shape goes with every batch.

    Arguments:
        labels: number of labels, if there are any.
    """
    for whole_first in (True, False):
        found = []
        for count in _counts(inputs, arrays) if labels is None else [labels]:
            cuts = _cuts(inputs, arrays, count, whole_first)
            if count and cuts and _agree(list(cuts.values()), labels is not None):
                whole = sum(cuts[entry.name].axis is None and not _settled(entry) for entry in inputs)
                found.append((whole, sum(cut.axis or 0 for cut in cuts.values()), -count, cuts))
        if found:
            *_, negative, cuts = min(found, key=lambda one: one[:3])
            return -negative, cuts
    return None


def _counts(inputs: Sequence[Input], arrays: Mapping[str, Array]) -> set[int]:
    """Lengths that may be the number of samples: along any axis but a fixed one behind the first."""
    return {
        arrays[entry.name].shape[cut.axis]
        for entry in inputs
        for cut in _possible(entry, arrays[entry.name])
        if cut.axis == 0 or (cut.axis and cut.fixed is None)
    }


def _cuts(inputs: Sequence[Input], arrays: Mapping[str, Array], count: int, whole_first: bool) -> dict[str, Cut] | None:
    """The likeliest cut of each input if there are `count` samples; None if one has none."""
    found = {}
    for entry in inputs:
        array = arrays[entry.name]
        fitting = [cut for cut in _possible(entry, array) if cut.axis is not None and array.shape[cut.axis] == count]
        shared = array.ndim == 0 or (named_axis(entry) is None and entry.takes(array.shape))
        whole = [Cut(None)] if shared else []
        cuts = [*whole, *fitting] if whole_first and _settled(entry) else [*fitting, *whole]
        if not cuts:
            return None
        found[entry.name] = cuts[0]
    return found


def _possible(entry: Input, array: Array) -> Iterator[Cut]:
    """Cuts along the axis that the model names, or along each axis, the first one first, where the rest fits."""
    shape, named = entry.shape, named_axis(entry)
    if not shape and array.ndim:  # of unknown rank
        yield Cut(0)
    elif array.ndim == len(shape) + 1 and entry.takes(array.shape[1:]):
        yield Cut(0, stacked=True, fixed=1)
    elif array.ndim == len(shape):
        for axis in range(len(shape)) if named is None else (named,):
            others = [(a, b) for i, (a, b) in enumerate(zip(shape, array.shape, strict=True)) if i != axis]
            if all(a == b for a, b in others if known(a)):
                size = shape[axis]
                yield Cut(axis, fixed=size if isinstance(size, int) and known(size) else None)


def _agree(cuts: Sequence[Cut], labelled: bool) -> bool:
    """Whether the inputs can be cut into batches of one size.

    A fixed size behind the first axis may be anything: it is a batch if that of another input, or labels for each
    sample of a batch of one, say so.
    """
    sizes = {cut.fixed for cut in cuts if cut.axis is not None and cut.fixed is not None}
    plain = any(cut.axis == 0 or (cut.axis and cut.fixed is None) for cut in cuts)
    return len(sizes) < 2 and (plain or (labelled and sizes == {1}))


def _settled(entry: Input) -> bool:
    """Whether the model fixes every dimension of the input."""
    return all(known(size) for size in entry.shape)
