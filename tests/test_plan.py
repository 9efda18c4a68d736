"""Plans and steps: the text forms round-trip, and bad ones say what is wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxopt.errors import OnnxoptError
from onnxopt.spec.plan import Plan, Step

scalars = (
    st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"))
)
names = st.from_regex(r"[a-z][a-z0-9_-]{0,8}", fullmatch=True)
arguments = st.dictionaries(st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True), scalars, max_size=4)
steps = st.recursive(
    st.builds(lambda name, args: Step(name, tuple(args.items())), names, arguments),
    lambda then: st.builds(lambda name, args, then: Step(name, tuple(args.items()), then), names, arguments, then),
    max_leaves=4,
)


@given(steps)
def test_step_text_round_trips(step: Step) -> None:
    assert Step.parse(str(step)) == step


def test_steps_follow_each_other() -> None:
    step = Step.parse('prune{keep=0.1} > codebook{k=32,init="a > b}"} > zero')
    assert [str(one) for one in step] == ["prune{keep=0.1}", 'codebook{k=32,init="a > b}"}', "zero"]
    assert str(Step.parse(" > ".join(["a"] * 5000))) == " > ".join(["a"] * 5000)


@given(st.dictionaries(st.text(), steps), st.text())
@pytest.mark.slow
def test_plan_json_round_trips(decided: dict[str, Step], data: str) -> None:
    plan = Plan("ab12", decided, data)
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert list(again.steps) == list(plan.steps)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Uniform",
        "uniform{",
        "uniform{error}",
        "uniform{error=}",
        "uniform{error=x}",
        "uniform{error=[1]}",
        "a >",
        "> a",
        "a b",
    ],
)
def test_a_bad_step_is_named(text: str) -> None:
    with pytest.raises(OnnxoptError, match="step"):
        Step.parse(text)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"onnxopt_plan": 1}', '{"onnxopt_plan":1,"model_sha256":"","steps":3}']
)
def test_a_bad_plan_is_refused(text: str) -> None:
    with pytest.raises(OnnxoptError, match="not a plan"):
        Plan.from_json(text)


def test_an_unknown_plan_version_is_refused() -> None:
    with pytest.raises(OnnxoptError, match="version 7"):
        Plan.from_json('{"onnxopt_plan": 7, "model_sha256": "", "steps": {}}')


def test_stages_are_beginnings_of_the_steps() -> None:
    texts = {
        "a": "prune{keep=0.2} > codebook{k=16} > fixedpoint{bits=8}",
        "b": "prune{keep=0.5} > codebook",
        "c": "svd",
    }
    plan = Plan("ab12", {path: Step.parse(text) for path, text in texts.items()}, "data")
    found = [{path: str(step) for path, step in stage.steps.items()} for stage in plan.stages()]
    assert found == [
        {"a": "prune{keep=0.2}", "b": "prune{keep=0.5}", "c": "svd"},
        {"a": "prune{keep=0.2} > codebook{k=16}", "b": "prune{keep=0.5} > codebook", "c": "svd"},
        texts,
    ]
    assert not list(Plan("ab12").stages())


@given(st.dictionaries(st.text(), steps, min_size=1), st.text())
@pytest.mark.slow
def test_the_last_stage_is_the_plan(decided: dict[str, Step], data: str) -> None:
    plan = Plan("ab12", decided, data)
    assert list(plan.stages())[-1] == plan
