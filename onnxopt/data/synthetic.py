"""Synthetic inputs, which resemble what a model was trained on more than noise does.

What is measured on made-up inputs holds for inputs like them. So there are several laws of them, each a part of the
data (`Data.laws`): a weight costs what it costs under the worst law, and noise is that under the worst.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from zlib import crc32

import numpy as np
import onnx
import onnxruntime

from onnxopt.data.guesses import laws_of, may_be_images, surely_images, trial_law
from onnxopt.data.hints import Hints
from onnxopt.data.inputs import Input, inputs_of
from onnxopt.data.laws import Array, At, Law, Leaves
from onnxopt.data.random import CannotRun
from onnxopt.data.shapes import Shapes, Sizes
from onnxopt.data.states import states_of
from onnxopt.data.stream import Batch, Data, Pending, joined, sha256

_BATCH = 16
_LEAST = 4
"""Batches of a law, some of which are held back."""
_STEPS = 8
"""Steps for which states run from zeros."""
ROW_NOISE = 0.02
"""Noise over signal of a weight's row where real inputs may not resemble the synthetic ones; see `Data.row_noise`."""
_IMAGE_SIZES = (224, 32, 512, 640, 1)
_TOKEN_SIZES = (16, 1, 32, 64, 128, 224, 512)
_WAVE_SIZES = (512, 640, 224, 32, 1)
_FRAME_SIZES = (32, 64, 224, 512, 640, 1)
"""Candidates for unknown dimensions, the likeliest first: of images, of token ids, of [samples, time], of others."""
_LENGTHS = {16: (48, 5), 512: (640, 256), 32: (48, 20)}
"""By the first length that runs, others to mix with it."""


def synthetic(session: onnxruntime.InferenceSession, hints: Hints | None = None, count: int = 256) -> Data:
    """Synthetic data for a model: one part for each law of its inputs.

    An input counts as an image if it is float or uint8, has four dimensions with 1 or 3 channels (NCHW or NHWC), sides
    of at least 8, and is filtered. It gets dead leaves (see `dead_leaves`) of mean 0 and variance 1 in each channel, or
    pixels. Other floats get signals, integers what the graph can index with them or compares them with, states what
    the model itself makes of zeros in some steps. Scales are what the graph tells, or several. Equal arguments give
    equal data.

    Arguments:
        hints: tell what inputs are, and their scale; without them, only their names, types and shapes do.
        count: samples of all laws; rounded up to whole batches.

    Raises CannotRun if the model runs with no candidate for its unknown dimensions.
    """
    maker = _opened(session, hints or Hints(onnx.ModelProto()), count)
    return joined([maker.law(number) for number in maker.running()], maker.name, maker.row_noise)


def _opened(session: onnxruntime.InferenceSession, hints: Hints, count: int) -> _Maker:
    texts = {value.name for value in session.get_inputs() if value.type == "tensor(string)"}
    entries = [replace(e, dtype=np.dtype(object)) if e.name in texts else e for e in inputs_of(session)]
    odd = next((value for value in session.get_inputs() if not value.type.startswith("tensor(")), None)
    untyped = next((entry.name for entry in entries if entry.dtype is None), odd and odd.name)
    if untyped is not None:
        raise CannotRun(f"no synthetic input runs the model: input {untyped!r} is no tensor of numbers or texts")
    states = states_of(session.get_inputs(), session.get_outputs())
    trial = {entry.name: (trial_law(entry, hints),) for entry in entries}
    draft = _Maker(session, Shapes(session, states), trial, [{}], 1)
    free = [entry for entry in entries if entry.name not in states]
    sizes = draft.shapes.first(draft.draw, {e.name: _candidates(e, hints) for e in entries})
    sizes = draft.shapes.with_samples(draft.draw, sizes, _BATCH)
    images = [entry for entry in free if may_be_images(entry, hints)]
    several = [sizes]
    if not images and draft.shapes.lengths():
        base = sizes[draft.shapes.lengths()[0]]
        others = [draft.shapes.with_length(sizes, length) for length in _LENGTHS.get(base, ())]
        several += [one for one in others if draft.shapes.runs(draft.draw, one)]
    shapes = {entry.name: draft.shapes.of(entry.name, sizes) for entry in free}
    batches = -(-count // Batch({name: np.empty(shape, bool) for name, shape in shapes.items()}).size)
    sure = bool(free) and not states and all(e in images and surely_images(shapes[e.name]) for e in free)
    laws = {e.name: laws_of(e, hints, shapes[e.name], batches if sure else max(batches, _LEAST)) for e in free}
    return _Maker(session, draft.shapes, laws, several, batches, sure, dict(hints.scales))


def _candidates(entry: Input, hints: Hints) -> tuple[int, ...]:
    """Candidates for the unknown dimensions of an input."""
    if may_be_images(entry, hints):
        return _IMAGE_SIZES
    if entry.dtype is not None and entry.dtype.kind in "iub" and len(entry.shape) > 1:
        return _TOKEN_SIZES
    return _WAVE_SIZES if len(entry.shape) <= 2 else _FRAME_SIZES


@dataclass
class _Maker:
    """Makes the batches of every law."""

    session: onnxruntime.InferenceSession
    shapes: Shapes
    laws: Mapping[str, tuple[Law, ...]]
    """By input that is no state."""
    sizes: list[dict[object, int]]
    """Sizes of unknown dimensions, mixed batch by batch."""
    batches: int
    """Of all laws together."""
    images: bool = False
    """Whether all inputs are images."""
    scales: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Of inputs that the model itself normalises."""
    _last: tuple[int, int, dict[str, Array]] | None = field(default=None, init=False)
    """Law, number and feeds of the batch that was made last."""

    @property
    def count(self) -> int:
        """Laws."""
        return max(map(len, self.laws.values()), default=1)

    @property
    def row_noise(self) -> float:
        """See `Data.row_noise`."""
        return float("inf") if self.images else ROW_NOISE

    @property
    def name(self) -> str:
        """For reports."""
        kinds = dict.fromkeys(law.kind for law in self._all_laws() if law.kind)
        return f"synthetic {' and '.join(kinds) or 'inputs'}"

    def running(self) -> list[int]:
        """The laws with which the model runs: all but those whose integers index what is not there."""
        if self.count == 1:  # its shapes are those of a law that ran
            return [0]
        draws = [partial(self.feeds, number, 0, states={}) for number in range(self.count)]
        found = [number for number, draw in enumerate(draws) if self.shapes.runs(draw, self.sizes[0])]
        if not found:
            raise CannotRun("no synthetic input runs the model: it runs on none of the likely values")
        return found

    def _all_laws(self) -> list[Law]:
        return [law for laws in self.laws.values() for law in laws]

    def law(self, number: int) -> Data:
        """The data of one law."""
        batches = self.batches if self.images else max(-(-self.batches // self.count), min(self.batches, _LEAST))
        size = Batch({name: np.empty(self.shapes.of(name, self.sizes[0]), bool) for name in self.laws}).size

        def pending() -> Iterator[Pending]:
            return (Pending(size, partial(self.batch, number, index)) for index in range(batches))

        shapes = {name: self.shapes.of(name, self.sizes[0]) for name in self.laws}
        laws = [(name, repr(several[number % len(several)])) for name, several in sorted(self.laws.items())]
        described: tuple[object, ...]
        described = (laws, number, sorted(shapes.items()), self.sizes, sorted(self.shapes.states.items()), batches)
        if self.images and not any(isinstance(law, Leaves) and law.scale is None for law in self._all_laws()):
            described = ("made-up images", sorted(shapes.items()), self.scales, batches)  # as plans hold it
        return Data(self.name, pending, cache(lambda: sha256(repr(described).encode())))

    def batch(self, law: int, index: int) -> Batch:
        """One batch of a law."""
        if not self.shapes.states:
            return Batch(self.feeds(law, index, self.sizes[index % len(self.sizes)], {}))
        start = index - index % _STEPS
        sizes = self.sizes[index // _STEPS % len(self.sizes)]
        if self._last is not None and self._last[:2] == (law, index - 1) and index > start:
            step, feeds = index - 1, self._last[2]
        else:
            step, feeds = start, self.feeds(law, start, sizes, {})
        for later in range(step + 1, index + 1):
            outputs = self.session.run(list(self.shapes.states.values()), feeds)
            feeds = self.feeds(law, later, sizes, dict(zip(self.shapes.states, outputs, strict=True)))
        self._last = (law, index, feeds)
        return Batch(feeds)

    def draw(self, sizes: Sizes) -> dict[str, Array]:
        """Feeds for finding out whether the model runs with these sizes."""
        return self.feeds(0, 0, sizes, {})

    def feeds(self, law: int, index: int, sizes: Sizes, states: Mapping[str, Array]) -> dict[str, Array]:
        """Feeds of one batch; states that are not given are zeros."""
        bound = self.shapes.bound(sizes, states)
        at = At(
            index,
            self.shapes.past(bound) if states else 0,
            max((bound[key] for key in self.shapes.lengths()), default=1),
        )
        feeds = {}
        # What is no state comes first, as the first input tells the number of samples.
        for entry in sorted(inputs_of(self.session), key=lambda entry: entry.name in self.shapes.states):
            shape = self.shapes.of(entry.name, bound)
            if entry.name in self.shapes.states:
                feeds[entry.name] = states.get(entry.name, np.zeros(shape, entry.dtype))
                continue
            laws = self.laws[entry.name]
            rng = np.random.default_rng([crc32(entry.name.encode()), law, index])
            feeds[entry.name] = laws[law % len(laws)].draw(rng, shape, at)
        return feeds
