"""`optimize --dry-run`: what would be done, and what it takes; nothing is written."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import mlp
from commanding import refused, run

from onnxopt.measure.benchmark.latency import PROCESSES
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


def test_training_counts_passes_and_other_forms_count_races(source: Path) -> None:
    data = {"x": np.random.default_rng(0).normal(size=(400, 64)).astype(np.float32)}
    plain_, short, long = (dry_run(source, data=data, tune=tune) for tune in (None, "8epochs", "400epochs"))
    assert plain_.training is None and short.training and long.training
    assert 0 < short.training.seconds < long.training.seconds
    assert long.training.seconds >= 0.8 * 400 * long.training.pass_seconds
    assert not long.training.at_least
    timed, endless = (dry_run(source, data=data, tune=tune).training for tune in ("90s", "auto"))
    assert timed and endless and timed.seconds == 90 and endless.at_least
    assert dry_run(source, goal="size").strategies > plain_.strategies == 0.0


def test_a_forecast_with_the_goal_of_speed_races(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxopt.studies.strategy_time.time_ratio", lambda *_: time.sleep(0.2))
    found = dry_run(source, goal="speed")
    assert found.strategies > PROCESSES * 0.1
    assert found.seconds >= found.strategies
    refused(run("optimize", source, "--dry-run", "--check", "small.onnx"), "contradict each other")
