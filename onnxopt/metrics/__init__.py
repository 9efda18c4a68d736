"""How good a model's outputs are: by labels, or by the original's outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from scipy import special

from onnxopt.data import Array, blamed, is_hook, load_hook, name_of
from onnxopt.errors import OnnxoptError

Outputs = Sequence[Any]
"""A model's outputs on one batch, in its order; what is no array (a sequence, a map) does not count."""


class Score(Protocol):
    """A metric over a stream of batches."""

    def add(self, outputs: Outputs, reference: Outputs, labels: Array | None) -> None:
        """Takes one batch: a model's outputs, the original model's on the same inputs, and the labels if known."""

    def value(self) -> float:
        """The metric over all batches so far."""


@dataclass(frozen=True, slots=True)
class Metric:
    """What `--metric` names."""

    name: str
    start: Callable[[], Score]
    """Starts measuring a model; the original itself is measured with its outputs as both."""
    higher_is_better: bool

    def drop(self, before: float, after: float) -> float:
        """How much worse `after` is than `before`: 0 as good, negative better; top-k in percentage points."""
        return before - after if self.higher_is_better else after - before


def open_metric(spec: str | Callable[..., float]) -> Metric:
    """The metric of a name: top1, top5, mse, kl, or ``package.module:function``; or a function itself.

    A function is called with the outputs (a list, for each output all samples) and the labels (of all samples, or
    None) and returns a number, higher being better.

    Raises OnnxoptError where there is no such metric.
    """
    if callable(spec):
        return Metric(name_of(spec), lambda: Custom(name_of(spec), spec), higher_is_better=True)
    if is_hook(spec):
        function = load_hook(spec)
        return Metric(spec, lambda: Custom(spec, function), higher_is_better=True)
    if spec not in _METRICS:
        raise OnnxoptError(f"no metric is called {spec!r}; there are {', '.join(_METRICS)}, and functions as in "
                           "mypackage.mydata:score")  # fmt: skip
    return _METRICS[spec]


_SUM = 0.02
"""Probabilities sum to 1 within that, rounded to 8 bits, too."""


class TopK:
    """Percent of samples whose class is among the `k` highest scores.

    The class is the label, or without labels what the original ranks first: its own value is 100 then.
    """

    def __init__(self, k: int) -> None:
        self._k, self._hits, self._samples = k, 0, 0
        self._margins: list[Array] = []
        self._before: list[Array] = []

    def add(self, outputs: Outputs, reference: Outputs, labels: Array | None) -> None:
        """See `Score`. Raises OnnxoptError without an output of scores, or where the labels are not its classes."""
        name = f"top{self._k}"
        i = _scores_at(reference, name)
        scores = rows(outputs[i])
        if scores.shape[1] <= self._k:
            raise OnnxoptError(f"{name}: the model tells {scores.shape[1]} classes apart, so that is always 100 %; "
                               "choose another metric")  # fmt: skip
        wanted = rows(reference[i]).argmax(1) if labels is None else class_labels(labels, scores.shape, name)
        hits = ranks(scores, wanted) < self._k
        self._hits += int(hits.sum())
        self._samples += len(hits)
        self._margins.append(_margins(scores, wanted, self._k))
        self._before.append(_margins(rows(reference[i]), wanted, self._k))

    def value(self) -> float:
        """Percent."""
        return 100 * self._hits / _some(self._samples)

    def likely_drop(self) -> tuple[float, float]:
        """How many points the value drops by on samples like these, in the mean, and the standard error of that.

        Each sample is right with the probability that noise as strong as it was seen leaves its margin above 0: a few
        samples tell a drop that shows in none of them. Noise is what a line through the margins before and after leaves
        over: a model whose scores have all shrunk answers as it did.
        """
        before, after = (np.concatenate(parts).astype(np.float64) for parts in (self._before, self._margins))
        with np.errstate(invalid="ignore"):
            spread, shared = float(before.var()), float(((before - before.mean()) * (after - after.mean())).mean())
            expected = after.mean() + (shared / spread if spread > 0 else 1.0) * (before - before.mean())
            noise = float((after - expected).std())
        if not np.isfinite(noise):
            return 100 - self.value(), 0.0
        exact = noise <= _EXACT * float(np.abs(after).max())
        right = (after > 0).astype(np.float64) if exact else special.ndtr(expected / noise)
        lost = 100 * ((before > 0) - right)
        return float(lost.mean()), float(lost.std() / np.sqrt(len(lost)))


def _margins(scores: Array, wanted: Array, k: int) -> Array:
    """[n]: by how much the score of class `wanted` is above the k-th best of the others.

    Probabilities are taken as their logarithms: near 0 and 1 noise hardly shows in them, between it does.
    """
    others = scores.astype(np.float32)
    if others.size and others.min() >= 0 and np.allclose(others.sum(1), 1, atol=_SUM):
        others = np.log(np.maximum(others, np.finfo(np.float32).tiny))
    own = np.take_along_axis(others, wanted[:, None], 1)[:, 0]
    np.put_along_axis(others, wanted[:, None], -np.inf, 1)
    return np.asarray(own - np.partition(others, -k, 1)[:, -k])


class MeanSquaredError:
    """Mean squared error of the float outputs over the mean square of the original's: 0.01 is a tenth of the signal.

    Relative, so that a number means the same for every model; with several outputs, the mean over them. Infinite where
    an output is NaN or infinite and the original's is not.
    """

    def __init__(self) -> None:
        self._noise: dict[int, float] = {}
        self._signal: dict[int, float] = {}

    def add(self, outputs: Outputs, reference: Outputs, labels: Array | None) -> None:
        """See `Score`. Raises OnnxoptError where the model has no float output."""
        for i in _floats(reference, "mse"):
            wanted, got = np.asarray(reference[i], np.float64), np.asarray(outputs[i], np.float64)
            if wanted.shape != got.shape:
                self._noise[i] = np.inf
                continue
            finite = np.isfinite(wanted)
            same = (wanted == got) | (np.isnan(wanted) & np.isnan(got))
            with np.errstate(invalid="ignore"):
                noise = float(np.square(np.where(same, 0.0, wanted - got)).sum())
            self._noise[i] = self._noise.get(i, 0.0) + (np.inf if np.isnan(noise) else noise)
            self._signal[i] = self._signal.get(i, 0.0) + float(np.square(wanted[finite]).sum())

    def value(self) -> float:
        """Of signal power; 0 is as the original."""
        _some(len(self._noise))
        ratios = []
        for i, noise in self._noise.items():
            signal = self._signal.get(i, 0.0)
            ratios.append(noise / signal if signal > 0 else 0.0 if noise == 0 else np.inf)
        return float(np.mean(ratios))


class Divergence:
    """Kullback-Leibler divergence of the class probabilities from the original's, KL(original || model), in nats.

    The mean over samples; probabilities are the softmax of the scores. Scores of the original that are probabilities
    themselves (no less than 0, sums of 1) are taken as they are.
    """

    def __init__(self) -> None:
        self._sum, self._samples = 0.0, 0

    def add(self, outputs: Outputs, reference: Outputs, labels: Array | None) -> None:
        """See `Score`. Raises OnnxoptError without a float output of scores."""
        i = _scores_at([x if _is_float(x) else None for x in reference], "kl")
        wanted, got = (rows(x[i]).astype(np.float64) for x in (reference, outputs))
        if (wanted >= 0).all() and np.allclose(wanted.sum(1), 1, atol=1e-3):
            log_p, log_q = (np.log(np.maximum(x, _LEAST_PROBABILITY)) for x in (wanted, got))
        else:
            log_p, log_q = _log_softmax(wanted), _log_softmax(got)
        with np.errstate(invalid="ignore"):  # a class that is ruled out by a score of minus infinity
            divergence = float(np.where(np.exp(log_p) > 0, np.exp(log_p) * (log_p - log_q), 0.0).sum())
        self._sum += np.inf if np.isnan(divergence) else divergence
        self._samples += len(wanted)

    def value(self) -> float:
        """Nats; 0 is as the original."""
        return self._sum / _some(self._samples)


class Custom:
    """What a function of the user's makes of all outputs and labels; they are held in memory until then."""

    def __init__(self, name: str, function: Callable[..., float]) -> None:
        self._name, self._function = name, function
        self._outputs: list[list[Array]] = []
        self._labels: list[Array] = []

    def add(self, outputs: Outputs, reference: Outputs, labels: Array | None) -> None:
        """See `Score`."""
        self._outputs.append([np.atleast_1d(np.asarray(output)) for output in outputs])
        if labels is not None:
            self._labels.append(labels)

    def value(self) -> float:
        """What the function returns. Raises OnnxoptError where that is no number, or it raises."""
        _some(len(self._outputs))
        outputs = [np.concatenate(parts) for parts in zip(*self._outputs, strict=True)]
        labels = np.concatenate(self._labels) if self._labels else None
        with blamed(self._name):
            value = float(self._function(outputs, labels))
        if np.isnan(value):
            raise OnnxoptError(f"{self._name}: returned NaN, expected a number, higher being better")
        return value


_METRICS = {
    "top1": Metric("top1", lambda: TopK(1), higher_is_better=True),
    "top5": Metric("top5", lambda: TopK(5), higher_is_better=True),
    "mse": Metric("mse", MeanSquaredError, higher_is_better=False),
    "kl": Metric("kl", Divergence, higher_is_better=False),
}
_LEAST_PROBABILITY = 1e-12
"""What a probability of 0 counts as, so that one rounded to it costs 28 nats and not infinitely many."""


_EXACT = 1e-9
"""Noise in margins, as a share of them, that is but the arithmetic's."""


def _is_float(output: Any) -> bool:
    return isinstance(output, np.ndarray) and output.dtype.kind == "f"


def rows(output: Any) -> Array:
    """An output of scores as [n, classes], without sides of 1."""
    return np.asarray(output).reshape(len(output), -1)


def ranks(scores: Array, wanted: Array) -> Array:
    """[n]: how many classes come before the wanted one; all of them where a score is NaN.

    Arguments:
        scores: [n, classes]; among equal ones the first class comes first, as with argmax.
        wanted: [n], a class each.
    """
    own = np.take_along_axis(scores, wanted[:, None], 1)
    ahead = (scores > own) | ((scores == own) & (np.arange(scores.shape[1]) < wanted[:, None]))
    return np.asarray(np.where(np.isnan(scores).any(1), scores.shape[1], ahead.sum(1)))


def _floats(outputs: Outputs, metric: str) -> list[int]:
    found = [i for i, output in enumerate(outputs) if _is_float(output)]
    if not found:
        raise OnnxoptError(f"{metric}: needs an output of floats, the model has {_shapes(outputs)}")
    return found


def find_scores(outputs: Outputs) -> int | None:
    """Index of the scores: the first float output [n, classes], also with sides of 1, else the first of any numbers.

    None where there is none.
    """

    def is_scores(output: Any) -> bool:
        if not isinstance(output, np.ndarray) or output.ndim not in (2, 4) or output.dtype.kind not in "fiu":
            return False
        return bool(max(output.shape[1:]) == np.prod(output.shape[1:]) > 1)

    found = [i for i, output in enumerate(outputs) if is_scores(output)]
    return next((i for i in found if _is_float(outputs[i])), next(iter(found), None))


def _scores_at(outputs: Outputs, metric: str) -> int:
    found = find_scores(outputs)
    if found is None:
        raise OnnxoptError(f"{metric}: needs an output of scores [samples, classes], the model has {_shapes(outputs)}; "
                           "--metric mse or mypackage.mydata:score takes any")  # fmt: skip
    return found


def _shapes(outputs: Outputs) -> str:
    return " and ".join(
        f"{o.dtype} {list(o.shape)}" if isinstance(o, np.ndarray) else type(o).__name__ for o in outputs
    )


def class_labels(labels: Array, shape: tuple[int, ...], metric: str) -> Array:
    """The labels as [n] class numbers for scores of this shape [n, classes].

    Raises OnnxoptError, which names the `metric`, where they are no such numbers.
    """
    samples, classes = shape
    if labels.dtype.kind not in "iu" or labels.size != samples or len(labels) != samples:
        raise OnnxoptError(f"{metric}: the labels are {labels.dtype} {list(labels.shape)}, expected whole numbers, one "
                           f"for each of {samples} samples")  # fmt: skip
    if labels.min() < 0 or labels.max() >= classes:
        wrong = labels.min() if labels.min() < 0 else labels.max()
        raise OnnxoptError(f"{metric}: there is a label {wrong}, and the model's {classes} classes are 0 to "
                           f"{classes - 1}; number the labels as its outputs")  # fmt: skip
    return labels.reshape(-1).astype(np.intp)


def _log_softmax(scores: Array) -> Array:
    shifted = scores - scores.max(1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))


def _some(samples: int) -> int:
    if not samples:
        raise OnnxoptError("there are no samples to measure on")
    return samples
