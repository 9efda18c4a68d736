"""Results as JSON, for pipelines."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

from onnxopt.spec.plan import Plan


def to_json(result: Any, ascii_only: bool = False) -> str:
    """One result object (a dataclass instance) as indented JSON, each list of numbers on one line."""
    text = json.dumps(plain(result), indent=1, ensure_ascii=ascii_only, allow_nan=False)
    # In JSON, texts hold no raw line breaks, so a bracket before one is the document's own structure.
    return re.sub(r"\[\n([^\[\]{}\"]*)\n *\]", lambda found: f"[{' '.join(found[1].split())}]", text)


def plain(value: Any) -> Any:
    """A result object, or a part of one, as what JSON is made of: mappings, lists, texts, numbers, booleans, None.

    JSON has no numbers that are not finite, so they become None: not measured.
    """
    if isinstance(value, Plan):
        return json.loads(value.to_json())
    if isinstance(value, Path):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)
                if f.metadata.get("shown", True)}  # fmt: skip
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
