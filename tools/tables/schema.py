"""The JSON Schema of a result, from the types of its fields."""

from __future__ import annotations

import dataclasses
import json
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from onnxopt.results.result import STATUSES, Result
from onnxopt.spec.plan import Plan
from tables import Table

_SIMPLE: Mapping[Any, dict[str, Any]] = {
    str: {"type": "string"}, Path: {"type": "string"}, bool: {"type": "boolean"}, int: {"type": "integer"},
    float: {"type": ["number", "null"]}, type(None): {"type": "null"}, Plan: {"type": "object"}, Any: {},
}  # fmt: skip
"""A float that is not finite is null."""


def schema() -> dict[str, Any]:
    """Of what `optimize --json` prints. Fields may be added without a new version, so others are allowed."""
    found = _of(Result)
    found["properties"] |= {"status": {"enum": list(STATUSES)}, "kind": {"const": "optimize"}}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "onnxopt result, schema 2", **found}


def _of(kind: Any) -> dict[str, Any]:
    """What a type's values are in JSON."""
    if kind in _SIMPLE:
        return dict(_SIMPLE[kind])
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return {"anyOf": [_of(one) for one in arguments]}
    if origin in (tuple, list) or getattr(origin, "__name__", "") == "Sequence":
        return {"type": "array", "items": {} if len(set(arguments) - {...}) > 1 else _of(arguments[0])}
    if origin is dict or getattr(origin, "__name__", "") == "Mapping":
        return {"type": "object", "additionalProperties": _of(arguments[1])}
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        shown = [one.name for one in dataclasses.fields(kind) if one.metadata.get("shown", True)]
        return {"type": "object", "properties": {name: _of(hints[name]) for name in shown}, "required": shown}
    return {}


def render(found: dict[str, Any]) -> str:
    """As a block of JSON."""
    return f"```json\n{json.dumps(found, indent=1)}\n```"


TABLES = (Table("schema", "docs/reference/schema.md", 0.1, lambda scope: schema(), render),)
