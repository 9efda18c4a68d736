"""What the HTML report says in words."""

from __future__ import annotations

import html
import json

from builders import mlp

import onnxopt
from onnxopt.report.html import render
from onnxopt.report.json import to_json
from onnxopt.report.story import story


def test_the_page_begins_with_what_was_asked_given_up_and_next() -> None:
    result = json.loads(to_json(onnxopt.optimize(mlp())))
    words = dict(story(result))
    assert words["Asked"].startswith("model.onnx, 38.1 kB, as small as possible: noise over signal at most 0.02")
    assert "noise of" in words["Given up"]
    assert "--data" in words["Next"]
    assert words["Next"] in html.unescape(render(result))
    lossless = dict(story(json.loads(to_json(onnxopt.optimize(mlp(), lossless=True)))))
    assert lossless["Given up"] == "Nothing: every weight is as it was, to the bit."


def test_a_size_asks_for_what_is_exact() -> None:
    words = dict(story(json.loads(to_json(onnxopt.optimize(mlp(), target_ratio=6.0)))))
    assert "as exact as possible: at least 6x smaller" in words["Asked"]
    assert "smaller" not in words["Next"].partition("`")[0]
