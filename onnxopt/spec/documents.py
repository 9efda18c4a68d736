"""JSON and TOML from strangers: whatever is wrong with a text is a ValueError."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from typing import Any


def parse_json(text: str) -> Any:
    """What a JSON text says. Raises ValueError if it is no JSON, nested too deeply, or no Unicode."""
    found = _parse(json.loads, text)
    if "\\ud" in text.lower():  # half a character, which can be written nowhere
        json.dumps(found, ensure_ascii=False).encode("utf-8")
    return found


def parse_toml(text: str) -> dict[str, Any]:
    """What a TOML text says. Raises ValueError if it is no TOML, or nested too deeply."""
    return dict(_parse(tomllib.loads, text))


def _parse(loads: Callable[[str], Any], text: str) -> Any:
    try:
        return loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
