"""States and caches: inputs that an application feeds with outputs of the step before."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any

_ALIKE = 0.6
"""Similarity of names from which on an output is the next value of an input of another length."""


def states_of(inputs: Sequence[Any], outputs: Sequence[Any]) -> dict[str, str]:
    """By input that holds a state, the output that holds its next value.

    A state is an input of numbers that has an output of its type and rank, of equal sizes where both are fixed. Where
    several outputs fit, the one with the most similar name does. Inputs come before outputs of other inputs, so the
    first input is no state, unless its name is its output's but for a few letters. A cache may grow: its output is
    longer.

    Arguments:
        inputs: of a session (with `name`, `type` and `shape`).
        outputs: the same.
    """
    found: dict[str, str] = {}
    left = list(outputs)
    for place, entry in enumerate(inputs):
        fitting = [one for one in left if _fits(entry, one)]
        if not fitting or not entry.shape:
            continue
        best = max(fitting, key=lambda one: _likeness(entry.name, one.name))
        alike = _likeness(entry.name, best.name) >= _ALIKE
        alone = place > 0 and list(entry.shape) == list(best.shape) and outputs[0] is not best
        if (alike and _is_state(entry.name, best.name)) or alone:
            found[entry.name] = best.name
            left.remove(best)
    return found if len(found) < len(inputs) else {}


def _fits(entry: Any, output: Any) -> bool:
    known = [(a, b) for a, b in zip(entry.shape, output.shape, strict=False) if isinstance(a, int) and a > 0]
    return (
        entry.type == output.type != "tensor(string)"
        and len(entry.shape) == len(output.shape)
        and all(a == b or not isinstance(b, int) or b <= 0 for a, b in known)
    )


_WORDS = ("state", "cache", "hidden", "past", "mem", "buffer", "context", "carry")
_STEP = re.compile(
    r"(?<![a-z])(key_values|in|out|input|output|new|next|old|prev|previous|past|present|current)(?![a-z])|[\W_\d]"
)
"""Parts of a name that tell one step from the next."""


def _is_state(entry: str, output: str) -> bool:
    """Whether the names of an input and of an output are those of one state."""
    return _stem(entry) == _stem(output) or any(word in entry.lower() for word in _WORDS)


def _likeness(entry: str, output: str) -> float:
    return 1.0 if _stem(entry) == _stem(output) else SequenceMatcher(None, entry, output).ratio()


def _stem(name: str) -> str:
    """A name without what tells its step: h0, hn and h_out are h; digits count where letters follow them."""
    lower = name.lower()
    numbers = "".join(re.findall(r"\d+(?=\D)", lower))
    return (_STEP.sub("", lower).removesuffix("n") or lower) + numbers
