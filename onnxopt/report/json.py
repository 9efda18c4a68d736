"""Results as JSON, for pipelines."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from onnxopt.spec.plan import Plan


def to_json(result: Any) -> str:
    """One result object (a dataclass instance) as indented JSON, lists of numbers in one line each."""
    text = json.dumps(_plain(result), indent=1, ensure_ascii=False)
    # No text holds a line break as it is, so what follows one is the document's own structure.
    return re.sub(r"\[\n([^\[\]{}\"]*)\n *\]", lambda found: f"[{' '.join(found[1].split())}]", text)


def _plain(value: Any) -> Any:
    if isinstance(value, Plan):
        return json.loads(value.to_json())
    if isinstance(value, Path):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
