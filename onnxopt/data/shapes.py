"""Sizes of unknown dimensions with which a model runs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import onnxruntime

from onnxopt.data.laws import Array
from onnxopt.data.random import first_that_runs, unknown_dimensions

Sizes = Mapping[object, int]
"""By key of an unknown dimension (see `unknown_dimensions`)."""
Draw = Callable[[Sizes], Mapping[str, Array]]
"""Feeds for sizes."""
_MOST_TRIES = 100


@dataclass(frozen=True)
class Shapes:
    """The unknown dimensions of a model.

    Arguments:
        states: by input that holds a state, the output that holds the next one.
    """

    session: onnxruntime.InferenceSession
    states: Mapping[str, str]
    _unknown: list[tuple[str, int, object]] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_unknown", list(unknown_dimensions(self.session)))

    def of(self, name: str, sizes: Sizes) -> tuple[int, ...]:
        """The shape of an input."""
        entry = next(value for value in self.session.get_inputs() if value.name == name)
        keys = {axis: key for one, axis, key in self._unknown if one == name}
        return tuple(sizes[keys[axis]] if axis in keys else size for axis, size in enumerate(entry.shape))

    def bound(self, sizes: Sizes, arrays: Mapping[str, Array]) -> dict[object, int]:
        """The sizes where some inputs have these values, as a cache that has grown."""
        fixed = {key: arrays[name].shape[axis] for name, axis, key in self._unknown if name in arrays}
        return self._summed({**sizes, **fixed})

    def lengths(self) -> list[object]:
        """Keys of dimensions that are neither samples, nor of states, nor sums of others."""
        fixed = self._batch() | self._past()
        return [
            key for key in dict.fromkeys(key for _, _, key in self._unknown) if key not in fixed | self._sums().keys()
        ]

    def past(self, sizes: Sizes) -> int:
        """The length of what states remember; 0 if it is fixed."""
        return max((sizes[key] for key in self._past() - self._batch()), default=0)

    def first(self, draw: Draw, candidates: Mapping[str, Sequence[int]]) -> dict[object, int]:
        """The likeliest sizes with which the model runs on what `draw` gives.

        Arguments:
            candidates: by input, sizes of its unknown dimensions, the likeliest first.

        Raises CannotRun if it runs with none of them.
        """
        tried = itertools.islice(self._likely(candidates), _MOST_TRIES)
        return first_that_runs(self.session, tried, draw, "synthetic")

    def with_samples(self, draw: Draw, sizes: Sizes, samples: int) -> dict[object, int]:
        """The sizes with this many samples in a batch, if the model takes them; else as they are."""
        alone = {key for key in self._past() if sizes[key] == 1}
        for keys in (self._batch(), self._batch() | alone):
            larger = self._summed({**sizes, **dict.fromkeys(keys, samples)})
            if keys and self.runs(draw, larger) and self._all_have(draw, larger, samples):
                return larger
        return dict(sizes)

    def runs(self, draw: Draw, sizes: Sizes) -> bool:
        """Whether the model runs with these sizes."""
        try:
            self.session.run(None, dict(draw(sizes)))
        except Exception:  # the runtime's own classes
            return False
        return True

    def with_length(self, sizes: Sizes, length: int) -> dict[object, int]:
        """The sizes with this length in all dimensions that `lengths` gives."""
        return self._summed({**sizes, **dict.fromkeys(self.lengths(), length)})

    def _all_have(self, draw: Draw, sizes: Sizes, samples: int) -> bool:
        outputs = self.session.run(None, dict(draw(sizes)))
        return all(samples in array.shape for array in outputs if hasattr(array, "shape") and array.shape)

    def _likely(self, candidates: Mapping[str, Sequence[int]]) -> Iterator[dict[object, int]]:
        """Sizes, the likeliest first: 1 for samples and for what a state remembers."""
        batch, owners = self._batch(), {key: name for name, _, key in reversed(self._unknown)}
        others = {key: candidates[owners[key]] for key in self.lengths()}
        most = max(map(len, candidates.values()), default=1)
        for past in (1, 0) if self._past() - batch else (1,):
            fixed = dict.fromkeys(self._past(), past) | dict.fromkeys(batch, 1)
            alike = [{key: several[min(i, len(several) - 1)] for key, several in others.items()} for i in range(most)]
            different = (dict(zip(others, sizes, strict=True)) for sizes in itertools.product(*others.values()))
            for sizes in itertools.chain(alike, (one for one in different if one not in alike)):
                yield self._summed({**fixed, **sizes})
        for size in max(candidates.values(), key=len, default=()):
            yield self._summed(dict.fromkeys([*batch, *self._past(), *others], size))

    def _batch(self) -> set[object]:
        return {key for _, axis, key in self._unknown if axis == 0}

    def _past(self) -> set[object]:
        """Keys that only states have."""
        others = {key for name, _, key in self._unknown if name not in self.states}
        return {key for name, _, key in self._unknown if name in self.states} - others

    def _sums(self) -> dict[object, list[object]]:
        """Keys that are sums of other keys and numbers: ``past + new``, by name, or all that a mask covers."""
        keys = list(dict.fromkeys(key for _, _, key in self._unknown))
        sums: dict[object, list[object]] = {}
        for key in keys:
            parts = [part.strip() for part in str(key).split("+")] if isinstance(key, str) else []
            if len(parts) > 1 and all(part in keys or part.isdecimal() for part in parts):
                sums[key] = [int(part) if part.isdecimal() else part for part in parts]
        past = [key for key in self._past() if key not in self._batch()]
        later = [(name, key) for name, axis, key in self._unknown if axis > 0 and name not in self.states]
        covering = {key for name, key in later if "mask" in name.lower() or "total" in str(key).lower()}
        others = {key for name, key in later if "mask" not in name.lower()}
        for key in covering - sums.keys():
            new = [other for other in others if other != key and other not in sums]
            if past and new and key not in others:
                sums[key] = [past[0], new[0]]
        return sums

    def _summed(self, sizes: Sizes) -> dict[object, int]:
        known = {key: size for key, size in sizes.items() if key not in self._sums()}
        total = {key: sum(part if isinstance(part, int) else known.get(part, 0) for part in parts)
                 for key, parts in self._sums().items()}  # fmt: skip
        return {**known, **total}
