"""Recipes: published systems as data, one TOML file each in this folder, or a file of the user's.

    title = "Deep Compression"
    source = "Han, Mao & Dally 2016"
    table = "deep-compression"      # what of the result is shown as the paper does

    [knobs]                         # each from its gentlest to its strongest setting
    q = [0.3, 1.8]

    [[rule]]                        # as in files of overrides
    op = "Conv"
    axes = 2
    step = "prune{sigma=$q} > codebook{k=256}"

Weights that no rule is for stay as they are. The knobs are turned together, by one *strength*, until the contract is
met; then each in its turn goes on alone, as far as the contract lasts, and with ``layers = true`` each weight before.
Where a size is asked for they stay together, and without a contract they stand in the middle.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from math import log
from pathlib import Path
from string import Template
from typing import Any

from onnxopt.errors import OnnxoptError
from onnxopt.spec.overrides import Overrides

GENTLEST, STRONGEST = 1.0, 4096.0
"""The range of strengths: the search takes them for slopes."""
MIDDLE = float((GENTLEST * STRONGEST) ** 0.5)
_FILES = files(__name__)
STEP = STRONGEST ** (1 / 48)
"""How much stronger one that goes on alone becomes at a time: a 48th of the way from one end to the other."""
_KEYS = ("title", "source", "table", "layers", "knobs", "rule")


@dataclass(frozen=True, slots=True)
class Recipe:
    """One system."""

    name: str
    title: str
    source: str
    """The paper."""
    table: str
    """Name of the table that the paper shows; empty where none."""
    layers: bool
    """Whether settings are searched for each weight, too."""
    knobs: dict[str, tuple[float, float]]
    """The gentlest and the strongest setting of each."""
    rules: tuple[dict[str, Any], ...]
    """As in a file of overrides, with ``$knob`` for settings in steps."""

    @classmethod
    def open(cls, name: str) -> Recipe:
        """The recipe of this name, or that of a file ``*.toml``. Raises OnnxoptError where there is none."""
        try:
            text = (Path(name) if name.endswith(".toml") else _FILES / f"{name}.toml").read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise OnnxoptError(
                f"--recipe is {name!r}, expected {', '.join(names())}, or a readable .toml file"
            ) from error
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise OnnxoptError(f"recipe {name}: not TOML: {error}") from error
        unknown = [key for key in document if key not in _KEYS]
        if unknown or not isinstance(document.get("rule"), list):
            raise OnnxoptError(f"recipe {name}: {f'there is no key {unknown[0]}' if unknown else 'has no rules'}; "
                               f"a recipe has {', '.join(_KEYS)}")  # fmt: skip
        title, source, table = (str(document.get(key, "")) for key in ("title", "source", "table"))
        layers, knobs = document.get("layers", False), _knobs(document.get("knobs", {}), name)
        if not isinstance(layers, bool):
            raise OnnxoptError(f"recipe {name}: layers is {layers!r}, expected true or false")
        recipe = cls(name, title, source, table, layers, knobs, tuple(document["rule"]))
        for strength in (GENTLEST, STRONGEST):
            for rule in recipe.at(strength).rules:
                if rule.decided.keys() - {"step", "skip"}:
                    raise OnnxoptError(f"recipe {name}: {rule} decides something else than a step")
        return recipe

    def at(self, strength: float, ahead: Mapping[str, int] | None = None) -> Overrides:
        """Its rules with the knobs turned so far, some so many steps `ahead`. Raises OnnxoptError for a wrong rule."""
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
        return Overrides.of(rules, f"recipe {self.name}")

    @property
    def searched(self) -> bool:
        """Whether its strength changes anything."""
        return bool(self.knobs)


def names() -> list[str]:
    """Of the recipes that come with onnxopt."""
    return sorted(path.name.removesuffix(".toml") for path in _FILES.iterdir() if path.name.endswith(".toml"))


def _knobs(table: dict[str, Any], name: str) -> dict[str, tuple[float, float]]:
    for knob, ends in table.items():
        if not (isinstance(ends, list) and len(ends) == 2 and all(type(e) in (int, float) and e > 0 for e in ends)):
            raise OnnxoptError(f"recipe {name}: knob {knob} is {ends!r}, expected its gentlest and its strongest "
                               "setting, both above 0, as in [0.3, 1.8]")  # fmt: skip
    return {knob: (first, last) for knob, (first, last) in table.items()}


def _share(strength: float) -> float:
    """Of the way from the gentlest to the strongest."""
    return min(1.0, max(0.0, log(strength / GENTLEST) / log(STRONGEST / GENTLEST)))


def _between(gentlest: float, strongest: float, share: float) -> str:
    """A setting, in equal ratios from one end to the other; whole where both ends are."""
    value = gentlest * (strongest / gentlest) ** share
    whole = isinstance(gentlest, int) and isinstance(strongest, int)
    return str(round(value)) if whole else f"{value:.4g}"
