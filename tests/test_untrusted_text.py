"""Plans, results, rules and recipes from strangers: they are read, or refused in one sentence, and nothing else."""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from builders import mlp
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import onnxopt
from onnxopt import OnnxoptError
from onnxopt.report import html
from onnxopt.report.json import plain
from onnxopt.spec.overrides import Overrides
from onnxopt.spec.plan import Plan, Step
from onnxopt.spec.recipes import Recipe

DEEP = 100_000
"""Brackets in each other: more than any parser follows."""
DIGITS = 5000
"""Of a number: more than Python converts."""
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -(2**63), 0])
    | st.floats()
    | st.text(st.characters(codec="utf-8"), max_size=12)
    | st.sampled_from(["", "uniform{error=0.1}", "feedback{slope=1e-08}", "svd{rank=4} > zero", "\n", "\0", "$x", "${"])
)
junk = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)
quick = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def accepted(read: Callable[..., object], *given: Any) -> bool:
    """Whether it reads this. A refusal is one sentence in one line; any other exception fails the test."""
    try:
        read(*given)
    except OnnxoptError as error:
        assert len(str(error).splitlines()) == 1, str(error)
        return False
    return True


def places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Every container of a document, with each of its keys or indices."""
    items = list(document.items() if isinstance(document, dict) else enumerate(document))
    for key, value in items:
        yield document, key
        if isinstance(value, dict | list):
            yield from places(value)


def damaged(draw: st.DrawFn, document: Any) -> Any:
    """A copy of a document with one to three values replaced or left out."""
    copy = json.loads(json.dumps(document))
    for _ in range(draw(st.integers(1, 3))):
        holder, key = draw(st.sampled_from(list(places(copy)) or [(copy, None)]))
        if key is None or draw(st.booleans()):
            holder.pop(key, None) if isinstance(holder, dict) else holder.clear()
        else:
            holder[key] = draw(junk)
    return copy


def toml(value: Any) -> str:
    """A value as TOML has it, or nearly so."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    return json.dumps(value)


# ---- steps and plans -------------------------------------------------------------------------------------------------


@quick
@given(st.text() | st.text(string.printable) | st.text('abkz{}=,>"0123456789.e- \n'))
@example("a{k=" + "9" * DIGITS + "}")
@example("a{k=[" * DEEP)
@example("a{k=" + "[" * DEEP)
@example('a{k="\\ud800"}')
@example("a > " * 50)
def test_any_text_is_a_step_or_refused(text: str) -> None:
    accepted(Step.parse, text)


@quick
@given(st.text() | junk.map(json.dumps))
@example("[" * DEEP)
@example('{"a":' * DEEP)
@example("9" * DIGITS)
@example('{"onnxopt_plan": 1, "model_sha256": "a", "steps": {"w": ' + "9" * DIGITS + "}}")
@example('{"onnxopt_plan": 1, "model_sha256": "a", "steps": {"\\ud800": "zero"}}')
@example("NaN")
@example("\ufeff{}")
def test_any_text_is_a_plan_or_refused(text: str) -> None:
    accepted(Plan.from_json, text)


@st.composite
def damaged_plans(draw: st.DrawFn) -> str:
    plan = Plan("0" * 64, {"w": Step.parse("feedback{slope=2e-08}"), "x@u": Step.parse("zero")}, "digest")
    text = json.dumps(damaged(draw, json.loads(plan.to_json())))
    return text[: draw(st.integers(0, len(text)))] if draw(st.integers(0, 3)) == 0 else text


@quick
@given(damaged_plans())
def test_a_damaged_plan_is_read_or_refused(text: str) -> None:
    accepted(Plan.from_json, text)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "mlp.onnx"
    onnx.save(mlp(), path)
    return path


ARGUMENTS = ("slope=1e-6", "slope=-1", "slope=1e400", "slope=\"a\"", "bits=0", "bits=99", "bits=2.5", "k=0", "k=1e9",
             "rank=0", "rank=100000", "keep=2", "error=true", "error=1e-300", "block=7", "rank=[1]")  # fmt: skip
PASSES = (
    "feedback",
    "uniform",
    "prune",
    "codebook",
    "fixedpoint",
    "nbits",
    "svd",
    "zero",
    "outputs",
    "qdq",
    "integers",
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(PASSES), st.lists(st.sampled_from(ARGUMENTS), max_size=2)), min_size=1,
                max_size=2), st.integers(0, 9))  # fmt: skip
def test_a_plan_with_any_step_is_carried_out_or_refused(
    model: Path, chosen: list[tuple[str, list[str]]], which: int
) -> None:
    text = " > ".join(f"{name}{{{','.join(args)}}}" if args else name for name, args in chosen)
    if not accepted(Step.parse, text):
        return
    paths = [tensor.name for tensor in onnx.load(model).graph.initializer]
    source = onnxopt.plan(model, lossless=True)
    plan = Plan(source.model_sha256, {paths[which % len(paths)]: Step.parse(text)})
    accepted(onnxopt.apply, model, plan, model.with_name("out.onnx"))


def test_a_factorisation_comes_first(model: Path) -> None:
    plan = Plan(onnxopt.plan(model, lossless=True).model_sha256, {"fc1": Step.parse("codebook{k=4} > svd{rank=2}")})
    with pytest.raises(OnnxoptError, match="svd stands after codebook; it makes other layers, so it has to come first"):
        onnxopt.apply(model, plan, model.with_name("out.onnx"))


# ---- rules and recipes -----------------------------------------------------------------------------------------------

KEYS = ("match", "op", "axes", "nth", "skip", "lossless", "max_bits", "error", "step", "other")


@st.composite
def rules(draw: st.DrawFn) -> str:
    tables = draw(st.lists(st.dictionaries(st.sampled_from(KEYS), junk, max_size=4), max_size=3))
    return "\n".join("[[rule]]\n" + "\n".join(f"{k} = {toml(v)}" for k, v in table.items()) for table in tables)


@quick
@given(st.text() | rules())
@example("a = " + "[" * DEEP)
@example("a = " + "9" * DIGITS)
@example("[[rule]]\nmatch = '*'\nmax_bits = " + "9" * DIGITS)
@example("[[rule]]\nmatch = '*'\nstep = 'a{k=" + "9" * DIGITS + "}'")
@example("rule = 3")
@example("[[rule]]\nop = [['Conv']]\nskip = true")
@example("a = 9999-99-99")
def test_any_text_is_rules_or_refused(text: str) -> None:
    accepted(Overrides.parse, text)


@pytest.mark.parametrize(
    "text",
    [
        "rule = 3",
        "rule = [3]",
        "rule = []\nknobs = 3",
        "rule = []\nknobs = [3]",
        "[knobs]\na = [1, 1e400]\n[[rule]]\nmatch = '*'\nstep = 'a{k=$a}'",
        "[knobs]\na = [1, nan]\n[[rule]]\nmatch = '*'\nstep = 'a{k=$a}'",
        "[knobs]\na = [1, 1" + "0" * 400 + "]\n[[rule]]\nmatch = '*'\nstep = 'a{k=$a}'",
        "[knobs]\na = [1, 2]\n[[rule]]\nmatch = '*'\nstep = 'a{k=$b}'",
        "[knobs]\na = [1, 2]\n[[rule]]\nmatch = '*'\nstep = 'a{k=$'",
        "[[rule]]\nmatch = '*'\nstep = 3",
        "a = " + "[" * DEEP,
        "a = " + "9" * DIGITS,
        "\ufeff",
        "title = [1]",
        "layers = 1\nrule = []",
    ],
)
def test_a_wrong_recipe_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(text, encoding="utf-8")
    assert not accepted(Recipe.open, str(tmp_path / "r.toml"))


@pytest.mark.parametrize("content", [b"\xff\xfe", b"\x80", b"[[rule]]\nmatch = '\xff'"])
def test_bytes_that_are_no_text_are_refused(content: bytes, tmp_path: Path) -> None:
    for name, read in (("r.toml", lambda p: Recipe.open(str(p))), ("o.toml", Overrides.read), ("r.json", html.read)):
        (tmp_path / name).write_bytes(content)
        assert not accepted(read, tmp_path / name)


# ---- results ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def result(model: Path) -> dict[str, Any]:
    found = onnxopt.optimize(model, model.with_name("small.onnx"))
    return dict(json.loads(json.dumps(plain(found))))


@quick
@given(text=st.text() | junk.map(json.dumps))
@example(text="[" * DEEP)
@example(text="9" * DIGITS)
@example(text='{"kind": "optimize", "schema": {}}')
@example(text='{"kind": ["optimize"]}')
def test_any_text_is_a_result_or_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    accepted(html.read, tmp_path / "r.json")


def replaced(document: Any, number: int, value: Any) -> Any:
    """A copy of a document whose place of this number has another value."""
    copy = json.loads(json.dumps(document))
    holder, key = list(places(copy))[number]
    holder[key] = value
    return copy


WRONG = (None, "x", -1, 10**400, float("nan"), [], {}, [[]], {"x": 1}, True)


@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0), st.sampled_from(WRONG))
@pytest.mark.slow
def test_a_damaged_result_is_shown_or_refused(result: dict[str, Any], number: int, value: Any) -> None:
    accepted(html.render, replaced(result, number % len(list(places(result))), value))


@pytest.mark.slow
def test_a_result_with_any_value_replaced_is_shown_or_refused(result: dict[str, Any]) -> None:
    for number in range(0, len(list(places(result))), 27):
        accepted(html.render, replaced(result, number, WRONG[number % len(WRONG)]))
