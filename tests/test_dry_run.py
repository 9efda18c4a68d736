"""`optimize --dry-run`: what would be done, and what it takes; nothing is written."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from builders import mlp
from commanding import refused, run

from onnxopt.report.json import plain
from onnxopt.studies.dry_run import dry_run


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(mlp(64), path)
    return path


def test_it_says_what_would_be_done_and_writes_nothing(source: Path) -> None:
    done = run("optimize", source, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "feedback" in done.stdout
    assert "time: about" in done.stdout
    assert "memory: about" in done.stdout
    assert "nothing was written" in done.stdout
    assert [one.name for one in source.parent.iterdir()] == ["model.onnx"]


def test_json_has_every_weight_and_every_phase(source: Path) -> None:
    found = json.loads(run("optimize", source, "--dry-run", "--json", "--error", 0.1).stdout)
    assert {one["path"] for one in found["decisions"]} >= {"fc1", "fc2"}
    assert found["contract"] == "noise over signal at most 0.1"
    parts = [found["reading"], *found["phases"].values()]
    assert found["seconds"] == pytest.approx(sum(parts))
    assert all(part >= 0 for part in parts)
    assert found["peak_memory"] > 2**20


def test_what_stays_lossless_says_why(source: Path) -> None:
    found = dry_run(source, lossless=True)
    assert found.decisions
    assert all(one.step == "lossless" and one.reason for one in found.decisions)
    assert found.trials == 0
    assert plain(found)["samples"] == 0


def test_what_is_not_estimated_is_said(source: Path) -> None:
    assert dry_run(source, goal="size").not_estimated == ("--for",)
    refused(run("optimize", source, "--dry-run", "--check", "small.onnx"), "contradict each other")
