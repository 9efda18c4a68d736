"""Recipes that train after some of their steps, and training until it stops paying."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from builders import mlp, tuning_case, weights

import onnxopt
from onnxopt import Contract, OnnxoptError
from onnxopt.encoding import Codebook, Raw
from onnxopt.metrics.output_error import output_error
from onnxopt.spec.recipes import Recipe
from onnxopt.spec.tuning import Tuning
from onnxopt.studies.compare import compare
from onnxopt.tuning.budget import Budget
from onnxopt.tuning.kinds import Weight
from onnxopt.tuning.weights import Weights

Array = np.ndarray[Any, Any]


@pytest.fixture
def small(tmp_path: Path) -> tuple[Path, Path]:
    """A small network, and samples for it."""
    return tuning_case(tmp_path, 64, 512)


def noise_of(model: Path, file: Path) -> float:
    """Of a file's outputs, on samples that nothing was trained on."""
    source = onnxruntime.InferenceSession(model)
    feeds = {source.get_inputs()[0].name: weights(256, 64, seed=6)}
    return output_error(source.run(None, feeds), onnxopt.load(file).run(None, feeds)) or 0.0


def test_a_centroid_gets_the_sum_of_its_members_gradients_and_zeros_get_none() -> None:
    shared = Codebook(np.array([[0, 1, 2], [2, 2, 0]], np.int32), np.array([0.0, 0.5, -1.5], np.float32))
    pruned = Raw(np.array([[0.0, 2.0], [-1.0, 0.0]], np.float32))
    kinds = [Weight.of("shared", shared), Weight.of("pruned", pruned, masked=True)]
    start = {"shared": shared.values(), "pruned": pruned.values()}
    found = Weights(kinds, start, near=False)
    g = {"shared": weights(2, 3), "pruned": weights(2, 2)}
    units = np.concatenate([one.units() for one in kinds])
    sums = [g["shared"][0, 1], g["shared"][0, 2] + g["shared"][1, 0] + g["shared"][1, 1]]
    np.testing.assert_allclose(found.gradient(g) / units, [*sums, g["pruned"][0, 1], g["pruned"][1, 0]], rtol=1e-6)
    for path, values in found.seen().items():
        np.testing.assert_allclose(values, start[path], rtol=1e-6)
    found.masters += 1
    assert found.stored()["shared"].values()[0, 0] == found.stored()["pruned"].values()[0, 0] == 0
    np.testing.assert_array_equal(found.stored()["shared"].entries()[-1].elements, shared.index)


@pytest.mark.slow  # 3 s: two whole runs
def test_a_recipe_trains_after_its_steps(small: tuple[Path, Path], tmp_path: Path) -> None:
    np.save(small[1], weights(2048, 64, seed=5))
    contract = Contract(target_ratio=8)
    recipe = replace(Recipe.open("deep-compression"), tune=("prune", "codebook"))
    plain = onnxopt.optimize(small[0], tmp_path / "plain", contract, small[1], recipe=recipe)
    tuned = onnxopt.optimize(small[0], tmp_path / "tuned", contract, small[1], recipe=recipe, tune="20epochs")
    assert "tuned" not in plain.plan.to_json()
    assert tuned.bytes_after <= small[0].stat().st_size / 8
    steps = [[one.name for one in step] for step in tuned.plan.steps.values()]
    assert steps == [["prune", "tuned", "codebook", "tuned"]] * 2
    assert noise_of(small[0], tmp_path / "tuned") < 0.97 * noise_of(small[0], tmp_path / "plain")
    onnxopt.apply(small[0], tuned.plan, tmp_path / "applied", small[1], tuned.values)
    assert (tmp_path / "applied").read_bytes() == (tmp_path / "tuned").read_bytes()


@pytest.mark.slow  # 2 s: a whole run
def test_a_step_that_is_named_twice_is_taken_gently_first_and_fills_the_size(
    small: tuple[Path, Path], tmp_path: Path
) -> None:
    recipe = Recipe.open("deep-compression")
    size = small[0].stat().st_size / 8
    done = onnxopt.optimize(small[0], tmp_path / "out", Contract(target_ratio=8), small[1], recipe=recipe,
                            tune="6epochs")  # fmt: skip
    for step in done.plan.steps.values():
        assert [one.name for one in step] == ["prune", "tuned", "prune", "tuned", "codebook", "tuned"]
        gently, fully = (dict(one.args)["noise"] for one in step if one.name == "prune")
        assert 0.5 < gently / fully < 0.9
    assert 0.95 * size < done.bytes_after <= size


def test_later_steps_change_tuned_values_and_factors_are_trained(tmp_path: Path) -> None:
    model = mlp(16)
    low = (weights(16, 3) @ weights(3, 32, seed=1) + weights(16, 32, seed=2, scale=0.01)).astype(np.float32)
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(low, model.graph.initializer[0].name))
    onnx.save(model, tmp_path / "small.onnx")
    np.save(tmp_path / "x.npy", weights(256, 16, seed=5))
    (tmp_path / "own.toml").write_text(
        'title = "a"\ntune = ["svd", "prune"]\n[[rule]]\nmatch = "fc1"\nstep = "svd{rank=3}"\n'
        '[[rule]]\nmatch = "fc2"\nstep = "prune{keep=0.5} > fixedpoint{bits=6}"\n'
    )
    recipe, given = Recipe.open(str(tmp_path / "own.toml")), (tmp_path / "small.onnx", tmp_path / "x.npy")
    done = onnxopt.optimize(given[0], tmp_path / "out", None, given[1], recipe=recipe, tune="20epochs")
    assert {"fc1@u", "fc1@v", "fc2", "b2"} <= done.values.keys()
    assert str(done.plan.steps["fc2"]) == "prune{keep=0.5} > tuned > fixedpoint{bits=6}"
    kept = {tensor.name: onnx.numpy_helper.to_array(tensor)
            for tensor in onnxopt.decompress(tmp_path / "out").graph.initializer}["fc2"]  # fmt: skip
    assert np.count_nonzero(kept) <= kept.size // 2 + 1
    assert len(np.unique(kept)) < 2**6
    onnxopt.apply(given[0], done.plan, tmp_path / "applied", given[1], done.values)
    assert (tmp_path / "applied").read_bytes() == (tmp_path / "out").read_bytes()


PRUNE = """
title = "a"
tune = ["prune"]
[[rule]]
op = ["Gemm", "MatMul"]
axes = 2
step = "prune{keep=0.3}"
"""


def test_a_recipe_that_misses_untrained_is_trained(small: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(PRUNE)
    recipe, out = Recipe.open(str(tmp_path / "own.toml")), tmp_path / "out"
    before = onnxopt.optimize(small[0], out, Contract(), small[1], recipe=recipe).check
    assert before
    out.unlink()
    contract = Contract(error=0.9 * (before.found.error or 0))
    with pytest.raises(onnxopt.Missed):
        onnxopt.optimize(small[0], out, Contract(error=1e-3), small[1], recipe=recipe, tune="1epochs")
    assert not out.exists()
    assert onnxopt.optimize(small[0], out, contract, small[1], recipe=recipe, tune="30epochs").met


def test_compare_shows_recipes_with_and_without(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(PRUNE)
    onnx.save(mlp(16), tmp_path / "small.onnx")
    np.save(tmp_path / "x.npy", weights(64, 16, seed=5))
    recipes = [Recipe.open(str(tmp_path / "own.toml")), Recipe.open("microbrain-lowrank")]
    contract = Contract(target_ratio=2)
    found = compare(tmp_path / "small.onnx", recipes, contract, tmp_path / "x.npy", tune="1epochs")
    assert [one.name for one in found.systems] == ["engine", "engine, tuned", "own", "own, tuned", "microbrain-lowrank"]


def test_recipes_name_steps_to_train_after(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text('title = "a"\ntune = "prune"\n[[rule]]\nop = "Gemm"\nstep = "uniform"\n')
    with pytest.raises(OnnxoptError, match=r"own.toml: tune is 'prune', expected names of steps"):
        Recipe.open(str(tmp_path / "own.toml"))


@pytest.mark.slow  # 4 s: several trainings
def test_without_a_limit_training_goes_on_while_it_pays(small: tuple[Path, Path], tmp_path: Path) -> None:
    said: list[str] = []
    done = onnxopt.optimize(small[0], tmp_path / "out", Contract(target_ratio=12), small[1], tune="auto",
                            progress=lambda what, share: said.append(what))  # fmt: skip
    rounds = [line for line in said if line.startswith("tuning, round") and "pass" not in line and "bytes" in line]
    assert len(rounds) >= 2
    assert done.plan.values


def test_an_open_budget_doubles() -> None:
    budget = Budget(Tuning(), rounds=1)
    assert budget.next_training(100)(250) == 0.5
    budget.lengthen()
    assert budget.next_training(100)(250) == 0.25


@pytest.mark.parametrize(
    ("seconds", "updates", "rounds"), [(1, 1500, 1), (4, 1500, 1), (8, 1500, 2), (100, 1500, 4), (100, 100, 3)]
)
def test_a_round_has_two_passes_and_many_updates_where_there_is_time(seconds: float, updates: int, rounds: int) -> None:
    budget = Budget(Tuning(seconds=seconds), rounds=4)
    budget.take(budget.rounds_of(updates, pass_seconds=2))
    assert budget.rounds == rounds
    assert Budget(Tuning(epochs=6), rounds=4, stages=2).rounds == 1
