from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from onnxopt.errors import OnnxoptError
from onnxopt.spec.overrides import Override, Overrides
from onnxopt.spec.plan import Step

RULES = """
[[rule]]
match = "layer4.*"
max_bits = 4

[[rule]]
op = "Gemm"
error = 0.01

[[rule]]
match = "*.bias"
op = "Gemm"
skip = true

[[rule]]
match = "layer4.1.*"
max_bits = 3
"""


@dataclass(frozen=True, slots=True)
class Weight:
    path: str
    op: str
    shape: tuple[int, ...] = (8, 8)


def decided(text: str, *weights: Weight) -> list[Override]:
    return list(Overrides.parse(text).decided(weights).values())


@pytest.mark.parametrize(
    ("path", "op", "expected"),
    [
        ("layer1.0.weight", "Conv", Override()),
        ("layer4.0.weight", "Conv", Override(max_bits=4)),
        ("layer4.1.conv/weight", "Conv", Override(max_bits=3)),
        ("layer4.0.weight", "Gemm", Override(max_bits=4, error=0.01)),
        ("fc.bias", "Gemm", Override(skip=True, error=0.01)),
        ("fc.bias", "Conv", Override()),
        ("LAYER4.0.weight", "Conv", Override()),
    ],
)
def test_later_rules_win_and_both_conditions_hold(path: str, op: str, expected: Override) -> None:
    assert decided(RULES, Weight(path, op)) == [expected]


def test_a_later_rule_takes_a_skip_back() -> None:
    text = '[[rule]]\nop = "Conv"\nlossless = true\n[[rule]]\nmatch = "a"\nskip = false\n'
    assert decided(text, Weight("a", "Conv"), Weight("b", "Conv")) == [Override(), Override(skip=True)]


def test_conditions_on_types_axes_and_order() -> None:
    weights = [
        Weight("a", "Conv"),
        Weight("a.bias", "Conv", (8,)),
        Weight("b", "Gemm"),
        Weight("c", "MatMul"),
        Weight("d", "Conv"),
    ]
    rule = "[[rule]]\nmax_bits = 3\n"

    def paths(conditions: str) -> list[str]:
        found = Overrides.parse(rule + conditions).decided(weights)
        return [path for path, override in found.items() if override.max_bits]

    assert paths('op = ["Gemm", "MatMul"]') == ["b", "c"]
    assert paths('op = "Conv"\naxes = 2') == ["a", "d"]
    assert paths('op = "Conv"\naxes = 2\nnth = 2') == ["d"]
    assert paths("nth = 1") == ["a"]
    assert paths('op = "Gemm"\nnth = 2') == []


def test_rules_may_be_taken_without_some_steps() -> None:
    """With these goes what they say of `skip`; what else their rules say stays."""
    rules = Overrides.parse(
        '[[rule]]\nmatch = "*"\nskip = true\n'
        '[[rule]]\nop = "Gemm"\nskip = false\nstep = "svd"\nmax_bits = 4\n'
        '[[rule]]\nmatch = "b"\nskip = false\nstep = "prune{keep=0.5}"\n'
    )
    weights = [Weight("a", "Gemm"), Weight("b", "Conv")]
    prune = Override(step=Step.parse("prune{keep=0.5}"))
    assert rules.decided(weights) == {"a": Override(max_bits=4, step=Step("svd")), "b": prune}
    assert rules.without(["svd", "tucker"]).decided(weights) == {"a": Override(skip=True, max_bits=4), "b": prune}


def test_rules_for_no_weight_are_told() -> None:
    weights = [Weight("layer4.0.weight", "Conv"), Weight("fc.weight", "Gemm")]
    assert list(map(str, Overrides.parse(RULES).unmatched(weights))) == [
        'rule 3 (match = "*.bias", op = "Gemm")',
        'rule 4 (match = "layer4.1.*")',
    ]


def test_no_rules_decide_nothing() -> None:
    assert decided("", Weight("any", "Conv")) == [Override()]
    assert not Overrides.parse("").unmatched([])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[rule]", "not TOML"),
        ('[rule]\nmatch = "a"\nskip = true', r"\[\[rule\]\]"),
        ("bits = 3", "found bits"),
        ("rule = [3]", r"\[\[rule\]\]"),
        ('[[rule]]\nmatch = "a"\nbits = 3', "rule 1: there is no key bits; a rule has match, op"),
        ("[[rule]]\nmatch = 3\nskip = true", "match is 3, expected a pattern"),
        ('[[rule]]\nop = "Conv"\nskip = 1', "skip is 1, expected true or false"),
        ('[[rule]]\nop = "Conv"\nmax_bits = 1', "max_bits is 1, expected a whole number from 2 to 16"),
        ('[[rule]]\nop = "Conv"\nmax_bits = true', "max_bits is True"),
        ('[[rule]]\nop = "Conv"\nerror = 0', "error is 0, expected a number above 0"),
        ('[[rule]]\nop = "Conv"\nerror = nan', "error is nan"),
        ('[[rule]]\nop = ["Conv", 3]\nskip = true', "expected a node type"),
        ("[[rule]]\nnth = 0\nskip = true", "nth is 0, expected a whole number above 0"),
        ("[[rule]]\nskip = true", "which weights"),
        ('[[rule]]\nop = "Conv"', "decides nothing"),
        ('[[rule]]\nop = "Conv"\nskip = true\nmax_bits = 3', "contradicts"),
    ],
)
def test_a_wrong_rule_is_one_sentence(text: str, message: str) -> None:
    with pytest.raises(OnnxoptError, match=f"^mine.toml: .*{message}") as caught:
        Overrides.parse(text, "mine.toml")
    assert "\n" not in str(caught.value)


def test_read_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "rules.toml"
    with pytest.raises(OnnxoptError, match=r"rules.toml: cannot be read"):
        Overrides.read(file)
    file.write_text(RULES)
    assert Overrides.read(file) == Overrides.parse(RULES)
    file.write_bytes(b"\xff")
    with pytest.raises(OnnxoptError, match=r"rules.toml: cannot be read"):
        Overrides.read(file)
