"""Recipes compared with the engine: one contract for all, figures checked by hand, and failures reported."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import train_digits
from onnxopt import Contract, OnnxoptError, cli
from onnxopt.pool.cluster import Cluster
from onnxopt.report.compare import render
from onnxopt.search.slope import Trial
from onnxopt.spec.recipes import Recipe
from onnxopt.studies.compare import ENGINE, Systems, compare, front

pytestmark = pytest.mark.slow
needs_dask = pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="needs the extra cluster")

DIGITS = Path(__file__).resolve().parents[1] / "models" / "digits.onnx"
MACS = 24 * 9 * 64 + 48 * 24 * 9 * 64 + 128 * 768 + 10 * 128
WEIGHTS = 24 * 9 + 48 * 24 * 9 + 128 * 768 + 10 * 128
PRUNED = '[knobs]\nkeep = [0.9, 0.05]\n[[rule]]\nop = "Gemm"\naxes = 2\nstep = "prune{keep=$keep}"\n'
WRONG = '[[rule]]\nmatch = "*"\nstep = "svd{rank=4} > prune{keep=0.5}"\n'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With labelled images to search on, and recipes."""
    folder = tmp_path_factory.mktemp("compare")
    train, labels, _, _ = train_digits.split()
    np.savez(folder / "train.npz", input=train, labels=labels)
    (folder / "pruned.toml").write_text(PRUNED)
    (folder / "wrong.toml").write_text(WRONG)
    return folder


@pytest.fixture(scope="module")
def found(folder: Path) -> Systems:
    recipes = [Recipe.open(str(folder / name)) for name in ("pruned.toml", "wrong.toml")]
    return compare(DIGITS, recipes, Contract(error=0.3), folder / "train.npz")


def test_all_keep_one_contract(found: Systems) -> None:
    engine, pruned = found.systems
    assert (engine.name, pruned.name) == (ENGINE, "pruned")
    for system in found.systems:
        assert system.met
        assert system.found is not None
        assert 0.2 < system.found.error < 0.4
        assert system.seconds > 0
    assert engine.size < pruned.size < found.bytes_before == DIGITS.stat().st_size


def test_multiplications_by_zero_are_told_apart(found: Systems) -> None:
    engine, pruned = found.systems
    assert found.macs_before == engine.macs == pruned.macs == MACS
    assert pruned.zeros > 0.2
    assert pruned.nonzero_macs == pytest.approx(MACS - pruned.zeros * WEIGHTS, abs=2)  # of matrices each is used once


def test_what_gives_no_file_says_why(found: Systems) -> None:
    (why,) = found.failed.values()
    assert "nothing can follow svd" in why


@needs_dask
def test_a_cluster_finds_the_same(folder: Path, found: Systems) -> None:
    """Each system runs on a worker; only their times are their own."""
    recipes, told = [Recipe.open(str(folder / name)) for name in ("pruned.toml", "wrong.toml")], list[str]()
    with Cluster("local:2") as pool:
        others = compare(DIGITS, recipes, Contract(error=0.3), folder / "train.npz", pool=pool,
                         progress=lambda what, share: told.append(what))  # fmt: skip
        assert pool.moved.tasks == 3
    assert told == ["engine: done", "pruned: done", "wrong: done"]
    timeless = [
        replace(one, systems=tuple(replace(each, seconds=0) for each in one.systems)) for one in (found, others)
    ]
    assert timeless[0] == timeless[1]


@needs_dask
def test_the_engines_error_comes_from_a_worker(folder: Path) -> None:
    with Cluster("local:1") as pool, pytest.raises(OnnxoptError, match="no such file"):
        compare(DIGITS, [], Contract(error=0.3), folder / "nothing.npz", pool=pool)


def test_the_engines_error_is_everyones(folder: Path) -> None:
    with pytest.raises(OnnxoptError, match="no such file"):
        compare(DIGITS, [], Contract(error=0.3), folder / "nothing.npz")


@given(st.lists(st.builds(Trial, st.just(1.0), st.integers(1, 9), st.none() | st.integers(0, 9), st.none())))
def test_the_front_is_what_nothing_beats(trials: list[Trial]) -> None:
    best = front(trials)
    measured = [trial for trial in trials if trial.error is not None]
    assert all(trial in measured for trial in best)
    for trial in measured:
        beaten = any(one.size <= trial.size and (one.error or 0) <= (trial.error or 0) for one in best)
        assert beaten
    assert [t.size for t in best] == sorted({t.size for t in best}, reverse=True)
    assert [t.error for t in best] == sorted({t.error for t in best})


def test_the_page_shows_every_system(found: Systems) -> None:
    page = render(found)
    for system in found.systems:
        assert system.name in page
        assert f"{found.bytes_before / system.size:.2f}x" in page
    assert page.count("<svg") == 1


def typed(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["onnxopt", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


def test_the_command(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    words = ("compare", DIGITS, "--data", folder / "train.npz", "--max-drop", 1, "--recipes", folder / "pruned.toml")
    assert typed(monkeypatch, *words, "--report", page) == 0
    said = capsys.readouterr()
    assert not said.err
    assert max(map(len, said.out.splitlines()[1:])) <= 80
    for word in ("engine", "ratio", "top1", "drop", "MACs", "777k", "times smaller"):
        assert word in said.out, word
    assert "<svg" in page.read_text()


def test_a_missed_contract_is_shown_and_as_json(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("compare", DIGITS, "--data", folder / "train.npz", "--recipes", folder / "pruned.toml")
    assert typed(monkeypatch, *words, "--target-ratio", 20) == 0
    assert "pruned*" in capsys.readouterr().out
    assert typed(monkeypatch, *words, "--target-ratio", 2, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["kind"], result["schema"]) == ("compare", 1)
    assert [system["met"] for system in result["systems"]] == [True, True]
    assert result["bounds"]["target_ratio"] == 2
    assert not result["systems"][0]["curve"]


def test_an_unknown_recipe_is_told_the_known_ones(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert typed(monkeypatch, "compare", DIGITS, "--recipes", "deep-compression,nothing") == 1
    assert "'nothing', expected" in capsys.readouterr().err
