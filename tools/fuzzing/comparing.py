"""How far a model's outputs are from those of stock ONNX Runtime, judged apart from onnxopt's own measure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime


@dataclass(frozen=True, slots=True)
class Difference:
    """Of outputs on some feeds."""

    what: str = ""
    """The first difference in words; empty where every bit is the same."""
    error: float = 0.0
    """Noise over signal of finite floats, the root mean square over outputs."""
    disagreement: float = 0.0
    """The largest share, over outputs that are no floats, of elements that differ."""
    resized: bool = False
    """Whether a float output has another shape, as rows that a decision selects may."""
    broken: str = ""
    """What no rounding of weights explains: other types, lengths of maps, ranks."""


def compare(wanted: Sequence[Sequence[Any]], got: Sequence[Sequence[Any]]) -> Difference:
    """Of two models' outputs, for each of the feeds a list of outputs."""
    what, broken, resized = "", "", False
    noise: dict[int, list[float]] = {}
    others: dict[int, list[float]] = {}
    for a_outputs, b_outputs in zip(wanted, got, strict=True):
        if len(a_outputs) != len(b_outputs):
            return Difference("the number of outputs", broken=f"{len(b_outputs)} outputs, expected {len(a_outputs)}")
        for index, (a, b) in enumerate(zip(a_outputs, b_outputs, strict=True)):
            pairs = list(zip(*_leaves(a, b), strict=False))
            kinds = [_kind(one, other) for one, other in pairs]
            broken = broken or next((f"output {index} {kind}" for kind in kinds if kind), "")
            if not all(_equal(one, other) for one, other in pairs):
                what = what or f"output {index}"
            alike = [pair for pair, kind in zip(pairs, kinds, strict=True) if not kind]
            if floats := [pair for pair in alike if pair[0].dtype.kind == "f"]:
                noise.setdefault(index, []).append(_noise(floats))
                resized = resized or _resized(floats)
            for one, other in alike:
                if one.dtype.kind != "f" and (one.size or other.size):
                    same = one.shape == other.shape
                    others.setdefault(index, []).append(float(np.mean(one != other)) if same else 1.0)
    error = float(np.sqrt(np.mean([np.mean(np.square(n)) for n in noise.values()]))) if noise else 0.0
    disagreement = max((float(np.mean(n)) for n in others.values()), default=0.0)
    return Difference(what or broken, error, disagreement, resized, broken)


def interface(session: onnxruntime.InferenceSession) -> list[list[tuple[str, str, list[Any]]]]:
    """Names, types and shapes of the inputs, of the outputs and of the inputs that have defaults."""
    groups = (session.get_inputs(), session.get_outputs(), session.get_overridable_initializers())
    return [[(value.name, value.type, list(value.shape or [])) for value in group] for group in groups]


def interface_differs(
    stock: onnxruntime.InferenceSession, other: onnxruntime.InferenceSession, outputs: Sequence[Any] = ()
) -> str:
    """The first difference between what two sessions take and give, in words; empty if there is none.

    Arguments:
        outputs: what the first session gives; a shape that it states and does not give says nothing.
    """
    given = [list(value.shape) if isinstance(value, np.ndarray) else None for value in outputs]
    for what, wanted, got in zip(("input", "output", "default"), interface(stock), interface(other), strict=True):
        if what == "default":
            continue  # weights may be constants after compression; which inputs must be given stays the same
        if [one[:2] for one in wanted] != [one[:2] for one in got]:
            return f"{what}s are {_short(got)}, expected {_short(wanted)}"
        for index, ((name, _, shape), (_, _, now)) in enumerate(zip(wanted, got, strict=True)):
            actual = given[index] if what == "output" and given else None
            if not _same_shape(shape, now) and (actual is None or _same_shape(shape, actual)):
                return f"{what} {name!r} has shape {now}, expected {shape}"
    return ""


def _same_shape(wanted: list[Any], got: list[Any]) -> bool:
    """Whether known sizes agree; a name of an unknown size says nothing that a program relies on."""
    if len(wanted) != len(got):
        return not got or not wanted
    return all(a == b or not (isinstance(a, int) and isinstance(b, int)) for a, b in zip(wanted, got, strict=True))


def _short(values: list[tuple[str, str, list[Any]]]) -> str:
    return ", ".join(f"{name}: {kind}" for name, kind, _ in values) or "none"


def _leaves(a: Any, b: Any) -> tuple[list[Any], list[Any]]:
    """The arrays of sequences and maps, in order; of other values the values themselves."""
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        pairs = [_leaves(one, other) for one, other in zip(a, b, strict=True)]
        return [x for one, _ in pairs for x in one], [x for _, other in pairs for x in other]
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [np.array(list(a.values()))], [np.array([b[key] for key in a])]
    return [a], [b]


def _kind(a: Any, b: Any) -> str:
    if not (isinstance(a, np.ndarray) and isinstance(b, np.ndarray)):
        return f"is a {type(b).__name__}, expected {type(a).__name__}" if type(a) is not type(b) else "has other keys"
    if a.dtype != b.dtype:
        return f"is {b.dtype}, expected {a.dtype}"
    return f"has {b.ndim} axes, expected {a.ndim}" if a.ndim != b.ndim else ""


def _equal(a: Any, b: Any) -> bool:
    if not (isinstance(a, np.ndarray) and isinstance(b, np.ndarray)):
        # Sequences and maps stay whole only where they differ in kind.
        return type(a) is type(b) and not isinstance(a, list | dict) and bool(a == b)
    return a.shape == b.shape and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def _resized(parts: Sequence[tuple[Any, Any]]) -> bool:
    return any(a.shape != b.shape for a, b in parts)


def _noise(parts: Sequence[tuple[Any, Any]]) -> float:
    """Noise over signal of all parts of an output; the positions of infinities and NaN count where they differ.

    The parts, as a map of each sample is one, count together: the noise of one whose values happen to be small
    compares with what the output usually has.
    """
    if _resized(parts):
        return 1.0
    x, y = (np.concatenate([part.ravel() for part in side]).astype(np.float64) for side in zip(*parts, strict=True))
    if not x.size:
        return 0.0
    finite = np.isfinite(x) & np.isfinite(y)
    strange = ~finite & ~((x == y) | (np.isnan(x) & np.isnan(y)))
    power = float(np.square(x[finite]).sum())
    noise = float(np.square(y[finite] - x[finite]).sum())
    relative = noise / power if power > 0 else float(noise > 0)
    return float(np.sqrt(relative)) + float(np.mean(strange))
