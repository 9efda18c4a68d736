"""Recipes are data: they are read, turned and validated, and each built-in one compresses a model that runs."""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from classical import needs_data

import onnxopt
import train_digits
from common import realdata
from onnxopt import Contract, Missed, OnnxoptError
from onnxopt.graph import weight_macs
from onnxopt.spec import recipes
from onnxopt.spec.overrides import Overrides
from onnxopt.spec.plan import Step
from onnxopt.spec.promise import Promise
from onnxopt.spec.recipes import GENTLEST, MIDDLE, STRONGEST, Recipe

DIGITS = Path(__file__).resolve().parents[1] / "models" / "digits.onnx"
RULE = '[[rule]]\nop = "Gemm"\naxes = 2\n'
KNOBS = "[knobs]\nq = [0.25, 4.0]\nk = [64, 4]\n"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(f'title = "Mine"\n{KNOBS}{RULE}step = "prune{{sigma=$q}} > codebook{{k=$k}}"')
    return path


@pytest.mark.parametrize(
    ("strength", "q", "k"), [(GENTLEST, 0.25, 64), (MIDDLE, 1, 16), (STRONGEST, 4, 4), (1e9, 4, 4)]
)
def test_knobs_turn_together(recipe: Path, strength: float, q: float, k: int) -> None:
    _, rule = Recipe.open(str(recipe)).at(strength).rules
    steps = [dict(step.args) for step in rule.decided["step"]]
    assert steps == [{"sigma": q}, {"k": k}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rule = ", "not TOML"),
        (KNOBS, "has no rules"),
        (f"colour = 3\n{RULE}skip = true", "there is no key colour"),
        (f'[knobs]\nq = 3\n{RULE}step = "prune{{sigma=$q}}"', "knob q is 3, expected its gentlest and its strongest"),
        (f'{KNOBS}{RULE}step = "prune{{sigma=$p}}"', "there is no knob 'p'"),
        (f'{KNOBS}{RULE}step = "prune{{"', "rule 1: not a step"),
        (f"{KNOBS}{RULE}max_bits = 3", "decides something other than a step"),
    ],
)
def test_a_wrong_recipe_is_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(OnnxoptError, match=message) as caught:
        Recipe.open(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("step", "message"),
    [("prnue{keep=0.5}", "no pass is called 'prnue'.*prune"), ("prune{kept=0.5}", "prune takes .*, not kept")],
)
def test_a_step_that_is_none_is_refused_before_any_work(tmp_path: Path, step: str, message: str) -> None:
    """Not even the model is read, which does not exist."""
    path = tmp_path / "mine.toml"
    path.write_text(f"{RULE}skip = true\n{RULE}step = '{step}'")
    for whose, given in (("", {"overrides": Overrides.read(path)}),
                         (f"recipe {path}: ", {"recipe": Recipe.open(str(path))})):  # fmt: skip
        with pytest.raises(OnnxoptError, match=rf'^{whose}rule 2 \(op = "Gemm", axes = 2\): .*{message}'):
            onnxopt.optimize(tmp_path / "nothing.onnx", **given)


def test_an_unknown_name_is_told_the_known_ones() -> None:
    with pytest.raises(OnnxoptError, match=r"expected .*deep-compression"):
        Recipe.open("deeper-compression")


@pytest.mark.slow
def test_the_search_turns_the_knobs(recipe: Path, tmp_path: Path) -> None:
    gentle, strong = (
        onnxopt.optimize(DIGITS, tmp_path / "small.onnx", Contract(error=error), recipe=Recipe.open(str(recipe)))
        for error in (0.1, 0.4)
    )
    for result, error in ((gentle, 0.1), (strong, 0.4)):
        assert result.recipe == str(recipe)
        assert result.kept is not None
        assert result.kept.error is not None
        assert result.kept.error <= error
    assert strong.bytes_after < gentle.bytes_after


def test_without_a_bound_nothing_is_searched(recipe: Path, tmp_path: Path) -> None:
    result = onnxopt.optimize(DIGITS, tmp_path / "small.onnx", recipe=Recipe.open(str(recipe)))
    assert [trial.slope for trial in result.trials] == [MIDDLE]
    assert result.met


@pytest.mark.slow
def test_what_no_setting_reaches_is_missed(recipe: Path, tmp_path: Path) -> None:
    for contract in (Contract(error=1e-6), Contract(target_ratio=1000)):
        with pytest.raises(Missed):
            onnxopt.optimize(DIGITS, tmp_path / "small.onnx", contract, recipe=Recipe.open(str(recipe)))
        assert not (tmp_path / "small.onnx").exists()


def test_lossless_contradicts(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(OnnxoptError, match="--lossless and --recipe contradict"):
        onnxopt.optimize(DIGITS, tmp_path / "small.onnx", lossless=True, recipe=Recipe.open(str(recipe)))


@pytest.mark.parametrize("name", recipes.names())
@pytest.mark.slow
def test_every_recipe_gives_a_model_that_runs(name: str, tmp_path: Path) -> None:
    """In stock ONNX Runtime, from its compressed file, after registering the library; and as `load` has it."""
    output, plain = tmp_path / "small.onnx", tmp_path / "plain.onnx"
    result = onnxopt.optimize(DIGITS, output, recipe=Recipe.open(name))
    assert any(event.step != "lossless" for event in result.events)
    onnxopt.decompress(output, plain)
    options = onnxruntime.SessionOptions()
    onnxopt.register(options)
    sessions = (onnxruntime.InferenceSession(str(output), options), onnxopt.load(output))
    decompressed = onnxruntime.InferenceSession(str(plain))
    entry = decompressed.get_inputs()[0]
    shape = [3 if not isinstance(n, int) else n for n in entry.shape]
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    (wanted,) = decompressed.run(None, {entry.name: x})
    for session in sessions:
        np.testing.assert_array_equal(session.run(None, {entry.name: x})[0], wanted)


LOOSE = '[[rule]]\nop = "Gemm"\nstep = "svd{tolerance=0.05}"'


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("tucker-vbmf", {"conv2.weight": "tucker", "dense1.weight": "tucker"}),
        (LOOSE, {"dense1.weight": "svd"}),  # at MicroBrain's own tolerance no rank of this small model pays
    ],
    ids=["tucker-vbmf", "loose"],
)
@pytest.mark.slow
def test_chains_by_a_recipe_are_not_quantized(name: str, layers: dict[str, str], tmp_path: Path) -> None:
    if name == LOOSE:
        (tmp_path / "loose.toml").write_text(f'title = "Loose"\n{LOOSE}')
        name = str(tmp_path / "loose.toml")
    output, plain = tmp_path / "small.onnx", tmp_path / "plain.onnx"
    result = onnxopt.optimize(DIGITS, output, recipe=Recipe.open(name))
    assert {chain.path: Step.parse(chain.step).name for chain in result.chains} == layers
    steps = {str(result.plan.steps[chain.path]) for chain in result.chains}
    assert steps == {chain.step for chain in result.chains}
    assert len(result.plan.steps) == len(layers)
    assert {event.step for event in result.events if event.elements} == {"lossless"}
    made = onnxopt.decompress(output, plain)
    x = np.zeros((1, *(d.dim_value for d in made.graph.input[0].type.tensor_type.shape.dim[1:])), np.float32)
    feeds = {made.graph.input[0].name: x}
    before, after = weight_macs(onnx.load(DIGITS), feeds), weight_macs(made, feeds)
    for chain in result.chains:
        assert chain.macs_before == before[chain.path]
        assert chain.macs_after == sum(after[part] for part in chain.parts)
        shapes = {t.name: tuple(t.dims) for t in made.graph.initializer}
        assert chain.weights_after == sum(prod(shapes[part]) for part in chain.parts) < chain.weights_before
        assert chain.less_work == chain.macs_before / chain.macs_after
        assert all(event.ranks == chain.ranks for event in result.events if event.path in chain.parts)


@pytest.mark.slow
def test_factors_take_the_step_that_another_rule_has(recipe: Path, tmp_path: Path) -> None:
    quantizing = recipe.read_text()
    recipe.write_text(f'{quantizing}\n{RULE}step = "svd{{rank=8}}"\n')
    result = onnxopt.optimize(DIGITS, tmp_path / "small.onnx", recipe=Recipe.open(str(recipe)))
    step = Recipe.open(str(recipe)).at(MIDDLE).rules[1].decided["step"]
    assert result.plan.steps == {
        **{path: Step.parse("svd{rank=8}") for path in ("dense1.weight", "dense2.weight")},
        **{f"{path}@{part}": step for path in ("dense1.weight", "dense2.weight") for part in "vu"},
    }


ALONE = "layers = true\n[knobs]\nq = [0.1, 4.0]\nbits = [12, 4]\nout = [12, 4]\n"


@pytest.fixture
def widths(tmp_path: Path) -> Recipe:
    path = tmp_path / "widths.toml"
    steps = "prune{sigma=$q} > fixedpoint{bits=$bits} > outputs{bits=$out}"
    path.write_text(f'{ALONE}{RULE}step = "{steps}"')
    return Recipe.open(str(path))


def test_one_knob_goes_on_alone(widths: Recipe) -> None:
    together, ahead = (dict(widths.at(MIDDLE, one).rules[1].decided["step"].then.args) for one in ({}, {"bits": 24}))
    assert (together["bits"], ahead["bits"]) == (7, 4)
    assert (
        widths.at(MIDDLE, {"bits": 24}).rules[1].decided["step"].args == widths.at(MIDDLE).rules[1].decided["step"].args
    )


@pytest.mark.slow
def test_widths_are_searched_apart_and_for_each_weight(widths: Recipe, tmp_path: Path) -> None:
    """From where all together can go no further: smaller, and still inside the contract."""
    images, labels, _, _ = train_digits.split()
    np.savez(tmp_path / "train.npz", input=images, labels=labels)
    contract, data, promise = Contract(max_drop=2), tmp_path / "train.npz", Promise(2, Contract().confidence)
    result = onnxopt.optimize(DIGITS, tmp_path / "small.onnx", contract, data, recipe=widths, allow_miss=True)
    assert result.kept is not None
    kept = [trial for trial in result.trials if promise.safe(trial)]
    together = next(trial for trial in kept if trial.slope == result.kept.slope)
    assert promise.safe(result.kept)
    assert result.kept.size < together.size
    again = onnxopt.optimize(DIGITS, tmp_path / "again.onnx", contract, data, recipe=widths, allow_miss=True)
    assert again.plan == result.plan


@needs_data
@pytest.mark.slow
def test_lenet5_without_training(tmp_path: Path) -> None:
    """Deep Compression's, on the whole test part; docs/classical.md has more."""
    small, task, source = tmp_path / "small.onnx", realdata.TASKS["lenet5"], realdata.path_of("lenet5")
    data, few = task.batches("train", 16_000, labelled=True), task.batches("train", 32, labelled=True)
    result = onnxopt.optimize(source, small, Contract(target_ratio=20), data, evaluation=few,
                              recipe=Recipe.open("deep-compression"), allow_miss=True)  # fmt: skip
    before, after = (realdata.evaluate("lenet5", session).metric for session in
                     (realdata.plain_session(source), realdata.registered_session(small)))  # fmt: skip
    assert result.bytes_before / result.bytes_after >= 20
    assert before - after <= 0.3
