"""The answers that a model is expected to lose by noise in its scores, from few samples.

Counted flips tell little: of 500 samples, two or three lie so near a border between classes that noise decides. Here

- each sample meets the noise of its neighbours, too: the samples whose leads over the next class are about as large.
  The noise is what happened to the sample's highest scores, in their order, so that scores which shrink together, or
  noise that grows with the scores, count as what they are;
- a lost answer costs the probability that it was right, less that of the new one. Probabilities are the softmax of the
  original's scores at a temperature fitted to the labels (Guo et al. 2017), so that every label counts, and not only
  those of the samples that flip.

The first is Duan's smearing estimate (1983), taken locally; the second replaces a label by its expectation
(Rao-Blackwell). On 500 images, both together have a fifth to a half of the standard error of counted flips (LeNet-5,
ResNet-8, the digits' network, where 0.1 to 0.7 points are lost).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import scipy

from onnxopt.data import Array

Floats = npt.NDArray[np.float64]

RIVALS = 32
"""Highest scores of a sample that are kept; no other class wins or has a probability to speak of."""
_NEAR = 5
"""Classes beyond the `k` that win that noise may lift among them."""
_NEIGHBOURS = 32
"""On either side, samples whose noise each sample meets."""
_PRIOR = 0.5
"""Standard deviation of the logarithm of the temperature, before any label is seen, around 1: what networks are trained
to. It matters where the labels show hardly a mistake."""
_COLDEST, _HOTTEST = -4.0, 4.0
_STEP = 0.1
_OUTLOOK = 1024
"""Samples that suffice to see what all can tell."""
_BINS, _WIDE = 24, 8.0
"""Of a histogram of leads, which ends at this many times their noise."""


@dataclass(frozen=True, slots=True)
class Leaders:
    """The highest scores of samples in the original, in descending order, and what became of them."""

    before: Floats
    """[samples, rivals]"""
    after: Floats
    """[samples, rivals]: the scores of the same classes."""
    label: Floats | None
    """[samples]: the original's score of the label; None without labels."""
    in_rivals: npt.NDArray[np.bool_]
    """[samples]: whether the label is among the classes."""

    @classmethod
    def of(cls, before: Array, after: Array, labels: Array | None) -> Leaders:
        """Those of scores ``[samples, classes]``, as logarithms where they are probabilities."""
        order = np.argsort(-before, 1, kind="stable")[:, :RIVALS]
        first, second = (np.take_along_axis(scores, order, 1).astype(np.float64) for scores in (before, after))
        if labels is None:
            return cls(first, second, None, np.ones(len(first), bool))
        own = np.take_along_axis(before, labels[:, None], 1)[:, 0].astype(np.float64)
        return cls(first, second, own, (order == labels[:, None]).any(1))

    @classmethod
    def joined(cls, parts: list[Leaders]) -> Leaders:
        """All samples of the parts."""
        own = [part.label for part in parts if part.label is not None]
        before, after = (np.concatenate([getattr(part, name) for part in parts]) for name in ("before", "after"))
        return cls(before, after, np.concatenate(own) if own else None, np.concatenate([p.in_rivals for p in parts]))

    def temperature(self) -> tuple[float, float]:
        """Logarithm of the temperature that suits the labels, and its standard error."""
        assert self.label is not None
        own = self.label - self.before[:, 0]

        def surprise(log: float) -> float:
            cold = np.exp(-log)
            nats = np.log(self._normaliser(cold)) - own * cold
            return float(nats.sum() + np.square(log / _PRIOR) / 2)

        found = scipy.optimize.minimize_scalar(surprise, bounds=(_COLDEST, _HOTTEST), method="bounded")
        at = float(found.x)
        curvature = (surprise(at + _STEP) + surprise(at - _STEP) - 2 * surprise(at)) / _STEP**2
        return at, float(min(_PRIOR, max(curvature, 1e-12) ** -0.5))

    def probabilities(self, log: float) -> Floats:
        """[samples, rivals], at a temperature; without labels the original's answer is the right one."""
        if self.label is None:
            return np.concatenate([np.ones((len(self.before), 1)), np.zeros_like(self.before[:, 1:])], 1)
        cold = np.exp(-log)
        return np.asarray(np.exp((self.before - self.before[:, :1]) * cold) / self._normaliser(cold)[:, None])

    def first(self, count: int) -> Leaders:
        """Those of the first samples."""
        label = None if self.label is None else self.label[:count]
        return Leaders(self.before[:count], self.after[:count], label, self.in_rivals[:count])

    def _normaliser(self, cold: float) -> Floats:
        """[samples]: the sum of the exponentials, of the label's too if it is not among the highest."""
        total = np.exp((self.before - self.before[:, :1]) * cold).sum(1)
        if self.label is None:
            return np.asarray(total)
        return np.asarray(total + np.where(self.in_rivals, 0.0, np.exp((self.label - self.before[:, 0]) * cold)))


@dataclass(frozen=True, slots=True)
class Margins:
    """How far the samples' answers lie ahead of the next class, against the noise: a histogram."""

    noise: float
    """Standard deviation of the change of a lead, in the unit of the scores (logarithms if those are probabilities)."""
    width: float
    """Of a bin; the first starts at 0."""
    samples: list[int]
    """In each bin."""
    changed: list[int]
    """Of those, with another answer."""
    beyond: int
    """Samples with a larger lead."""


def margins(leaders: Leaders, k: int) -> Margins:
    """The leads of the answers, where an answer is the `k` highest scores."""
    near = k + _NEAR
    before, after = leaders.before[:, :near], leaders.after[:, :near]
    leads = before[:, k - 1] - before[:, k]
    change = after[:, k - 1] - after[:, k] - leads * _scale(before, after)
    noise = float(np.std(change[np.isfinite(change)])) if np.isfinite(change).any() else 0.0
    width = (_WIDE * noise or float(leads.max()) or 1.0) / _BINS
    changed = _differs(np.sort(np.argsort(-after, 1, kind="stable")[:, :k], 1))
    bins = np.minimum(leads / width, _BINS).astype(int)
    counts, flips = (np.bincount(bins, weights, _BINS + 1).astype(int).tolist() for weights in (None, changed))
    return Margins(noise, width, counts[:_BINS], flips[:_BINS], counts[_BINS])


def resolution(leaders: Leaders, k: int, loss: float) -> float:
    """The standard error with which these samples would tell an expected loss, if white noise caused it."""
    few = leaders.first(_OUTLOOK)
    white = np.random.default_rng(0).standard_normal(few.before.shape)
    low, high = -12.0, 8.0
    found, error = 0.0, 0.0
    for _ in range(12):
        middle = (low + high) / 2
        found, error = expected_loss(replace(few, after=few.before + 2**middle * white), k)
        low, high = (middle, high) if found < loss else (low, middle)
    share = min(1.0, loss / found) if found > 0 else 1.0
    return error * share * float(np.sqrt(len(few.before) / len(leaders.before)))


def expected_loss(leaders: Leaders, k: int, noise: float = 1.0) -> tuple[float, float]:
    """Share of the answers that are expected to be lost, and its standard error. An answer is the `k` highest scores.

    Arguments:
        noise: factor by which scores of other samples change more than those of these.
    """
    near = k + _NEAR
    order = np.argsort(leaders.before[:, k - 1] - leaders.before[:, k], kind="stable")
    before, after = leaders.before[order, :near], leaders.after[order, :near]
    broken = np.asarray(~np.isfinite(after).all(axis=1))
    before = before * _scale(before[~broken], after[~broken])
    change = np.where(broken[:, None], -np.inf, (after - before) * noise)

    log, error = (0.0, 0.0) if leaders.label is None else leaders.temperature()
    probabilities = [leaders.probabilities(one)[order, :near] for one in (log, log + _STEP, log - _STEP)]
    (own, hotter, colder), influence = _smeared(before, change, np.stack(probabilities), k)
    variance = influence.var() / len(own) + np.square(float((hotter - colder).mean()) / (2 * _STEP) * error)
    unseen = max(0.0, float(own.max())) / len(own)  # the next sample may be like the worst of these
    return float(own.mean()) + unseen, float(np.sqrt(variance))


def _scale(before: Floats, after: Floats) -> float:
    """The factor that scores have in common, which changes no answer: they may all have shrunk."""
    before, after = (scores - scores.mean(1, keepdims=True) for scores in (before, after))
    power, shared = float(np.square(before).sum()), float((before * after).sum())
    return shared / power if power > 0 and shared > 0 else 1.0


def _smeared(before: Floats, change: Floats, probabilities: Floats, k: int) -> tuple[Floats, Floats]:
    """The loss of each sample under its neighbours' noise, ``[cases, samples]`` for ``[cases, samples, classes]``, and
    for the first case each sample's influence on the mean: as a sample, and as noise of others."""
    cases, count, _ = probabilities.shape
    index = np.arange(count)
    own, given, used = np.zeros((cases, count)), np.zeros(count), np.zeros(count)
    held = probabilities[:, :, :k].sum(2)
    reach = min(_NEIGHBOURS, (count - 1) // 4)
    for offset in range(-reach, reach + 1):
        source = np.abs(index + offset)
        source = np.where(source >= count, 2 * (count - 1) - source, source)
        scores = before + change[source]
        best = scores.argmax(1)[:, None] if k == 1 else np.argsort(-scores, 1, kind="stable")[:, :k]
        broken = np.asarray(~np.isfinite(scores).all(axis=1))
        moved = np.flatnonzero(_differs(best) | broken)  # few of them
        kept = np.take_along_axis(probabilities[:, moved], best[None, moved], 2).sum(2)
        loss = held[:, moved] - np.where(broken[moved], 0.0, kept)
        own[:, moved] += loss
        given += np.bincount(source[moved], loss[0], count)
        used += np.bincount(source, minlength=count)
    times = 2 * reach + 1
    mean = own[0].mean() / times
    return own / times, own[0] / times + (given - used * mean) / times


def _differs(answers: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
    """[samples]: whether answers ``[samples, k]``, as ranks in the original, are not its own in its order."""
    return np.asarray((answers != np.arange(answers.shape[1])[None]).any(axis=1))
