"""Forward and backward of a model whose weights are inputs, towards the outputs of the original."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
import onnx
from onnxruntime import OrtValue

from onnxopt.calibration.chunks import any_batch, cut
from onnxopt.data import Data, Pending, chosen_session
from onnxopt.encoding import Array
from onnxopt.graph import Gradient, expose, without_defaults
from onnxopt.graph.autodiff.gradient import Start
from onnxopt.search.blends import blended
from onnxopt.spec.augment import Augment
from onnxopt.tuning.augmented import augmented
from onnxopt.tuning.loss import Loss

_SIZES, _SMALLEST, _UPDATES = (64, 32, 16), 8, 24
"""Samples of an update, at most: the first size with which a pass has so many updates, or the smallest."""
_KEPT = 2**28
"""Largest size of the teacher's outputs to keep in memory, in bytes. The others are computed in every pass."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """Some samples, and what the teacher makes of them."""

    samples: int
    feeds: Mapping[str, Array]
    wanted: Mapping[str, Array]
    """By observed value."""
    labels: Array | None = None
    """[samples]: classes; None where they are not known. A blend has that of its larger part."""


def update_size(samples: int) -> int:
    """How many samples an update has, at most, where so many train. Few say more in many small updates, which take less
    memory, too."""
    return next((size for size in _SIZES if samples >= _UPDATES * size), _SMALLEST)


class Lessons:
    """The training samples, in batches.

    Arguments:
        batch: samples of one, at most.
        kinds: which of the samples are lessons: as they are (False), or blended where they can be (True). Where the
            teacher knows them by heart, its outputs there say little of what it makes of others (mixup, Zhang et al.
            2018).
        augment: what is done to images, anew in every pass.

    Raises OnnxoptError if the data cannot be read.
    """

    def __init__(
        self,
        data: Data,
        teacher: onnx.ModelProto,
        observed: Sequence[str],
        batch: int = _SIZES[0],
        kinds: Sequence[bool] = (False,),
        augment: Collection[Augment] = (),
    ) -> None:
        self._most = batch if any_batch(teacher) else 0
        self._parts: list[tuple[Pending, int, bool]] = []
        for pending in data.pending():
            parts = -(-pending.size // self._most) if self._most else 1
            self._parts += [(pending, part, blend) for part in range(parts) for blend in kinds]
        self._session = chosen_session(expose(teacher, observed))
        self._observed, self._augment = list(observed), augment
        self._kept: dict[int, dict[str, Array]] = {}
        self._room = _KEPT

    def __len__(self) -> int:
        return len(self._parts)

    def lesson(self, index: int, passes: int = 0) -> Lesson:
        """One of them, in a pass over all."""
        pending, part, blend = self._parts[index]
        parts = list(cut(pending.read(), self._most))
        batch = parts[part % len(parts)]  # a batch that cannot be cut counts once for each part
        batch = (blended(batch) or batch) if blend else batch  # which keeps its labels
        if self._augment:
            feeds = augmented(batch.feeds, self._augment, (index, passes))
            return Lesson(batch.size, feeds, self._wanted(feeds), batch.labels)
        if (wanted := self._kept.get(index)) is None:
            wanted = self._wanted(batch.feeds)
            self._room -= sum(array.nbytes for array in wanted.values())
            if self._room >= 0:
                self._kept[index] = wanted
        return Lesson(batch.size, batch.feeds, wanted, batch.labels)

    def _wanted(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        return dict(zip(self._observed, self._session.run(self._observed, feeds), strict=True))


class Student:
    """A model whose weights `paths` are inputs, of which the `trained` ones have gradients. Each is fed in every run.

    Arguments:
        model: normalised; changed.
        room: bytes that the activations of an update may take; see `Gradient`.
    """

    def __init__(
        self, model: onnx.ModelProto, paths: Sequence[str], trained: Sequence[str], loss: Loss, room: float = inf
    ) -> None:
        tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        inputs = {value.name for value in model.graph.input}
        model.graph.input.extend(
            onnx.helper.make_tensor_value_info(path, tensors[path].data_type, list(tensors[path].dims))
            for path in paths
            if path not in inputs
        )
        self._types = {path: onnx.helper.tensor_dtype_to_np_dtype(tensors[path].data_type) for path in paths}
        self._gradient, self._loss = Gradient(model, trained, keeps=True, room=room), loss
        without_defaults(model, paths)  # by which the gradient has found what is observed

    def survey(self, feeds: Mapping[str, Array], weights: Mapping[str, Array]) -> tuple[list[Start], dict[str, str]]:
        """The values that are observed; and by path of a weight that no gradient reaches, why."""
        found: list[Start] = []

        def note(starts: Sequence[Start], values: Mapping[str, Array]) -> dict[str, Array]:
            found.extend(starts)
            return {start.name: np.zeros(start.shape, np.float32) for start in starts}

        self._gradient.pulled_back(self._fed(feeds, weights), note)
        return found, self._gradient.unsupported

    def gradient(self, lesson: Lesson, weights: Mapping[str, Array]) -> tuple[float, dict[str, Array]]:
        """The loss on a lesson, the mean over observed values, and its gradient by path."""
        total = 0.0

        def cotangents(starts: Sequence[Start], values: Mapping[str, Array]) -> dict[str, Array]:
            nonlocal total
            found = {}
            for start in starts:
                loss, cotangent = self._loss.of(
                    start, values[start.name], lesson.wanted[start.name], lesson.samples, lesson.labels
                )
                total += loss / len(starts)
                found[start.name] = cotangent / np.float32(len(starts))
            return found

        gradient = self._gradient.pulled_back(self._fed(lesson.feeds, weights), cotangents)
        return total, gradient

    def _fed(self, feeds: Mapping[str, Array], weights: Mapping[str, Array]) -> dict[str, OrtValue]:
        cast = {path: values.astype(self._types[path], copy=False) for path, values in weights.items()}
        return {name: OrtValue.ortvalue_from_numpy(array) for name, array in {**feeds, **cast}.items()}
