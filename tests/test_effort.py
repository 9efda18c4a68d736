"""`--effort fast` runs the model on fewer samples, in few trials; the contract and the check are those of any run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from builders import branches, cnn
from commanding import refused, run
from hypothesis import given
from hypothesis import strategies as st
from test_search import Model, candidates

import onnxopt
import train_digits
from onnxopt import Contract, Missed, OnnxoptError
from onnxopt.build import workspace
from onnxopt.calibration.budget import Budget
from onnxopt.graph import Graph
from onnxopt.search import slope as search
from onnxopt.search.slope import Pace, Trial
from onnxopt.spec.effort import Effort
from onnxopt.spec.plan import Plan
from onnxopt.spec.promise import Promise

DIGITS = Path(__file__).resolve().parents[1] / "models" / "digits.onnx"
ENOUGH = 3
predictions = st.floats(0.05, 20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds a small CNN, and labelled and unlabelled digits."""
    made = tmp_path_factory.mktemp("effort")
    images, labels, _, _ = train_digits.split()
    np.savez(made / "digits.npz", input=images, labels=labels)
    np.savez(made / "plain.npz", input=images)
    onnx.save(cnn(), made / "cnn.onnx")
    return made


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Counts the samples that any session runs; each call starts anew."""
    samples, original = [0], onnxruntime.InferenceSession.run

    def counting(session: Any, names: Any, feeds: dict[str, Any], *rest: Any) -> Any:
        samples[0] += max((len(array) for array in feeds.values() if np.ndim(array)), default=1)
        return original(session, names, feeds, *rest)

    def ran() -> int:
        found, samples[0] = samples[0], 0
        return found

    monkeypatch.setattr(onnxruntime.InferenceSession, "run", counting)
    return ran


def test_a_fast_run_takes_a_part_of_the_samples_and_keeps_the_contract(
    folder: Path, counted: Callable[[], int], tmp_path: Path
) -> None:
    contract, data = Contract(error=0.05), folder / "plain.npz"
    usual = onnxopt.optimize(DIGITS, tmp_path / "usual.onnx", contract, data)
    samples = counted()
    fast = onnxopt.optimize(DIGITS, tmp_path / "fast.onnx", contract, data, effort="fast")
    assert counted() < samples / 2
    assert fast.status == "met"
    assert fast.check is not None
    assert fast.check.found.error is not None
    assert fast.check.found.error <= 0.05
    assert fast.bytes_after <= 1.2 * usual.bytes_after
    again = onnxopt.optimize(DIGITS, tmp_path / "again.onnx", contract, data, effort="fast")
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "fast.onnx").read_bytes()
    assert again.plan == fast.plan
    assert fast.plan.effort is Effort.FAST


@pytest.mark.parametrize("contract", [Contract(max_drop=1.0), Contract(target_ratio=6.0)], ids=["drop", "ratio"])
def test_other_contracts_are_met_in_few_trials(folder: Path, tmp_path: Path, contract: Contract) -> None:
    fast = onnxopt.optimize(DIGITS, tmp_path / "fast.onnx", contract, folder / "digits.npz", effort="fast")
    assert fast.met
    assert len(fast.trials) <= 2 * ENOUGH
    assert fast.bytes_before / fast.bytes_after >= 6, "the usual run reaches 11 with this drop, in eight trials"


def test_what_cannot_be_met_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(Missed, match="cannot be met"):
        onnxopt.optimize(DIGITS, tmp_path / "o.onnx", Contract(target_ratio=1e5), folder / "plain.npz", effort="fast")
    assert not (tmp_path / "o.onnx").exists()


def test_a_fast_plan_is_applied_with_its_own_statistics(folder: Path, tmp_path: Path) -> None:
    """`apply` is not told the effort: the plan holds it."""
    data = folder / "plain.npz"
    fast = onnxopt.optimize(DIGITS, tmp_path / "fast.onnx", Contract(error=0.05), data, effort="fast")
    plan = Plan.from_json(fast.plan.to_json())
    onnxopt.apply(DIGITS, plan, tmp_path / "applied.onnx", data)
    assert (tmp_path / "applied.onnx").read_bytes() == (tmp_path / "fast.onnx").read_bytes()
    usual = replace(plan, effort=Effort.DEFAULT)
    assert "effort" not in usual.to_json(), "plans of usual runs are what they were"
    onnxopt.apply(DIGITS, usual, tmp_path / "usual.onnx", data)
    assert (tmp_path / "usual.onnx").read_bytes() != (tmp_path / "fast.onnx").read_bytes()


def test_best_makes_less_noise_in_as_many_bytes(folder: Path, tmp_path: Path) -> None:
    """The same steps, with weights that make up for the noise before them."""
    data = folder / "plain.npz"
    plan = onnxopt.plan(DIGITS, Contract(error=0.1), data)
    made = {
        effort: onnxopt.apply(DIGITS, replace(plan, effort=effort), tmp_path / f"{effort}.onnx", data)
        for effort in (Effort.DEFAULT, Effort.BEST)
    }
    usual, best = (one.check.found.error for one in made.values() if one.check and one.check.found.error)
    assert best < 0.97 * usual
    assert made[Effort.BEST].bytes_after == pytest.approx(made[Effort.DEFAULT].bytes_after, rel=0.02)
    onnxopt.apply(DIGITS, replace(plan, effort=Effort.BEST), tmp_path / "again.onnx", data)
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "best.onnx").read_bytes()


def test_best_changes_nothing_without_data_or_with_branches(folder: Path, tmp_path: Path) -> None:
    """What synthetic inputs say of noise need not hold; a branch reads values without naming them."""
    onnx.save(branches(), tmp_path / "branches.onnx")
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).standard_normal((64, 16)).astype(np.float32))
    for model, data in ((folder / "cnn.onnx", None), (tmp_path / "branches.onnx", tmp_path / "x.npz")):
        plan = onnxopt.plan(model, Contract(error=0.1), data)
        checks = [
            onnxopt.apply(model, replace(plan, effort=effort), tmp_path / "o.onnx", data).check
            for effort in (Effort.DEFAULT, Effort.BEST)
        ]
        assert checks[0] == checks[1]


def test_the_command_line_takes_it(folder: Path, tmp_path: Path) -> None:
    done = run("optimize", folder / "cnn.onnx", "-o", tmp_path / "o.onnx", "--effort", "fast", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["plan"]["effort"] == "fast"
    for effort in ("fast", "best"):
        bad = run("optimize", folder / "cnn.onnx", "-o", tmp_path / "l.onnx", "--lossless", "--effort", effort)
        refused(bad, "--lossless", f"--effort {effort}")


def test_wrong_values_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(OnnxoptError, match="--effort is 'quick', expected fast or default"):
        onnxopt.optimize(folder / "cnn.onnx", tmp_path / "o.onnx", effort="quick")
    with pytest.raises(OnnxoptError, match="'quick' is not a valid Effort"):
        Plan.from_json('{"onnxopt_plan": 1, "model_sha256": "", "effort": "quick", "steps": {}}')


def test_fully_connected_layers_get_more_samples_than_convolutions() -> None:
    fast = Budget(2**30, Effort.FAST)
    convolution, connected = (10**6, 576, 1024.0), (10**6, 800, 1.0)
    few, most, mean = (fast.samples(one) for one in ([convolution], [connected], [convolution, connected]))
    assert few is not None
    assert most is not None
    assert mean is not None
    assert few < mean < most
    assert Budget(2**30).samples([convolution, connected]) is None


@given(candidates, st.floats(-5, 0), predictions, st.floats(0.5, 2.0))
def test_predicted_slopes_meet_a_noise_in_few_trials(
    weights: list[search.Candidate], octaves: float, away: float, factor: float
) -> None:
    """The statistics expect a noise that is wrong by a factor."""
    right = max(one.power for one in weights) * 10**octaves
    model, bound = Model(weights), search.expected_error(weights, right)
    pace = Pace(enough=ENOUGH, slack=2.5, expected=lambda at: factor * search.expected_error(weights, at))
    best = search.meet_error(model, right * away, bound, pace)
    assert best is not None
    assert best.error is not None
    assert best.error <= bound
    assert len(model.trials) <= ENOUGH


def test_a_search_ends_where_nothing_is_left_to_save() -> None:
    """Where the weights are a small part of the file, coarser ones hardly make it smaller."""
    trials = list[Trial]()

    def measure(at: float) -> Trial:
        trials.append(Trial(at, int(100_000 - 100 * math.log(at)), math.sqrt(at), None))
        return trials[-1]

    best = search.meet_error(measure, 0.01, 1.0, Pace(worth=0.025))
    assert best is not None
    assert [trial.error for trial in trials] == pytest.approx([0.1, 0.2, 0.4, 0.8, 3.2])
    assert best is trials[-2]


@given(st.floats(1e-2, 1e2), st.floats(0.8, 2.5), st.floats(0.05, 2))
def test_predicted_slopes_keep_a_promise(start: float, power: float, allowed: float) -> None:
    """Drops grow with a power of the noise; the search needs no more trials than to be close, or the usual ones."""
    promise, trials = Promise(allowed, 0.9), list[Trial]()

    def measure(at: float) -> Trial:
        likely = math.sqrt(at) ** power
        trials.append(Trial(at, 1, math.sqrt(at), likely, likely / 10, likely, likely / 10))
        return trials[-1]

    best = search.meet_drop(measure, start, promise, Pace(enough=ENOUGH, expected=math.sqrt))
    assert best is not None
    assert promise.safe(best)
    assert len(trials) <= 3 * ENOUGH


def test_no_file_is_built_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = list[str]()
    execute = workspace.execute_plan

    def counted(graph: Graph, plan: Plan, *others: Any) -> Any:
        built.extend([plan.to_json()] if plan.steps else [])
        return execute(graph, plan, *others)

    monkeypatch.setattr(workspace, "execute_plan", counted)
    images = np.random.default_rng(0).random((64, 1, 8, 8), np.float32)
    for error in (0.02, 0.05, 0.1):
        built.clear()
        done = onnxopt.optimize(DIGITS, tmp_path / "small.onnx", Contract(error=error), images, effort=Effort.FAST)
        assert len(built) == len(set(built)) == len(done.trials) > 1
