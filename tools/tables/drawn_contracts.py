"""Thousands of contracts in minutes: each model is compressed once at a ladder of slopes, and the outputs are kept.

A contract then is a draw of training images: the coarsest slope that is safe on them, between two rungs, and what the
whole test part loses there. The test part counts only. Calibration is the same for all, so what few images cost there
is not seen here; the table of real contracts shows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import onnxruntime

from common import realdata
from common.internals import at_noise
from common.kept import ONNXOPT
from common.pages import markdown
from onnxopt.data import Batch
from onnxopt.metrics import open_metric
from onnxopt.search.blends import blended
from onnxopt.search.scores import Drop, Scores
from onnxopt.spec.contract import CONFIDENCE
from onnxopt.spec.promise import Promise
from tables import Scope, Table

Array = np.ndarray[Any, Any]

MODELS = ("digits", "lenet5", "lenet_300_100", "resnet8_keras", "resnet20")
ALLOWED = (0.1, 0.3, 1.0)
SAMPLES = (250, 500, 2000, 10_000)
_RUNGS = tuple(float(error) for error in np.geomspace(0.03, 0.8, 11))
"""Noise over signal that the statistics promise."""
_CALIBRATION, _POOL = 1024, 13_000
"""Training images for the calibration, and to draw from, at most."""
_DRAWS, _LARGE_DRAWS, _LARGE = 20, 4, 8000
"""Draws of each number of images; of this many and more, as they are nearly the whole pool."""
_SAID = 2000
"""Images that say what blends say."""
_FAR = 6.0
"""Points lost on the test part at which the ladder ends."""
_BELOW = 3.0
"""Where no rung is safe: nothing is lost at a slope finer by this in its logarithm."""


@dataclass(frozen=True, slots=True)
class Rung:
    """One slope."""

    slope: float
    size: int
    train: Array
    blends: Array
    test: Array


@dataclass(frozen=True, slots=True)
class Ladder:
    """A model at all slopes, with its first output on the pool of training images and on the test part."""

    size: int
    train: Array
    blends: Array
    """On the pool, each image blended with another."""
    test: Array
    train_labels: Array
    test_labels: Array
    points: list[Rung]


def ladder(model: str) -> Ladder:
    """Compresses a model at each slope, calibrated on the first images of the pool."""
    task, path = realdata.TASKS[model], realdata.path_of(model)
    train, test = task.read("train"), task.read("test")
    pool = np.random.default_rng(5).permutation(len(train.images))[:_POOL]

    def outputs(session: onnxruntime.InferenceSession) -> tuple[Array, Array, Array]:
        images = train.images[pool]
        plain, mixed = (_outputs(session, task, images, blend) for blend in (False, True))
        return plain, mixed, _outputs(session, task, test.images)

    calibration = [task.prepare(train.images[pool[i : i + 32]]) for i in range(0, min(_CALIBRATION, len(pool)), 32)]
    original = outputs(realdata.plain_session(path))
    points, right = list[Rung](), float((original[2].argmax(1) == test.labels).mean())
    for slope, file in at_noise(path, _RUNGS, calibration):
        found = outputs(realdata.registered_session(file))
        points.append(Rung(slope, file.stat().st_size, *found))
        if 100 * (right - float((found[2].argmax(1) == test.labels).mean())) > _FAR:
            break
    return Ladder(path.stat().st_size, *original, train.labels[pool], test.labels, points)


def _outputs(session: onnxruntime.InferenceSession, task: realdata.Task, images: Array, blend: bool = False) -> Array:
    name, found = session.get_inputs()[0].name, []
    for i in range(0, len(images), 100):
        batch = Batch({name: task.prepare(images[i : i + 100])})
        piece = (blended(batch) if blend else None) or batch
        found.append(session.run(None, piece.feeds)[0].reshape(piece.size, -1))
    return np.concatenate(found)


@dataclass(frozen=True, slots=True)
class Row:
    """All draws of one number of images for one model and one bound."""

    model: str
    allowed: float
    samples: int
    ratios: tuple[float, ...]
    drops: tuple[float, ...]
    """On the test part."""
    held: tuple[bool, ...]
    """Whether the drop is at most the bound and its standard error on the test part."""


def draws(model: str, kept: Ladder) -> list[Row]:
    """The rows of one model."""
    slopes = np.log([rung.slope for rung in kept.points])
    sizes = np.log([kept.size / rung.size for rung in kept.points])
    lost = [_right(kept.test, kept.test_labels) - _right(rung.test, kept.test_labels) for rung in kept.points]
    drops, errors = [100 * one.mean() for one in lost], [100 * one.std() / len(one) ** 0.5 for one in lost]
    random, rows = np.random.default_rng(0), []
    for count in dict.fromkeys(min(samples, len(kept.train)) for samples in SAMPLES):
        found: dict[float, list[tuple[float, float, bool]]] = {allowed: [] for allowed in ALLOWED}
        for _ in range(1 if count == len(kept.train) else _LARGE_DRAWS if count >= _LARGE else _DRAWS):
            most = _most(kept, random.permutation(len(kept.train))[:count])
            for allowed in ALLOWED:
                at = _safe(np.concatenate([[slopes[0] - _BELOW], slopes]), most, allowed)
                finer = sizes[0] + (at - slopes[0]) * (sizes[1] - sizes[0]) / (slopes[1] - slopes[0])
                ratio = float(np.exp(np.interp(at, slopes, sizes) if at >= slopes[0] else finer))
                drop, error = (float(np.interp(at, [slopes[0] - _BELOW, *slopes], [0.0, *v])) for v in (drops, errors))
                found[allowed].append((ratio, drop, drop <= allowed + error))
        rows += [Row(model, allowed, count, *zip(*each, strict=True)) for allowed, each in found.items()]
    return rows


def _right(outputs: Array, labels: Array) -> Array:
    return np.asarray(outputs.argmax(1) == labels, np.float64)


def _most(kept: Ladder, chosen: Array) -> list[float]:
    """Upper limit of the drop, of no noise and of each rung, until it is far beyond every bound."""
    found, blends = [0.0], _scores(kept.train, kept.train, kept, chosen).by_heart
    for rung in kept.points:
        limits = Promise(1.0, CONFIDENCE).interval(_drop(kept, rung, chosen, blends))
        assert limits is not None
        found.append(limits[1])
        if limits[1] > 2 * max(ALLOWED):
            break
    return found


def _drop(kept: Ladder, rung: Rung, chosen: Array, blends: bool) -> Drop:
    """What chosen images of the pool say, blended or not."""
    before, after = (kept.blends, rung.blends) if blends else (kept.train, rung.train)
    return _scores(before, before, kept, chosen).drop_to(_scores(before, after, kept, chosen), 1.0)


def _scores(before: Array, after: Array, kept: Ladder, chosen: Array) -> Scores:
    found = Scores(open_metric("top1"))
    found.add([after[chosen]], [before[chosen]], Batch({}, kept.train_labels[chosen]))
    return found


def _safe(slopes: Array, most: Sequence[float], allowed: float) -> float:
    """The logarithm of the coarsest slope that is safe, between rungs."""
    beyond = next((i for i, one in enumerate(most) if one > allowed), None)
    if beyond is None:
        return float(slopes[len(most) - 1])
    share = (allowed - most[beyond - 1]) / (most[beyond] - most[beyond - 1])
    return float(slopes[beyond - 1] + (slopes[beyond] - slopes[beyond - 1]) * share)


def measure(scope: Scope) -> list[Row]:
    """The rows of every model."""
    return [row for model in MODELS if model in scope.models for row in draws(model, ONNXOPT.once(ladder, model))]


def render(rows: Sequence[Row]) -> str:
    """Medians of the draws, and what they come to."""
    lines, most = [], {(row.model, row.allowed): median(row.ratios) for row in rows}
    for row in sorted(rows, key=lambda row: (MODELS.index(row.model), row.allowed)):
        share = median(row.ratios) / most[row.model, row.allowed]
        held = f"{sum(row.held)} of {len(row.held)}"
        lines.append([row.model, f"{row.allowed:g}", f"{row.samples:,}", f"{median(row.ratios):.1f}x", f"{share:.0%}",
                      f"{np.mean(row.drops):.2f}", held])  # fmt: skip
    columns = ["model", "may drop", "images", "ratio", "of that with most images", "on the test part, mean", "held"]
    kept, count = sum(sum(row.held) for row in rows), sum(len(row.held) for row in rows)
    return f"{markdown(columns, 'lrrrrrr', lines)}\n\n{kept:,} of {count:,} contracts held."


@dataclass(frozen=True, slots=True)
class Known:
    """A rung of a model that knows its training images by heart: what they say of the drop, blended and not."""

    model: str
    ratio: float
    drop: float
    error: float
    """Of the test part, and its standard error."""
    plain: Drop
    blended: Drop


def known(scope: Scope) -> list[Known]:
    """The rungs of the models of the scope where the test part drops visibly."""
    rows = []
    for model in (one for one in MODELS if one in scope.models):
        kept = ONNXOPT.once(ladder, model)
        chosen = np.arange(min(_SAID, len(kept.train)))
        if not _scores(kept.train, kept.train, kept, chosen).by_heart:
            continue
        for rung in kept.points:
            lost = _right(kept.test, kept.test_labels) - _right(rung.test, kept.test_labels)
            drop, error = 100 * float(lost.mean()), 100 * float(lost.std()) / len(lost) ** 0.5
            if drop > 2 * error:
                told = (_drop(kept, rung, chosen, blends) for blends in (False, True))
                rows.append(Known(model, kept.size / rung.size, drop, error, *told))
    return rows


def render_known(rows: Sequence[Known]) -> str:
    """The rungs, and how far both estimates are from the test part, in the median."""
    columns = ["model", "ratio", "on the test part", "three times what the images say", "what blends say"]
    lines = [
        [one.model, f"{one.ratio:.1f}x", f"{one.drop:.2f} +- {one.error:.2f}", f"{one.plain.likely or 0:.2f}",
         f"{one.blended.likely or 0:.2f}"]
        for one in rows
    ]  # fmt: skip
    return markdown(columns, "lrrrr", lines)


TABLES = (
    Table("drawn-contracts", "docs/contracts.md", 15, measure, render, MODELS),
    Table("blends", "docs/contracts.md", 15, known, render_known, MODELS),
)
