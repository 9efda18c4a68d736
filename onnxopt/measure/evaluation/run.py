"""Evaluates all models in one pass over the data."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnxruntime

from onnxopt import runtime
from onnxopt.data import Array, Batch, Spec, open_data
from onnxopt.data.inputs import inputs_of, known
from onnxopt.errors import OnnxoptError, first_line
from onnxopt.graph import is_compressed, read
from onnxopt.graph.inspect.vectors import gives_vectors
from onnxopt.measure.evaluation.classification import NO_ANSWER, Classification, Counts, answers
from onnxopt.measure.evaluation.intervals import Estimate, McNemar, paired, share
from onnxopt.metrics import Outputs
from onnxopt.metrics.class_scores import class_labels, find_scores, rows
from onnxopt.metrics.cosine import Cosine
from onnxopt.metrics.kl import Divergence
from onnxopt.metrics.output_error import agreement, output_error
from onnxopt.metrics.pooled import find_vectors
from onnxopt.runtime.archive import decompress

Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Deviation:
    """How a model's outputs differ from those of the first model."""

    noise: float | None
    """Noise over signal, root mean square over the batches; see `onnxopt.metrics.output_error`. None if no output shows
    any."""
    agreement: Estimate | None
    """Share of samples, 0 to 1, with the same top class; None if the models are not classifiers."""
    divergence: float | None
    """KL(first || model) of the class probabilities, in nats; None without float scores."""
    labels: float | None
    """Share of the integers, truth values and texts that are the same, 0 to 1; None if there are none."""
    paired: McNemar | None
    """Whether it is right more or less often; None without labels."""
    cosine: float | None = None
    """Of embeddings with those of the first model, mean over the samples; None where the outputs are scores of classes,
    or have labels."""


@dataclass(frozen=True, slots=True)
class Evaluated:
    """One model."""

    path: Path
    size: int
    """Bytes of the file and its external data."""
    seconds: float
    """Time in the runtime for all samples, including the first batch, which is the slowest."""
    classification: Classification | None
    """Against the labels; None without labels, or if the model is not a classifier."""
    deviation: Deviation | None
    """From the first model; None for that model."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Result of `evaluate`."""

    data: str
    """Name of the data."""
    samples: int
    labelled: int
    """Samples with labels."""
    models: tuple[Evaluated, ...]
    """In the order of the arguments; the first is the reference."""


def evaluate(
    models: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], data: Spec, progress: Progress | None = None
) -> Evaluation:
    """Evaluates models, plain or compressed, on the same data: against the labels, and against the first model.

    Arguments:
        models: path or paths of ONNX files with the same inputs and outputs; only the type of inputs may differ, and
            the name if there is one input.
        data: see `onnxopt.data.open_data`; read once, with one batch in memory.
        progress: told the current work and the share that is done, 0 to 1.

    Raises OnnxoptError if a model cannot be read or run or does not match the first, the data does not suit the models,
    the labels are not their classes, or there is nothing to measure.
    """
    paths = [models] if isinstance(models, str | os.PathLike) else models
    if not paths:
        raise OnnxoptError("there is no model to evaluate; name one or more")
    tell = progress or (lambda what, done: None)
    opened: list[_Model] = []
    for path in map(Path, paths):
        tell(f"loading {path}", 0.0)
        opened.append(_Model(path, opened[0] if opened else None))
    first = opened[0]
    stream = open_data(data, first.session)
    total = max(1, stream.count()) if progress else 1
    samples = labelled = 0
    for batch in stream:
        tell(f"evaluating on {stream.name}", samples / total)
        if batch.labels is None and len(opened) == 1:
            raise OnnxoptError(f"{stream.name}: has no labels, and a model alone has no other to be compared with; "
                               "give labels, or name a second model")  # fmt: skip
        samples += batch.size
        labelled += 0 if batch.labels is None else batch.size
        reference = first.run(batch.feeds)
        vectors = batch.labels is None and first.gives_vectors(reference)
        i = None if vectors else find_scores(reference)
        labels = None
        if i is not None and batch.labels is not None:
            labels = class_labels(batch.labels, rows(reference[i]).shape, stream.name)
        for model in opened:
            outputs = reference if model is first else model.run(batch.feeds)
            if i is not None and rows(outputs[i]).shape != rows(reference[i]).shape:
                raise _incomparable(model.path, outputs[i].shape, first.path, reference[i].shape)
            model.tally.add(outputs, reference, replace(batch, labels=labels, samples=batch.size), i, vectors)
    if not samples:
        raise OnnxoptError(f"{stream.name}: there are no samples to evaluate on")
    return Evaluation(stream.name, samples, labelled, tuple(model.result(model is first) for model in opened))


class _Model:
    """A loaded model and the sums over its outputs."""

    def __init__(self, path: Path, first: _Model | None) -> None:
        self.path, self.size, self.seconds = path, read(path).size, 0.0
        self.name = str(path) if first is None else f"{path}, given the data of {first.path}"
        self.session = runtime.load_checked(path)
        self._inputs = inputs_of(self.session)
        self._vectors = dict[int, bool]()
        self.tally = _Tally()
        if first is not None:
            self._check_outputs(first)

    def run(self, feeds: Mapping[str, Array]) -> list[Any]:
        """Outputs for the feeds of the first model. Raises OnnxoptError if this model does not take them."""
        if len(self._inputs) == len(feeds) == 1:
            feeds = dict(zip((self._inputs[0].name,), feeds.values(), strict=True))
        names = [entry.name for entry in self._inputs]
        if set(names) != set(feeds):
            raise OnnxoptError(f"{self.name}: has inputs {', '.join(names)}, and is given {', '.join(feeds)}")
        for entry in self._inputs:
            entry.check(feeds[entry.name], self.name)
        own = {entry.name: entry.cast(feeds[entry.name], self.name) for entry in self._inputs}
        started = time.perf_counter()
        try:
            outputs = self.session.run(None, own)
        except Exception as error:  # the runtime raises classes of its own
            raise OnnxoptError(f"{self.name}: fails: {first_line(error)}") from error
        self.seconds += time.perf_counter() - started
        return list(outputs)

    def gives_vectors(self, outputs: Outputs) -> bool:
        """Whether these outputs of the model are embeddings, and no scores of classes."""
        i = find_vectors(outputs)
        if i is None:
            return False
        if i not in self._vectors:
            model = read(self.path).model
            plain = decompress(self.path) if is_compressed(model) else model
            self._vectors[i] = gives_vectors(plain, plain.graph.output[i].name)
        return self._vectors[i]

    def result(self, is_first: bool) -> Evaluated:
        classification = self.tally.counts.result()
        return Evaluated(self.path, self.size, self.seconds, classification,
                         None if is_first else self.tally.deviation())  # fmt: skip

    def _check_outputs(self, first: _Model) -> None:
        wanted, got = first.session.get_outputs(), self.session.get_outputs()
        if len(wanted) != len(got) or not all(map(_fits, wanted, got)):
            own, other = (" and ".join(f"{v.type} {v.shape}" for v in values) for values in (got, wanted))
            raise _incomparable(self.path, own, first.path, other)


class _Tally:
    """Sums over the outputs of one model."""

    def __init__(self) -> None:
        self.counts = Counts()
        self._divergence: Divergence | None = None
        self._cosine = Cosine()
        self._samples, self._power = 0, 0.0
        self._labels, self._equal = 0, 0.0
        self._answers, self._same = 0, 0
        self._labelled, self._lost, self._won = 0, 0, 0

    def add(self, outputs: Outputs, reference: Outputs, batch: Batch, i: int | None, vectors: bool) -> None:
        """Adds one batch, whose labels are classes, or None if the outputs are not scores.

        Arguments:
            i: index of the output of scores; None without.
            vectors: whether there are embeddings instead.
        """
        labels, size = batch.labels, batch.size
        error = output_error(reference, outputs)
        if error is not None:
            self._power += error**2 * size
            self._samples += size
        equal = agreement(reference, outputs)
        if equal is not None:
            self._equal += equal * size
            self._labels += size
        if vectors:
            self._cosine.add(outputs, reference, batch)
        if i is None:
            return
        wanted, got = rows(reference[i]), rows(outputs[i])
        if wanted.dtype.kind == "f":
            self._divergence = self._divergence or Divergence()
            self._divergence.add(outputs, reference, batch)
        before, after = answers(wanted), answers(got)
        self._answers += len(after)
        self._same += int(((before == after) & (after != NO_ANSWER)).sum())
        if labels is not None:
            self.counts.add(got, after, labels)
            self._labelled += len(labels)
            self._lost += int(((before == labels) & (after != labels)).sum())
            self._won += int(((before != labels) & (after == labels)).sum())

    def deviation(self) -> Deviation:
        return Deviation(
            noise=float(self._power / self._samples) ** 0.5 if self._samples else None,
            labels=self._equal / self._labels if self._labels else None,
            agreement=share(self._same, self._answers) if self._answers else None,
            divergence=self._divergence.value() if self._divergence else None,
            paired=paired(self._lost, self._won, self._labelled) if self._labelled else None,
            cosine=self._cosine.value() / 100 if len(self._cosine.per_sample()) else None,
        )


def _fits(wanted: onnxruntime.NodeArg, got: onnxruntime.NodeArg) -> bool:
    """Whether outputs of these types and shapes are comparable; an empty shape is unknown."""
    if wanted.type.partition("(")[0] != got.type.partition("(")[0]:
        return False
    if not wanted.shape or not got.shape:
        return True
    pairs = zip(wanted.shape, got.shape, strict=False)
    return len(wanted.shape) == len(got.shape) and all(a == b for a, b in pairs if known(a) and known(b))


def _incomparable(path: Path, got: object, first: Path, wanted: object) -> OnnxoptError:
    return OnnxoptError(
        f"{path}: gives {got}, and {first} gives {wanted}; models that are compared give the same outputs"
    )
