"""A minute of speech as feeds of the speech models, made by the script that lies beside the data."""

from __future__ import annotations

import importlib.util
from typing import Any

from common import realdata

FEEDS = {"silero_half": "silero_half", "gtcrn": "gtcrn", "kws_dscnn": "kws"}
"""By model, the function of the script that gives its feeds."""


def feeds(model: str) -> list[dict[str, Any]]:
    """One-sample feeds of a model, in the order of the recording; states are those of the original model."""
    spec = importlib.util.spec_from_file_location("speech", realdata.DATA / "speech.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: list[dict[str, Any]] = getattr(module, FEEDS[model])(realdata.plain_session(realdata.path_of(model)))
    return found
