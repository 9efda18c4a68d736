"""Recipes: published systems as data. A TOML file in this folder is found by being there; users may have their own.

    title = "Deep Compression"
    source = "Han, Mao & Dally 2016"
    table = "deep-compression"      # the paper's table, which the report shows
    tune = ["prune", "prune", "codebook"]  # with --tune, weights are trained after these steps

    [knobs]                         # each from its gentlest to its strongest setting
    q = [0.3, 1.8]

    [[rule]]                        # as in files of overrides
    op = "Conv"
    axes = 2
    step = "prune{sigma=$q} > codebook{k=256}"

A step that `tune` names twice is taken twice then: with its knobs some steps back, and as it is.

Weights that no rule matches stay as they are. One *strength* turns all knobs together until the contract is met. Then
each weight (with ``layers = true``) and each knob is turned further alone, in turn, as far as the contract allows.
Where the contract bounds the size they stay together; without a contract they are in the middle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from math import log
from pathlib import Path
from string import Template
from typing import Any

from onnxopt.errors import OnnxoptError, meant
from onnxopt.files import reading
from onnxopt.spec.documents import parse_toml
from onnxopt.spec.overrides import Overrides

_MOST = 1e100
"""The largest setting of a knob: products of larger ones are no numbers."""
GENTLEST, STRONGEST = 1.0, 4096.0
"""The range of strengths, which the search treats as slopes."""
MIDDLE = float((GENTLEST * STRONGEST) ** 0.5)
_FILES = files(__name__)
STEP = STRONGEST ** (1 / 48)
"""Factor of one step of a knob that is turned alone: a 48th of the range, on a logarithmic scale."""
_KEYS = ("title", "source", "table", "layers", "tune", "knobs", "rule")


@dataclass(frozen=True, slots=True)
class Recipe:
    """One system."""

    name: str
    title: str
    source: str
    """The paper."""
    table: str
    """Name of the paper's table; empty where there is none."""
    layers: bool
    """Whether settings are also searched for each weight."""
    tune: tuple[str, ...]
    """Names of the steps after which weights are trained, if the user wants them tuned."""
    knobs: dict[str, tuple[float, float]]
    """The gentlest and the strongest setting of each."""
    rules: tuple[dict[str, Any], ...]
    """As in a file of overrides, with ``$knob`` for settings in steps."""

    @classmethod
    def open(cls, name: str) -> Recipe:
        """The recipe of this name, or of a file ``*.toml``. Raises OnnxoptError where there is none, or it is wrong."""
        try:
            if name.endswith(".toml") and Path(name).is_file():
                reading([Path(name)])
            text = (Path(name) if name.endswith(".toml") else _FILES / f"{name}.toml").read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise OnnxoptError(
                f"--recipe is {name!r}, expected {', '.join(names())}, or a readable .toml file{meant(name, names())}"
            ) from error
        try:
            document = parse_toml(text)
        except ValueError as error:
            raise OnnxoptError(f"recipe {name}: not TOML: {error}") from error
        unknown = [key for key in document if key not in _KEYS]
        rules = document.get("rule")
        if unknown or not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
            raise OnnxoptError(f"recipe {name}: {f'there is no key {unknown[0]}' if unknown else 'has no rules'}; "
                               f"a recipe has {', '.join(_KEYS)}")  # fmt: skip
        title, source, table = (str(document.get(key, "")) for key in ("title", "source", "table"))
        layers, knobs = document.get("layers", False), _knobs(document.get("knobs", {}), name)
        if not isinstance(layers, bool):
            raise OnnxoptError(f"recipe {name}: layers is {layers!r}, expected true or false")
        tune = document.get("tune", [])
        if not isinstance(tune, list) or not all(isinstance(step, str) for step in tune):
            raise OnnxoptError(f'recipe {name}: tune is {tune!r}, expected names of steps, as in ["prune", "codebook"]')
        recipe = cls(name, title, source, table, layers, tuple(tune), knobs, tuple(rules))
        for strength in (GENTLEST, STRONGEST):
            for rule in recipe.at(strength).rules:
                if rule.decided.keys() - {"step", "skip"}:
                    raise OnnxoptError(f"recipe {name}: {rule} decides something other than a step")
        return recipe

    def at(self, strength: float, ahead: Mapping[str, int] | None = None) -> Overrides:
        """Its rules at this strength, with some knobs so many steps `ahead`. Raises OnnxoptError for a wrong rule."""
        settings = {
            knob: _between(*ends, _share(strength * STEP ** (ahead or {}).get(knob, 0)))
            for knob, ends in self.knobs.items()
        }
        rules = [{"match": "*", "skip": True}, *({"skip": False, **rule} for rule in self.rules)]
        try:
            rules = [
                {key: Template(value).substitute(settings) if key == "step" else value for key, value in rule.items()}
                for rule in rules
            ]
        except (KeyError, ValueError, TypeError) as error:
            raise OnnxoptError(
                f"recipe {self.name}: there is no knob {error}; a step has $ and a knob's name"
            ) from error
        return Overrides.of(rules, f"recipe {self.name}", first=0)

    @property
    def searched(self) -> bool:
        """Whether its strength changes anything."""
        return bool(self.knobs)


def names() -> list[str]:
    """Names of the recipes that come with onnxopt."""
    return sorted(path.name.removesuffix(".toml") for path in _FILES.iterdir() if path.name.endswith(".toml"))


def _knobs(table: Any, name: str) -> dict[str, tuple[float, float]]:
    if not isinstance(table, dict):
        raise OnnxoptError(f"recipe {name}: knobs is {table!r}, expected a line [knobs] and one line for each knob")
    for knob, ends in table.items():
        numbers = isinstance(ends, list) and all(type(end) in (int, float) and 0 < end <= _MOST for end in ends)
        if not (numbers and len(ends) == 2):
            raise OnnxoptError(f"recipe {name}: knob {knob} is {ends!r}, expected its gentlest and its strongest "
                               f"setting, both above 0 and at most {_MOST:g}, as in [0.3, 1.8]")  # fmt: skip
    return {knob: (first, last) for knob, (first, last) in table.items()}


def _share(strength: float) -> float:
    """Position between the gentlest and the strongest, 0 to 1, on a logarithmic scale."""
    return min(1.0, max(0.0, log(strength / GENTLEST) / log(STRONGEST / GENTLEST)))


def _between(gentlest: float, strongest: float, share: float) -> str:
    """A setting, on a logarithmic scale from one end to the other; an integer where both ends are."""
    value = gentlest * (strongest / gentlest) ** share
    whole = isinstance(gentlest, int) and isinstance(strongest, int)
    return str(round(value)) if whole else f"{value:.4g}"
