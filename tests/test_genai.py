"""ONNX Runtime GenAI takes compressed decoders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_runtimes import packages

import onnxopt
from common import genai
from common.pages import ROOT
from onnxopt import native

pytestmark = pytest.mark.slow


def test_genai_generates_the_same_tokens(tmp_path: Path) -> None:
    assert packages(genai.VERSION, "onnxruntime-genai") == genai.PACKAGE
    plain, small = tmp_path / "plain.onnx", tmp_path / "small.onnx"
    genai.write_decoder(plain)
    onnxopt.optimize(plain, small, lossless=True)
    tokens = genai.generated(plain)
    assert len(set(tokens)) > 10
    assert genai.generated(small, native.library_path()) == tokens


def test_the_lines_of_the_page_are_those_that_ran() -> None:
    page = (ROOT / "docs/hosts.md").read_text(encoding="utf-8")
    lines = json.loads(page.partition("## GenAI")[2].partition("```json\n")[2].partition("```")[0])
    ran = genai.config("small.onnx", "libonnxopt.so")["model"]["decoder"]  # type: ignore[index]
    shown = lines["model"]["decoder"]
    assert shown == {"filename": ran["filename"], "session_options": {"custom_ops_library": "libonnxopt.so"}}
    assert ran["session_options"]["custom_ops_library"] == "libonnxopt.so"
