"""`--log-json` says what the progress bar shows."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from builders import mlp
from commanding import refused, run


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(mlp(), path)
    return path


def test_events_are_the_steps_and_the_bytes(source: Path, tmp_path: Path) -> None:
    log, small = tmp_path / "log.jsonl", tmp_path / "small.onnx"
    done = run("optimize", source, "-o", small, "-v", "--log-json", log)
    assert done.returncode == 0
    events = [json.loads(line) for line in log.read_text().splitlines()]
    phases = [event["phase"] for event in events]
    assert list(dict.fromkeys(phases)) == [*dict.fromkeys(done.stderr.splitlines()), "done"]
    assert [event["seconds"] for event in events] == sorted(event["seconds"] for event in events)
    assert events[-1]["bytes"] == small.stat().st_size
    assert events[-1]["share"] == 1
    assert all(event["peak_memory"] > 2**20 for event in events)
    run("optimize", source, "-o", small, "--lossless", "--log-json", log)
    assert log.read_text().count('"done"') == 2


def test_events_on_standard_error(source: Path, tmp_path: Path) -> None:
    done = run("optimize", source, "-o", tmp_path / "small.onnx", "--lossless", "--log-json", "-")
    assert json.loads(done.stderr.splitlines()[-1])["phase"] == "done"


def test_a_log_never_lands_in_a_model(source: Path, tmp_path: Path) -> None:
    before = source.read_bytes()
    refused(run("optimize", source, "-o", tmp_path / "small.onnx", "--log-json", source), "would overwrite")
    refused(run("optimize", source, "-o", tmp_path / "s.onnx", "--log-json", tmp_path / "no" / "log"), "no folder")
    assert source.read_bytes() == before
