"""The user's request as one value. `optimize`, `plan` and the command line create it; everything else reads it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypedDict

from onnxopt.data import Spec
from onnxopt.errors import OnnxoptError, meant
from onnxopt.measure.clock import Clock, OrtClock
from onnxopt.passes import passes_of
from onnxopt.pool import Pool, Threads
from onnxopt.spec.augment import Augment
from onnxopt.spec.augment import parse as parse_augment
from onnxopt.spec.contract import Contract
from onnxopt.spec.effort import Effort
from onnxopt.spec.goal import Goal
from onnxopt.spec.overrides import Overrides
from onnxopt.spec.progress import Progress
from onnxopt.spec.recipes import GENTLEST, STRONGEST, Recipe
from onnxopt.spec.target import Target
from onnxopt.spec.tuning import Tuning

MAX_RAM = 2**29
"""Default memory limit for statistics, in bytes."""
_ACTIVATIONS = (8, 16)
_BOUNDS = tuple(one.name for one in fields(Contract))


def _quiet(what: str, share: float) -> None:
    """Ignores progress."""


class BuildOptions(TypedDict, total=False):
    """Fields of `Request` that `apply` accepts as keywords."""

    decode: str
    max_ram: int
    progress: Progress | None
    custom_ops: Sequence[str | os.PathLike[str]]


class Bounds(TypedDict, total=False):
    """Fields of `Contract` as keywords, instead of a contract."""

    max_drop: float | None
    target_size: int | None
    target_ratio: float | None
    error: float | None
    metric: str
    confidence: float


class Options(BuildOptions, Bounds, total=False):
    """What `optimize` and `plan` accept as keywords: fields of `Contract` and of `Request`."""

    evaluation: Spec | None
    lossless: bool
    overrides: Overrides
    allow_miss: bool
    recipe: Recipe | None
    effort: str
    goal: str | None
    activations: int | None
    device: str | None
    stamp: str
    clock: Clock
    pool: Pool
    tune: Tuning | str | None
    augment: Sequence[Augment] | str | None
    tune_labels: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Everything that determines what `optimize` does with a model."""

    contract: Contract = field(default_factory=Contract)
    """The bounds to meet; without any, the default bound on the noise in the outputs applies."""
    data: Spec | None = None
    """Inputs similar to those in use: 75 % for calibration, 25 % for noise, all for a metric. By default, synthetic
    inputs."""
    evaluation: Spec | None = None
    """Data for the final check of the file; by default, that of the search."""
    lossless: bool = False
    """Keep every weight bit for bit, without a contract."""
    overrides: Overrides = field(default_factory=Overrides)
    """The user's rules for single weights."""
    allow_miss: bool = False
    """Write the closest file if the contract cannot be met."""
    decode: str = "balanced"
    """What codec selection favours: "smallest" file, "balanced", or "fastest" to decode."""
    max_ram: int = MAX_RAM
    """Memory limit for statistics, and for the activations of an update of `tune`, in bytes."""
    progress: Progress = _quiet
    """Progress callback."""
    custom_ops: Sequence[str | os.PathLike[str]] = ()
    """Libraries of custom operators, to register with every session besides our own."""
    recipe: Recipe | None = None
    """A published system whose rules replace the engine's decisions."""
    effort: str = Effort.DEFAULT
    """An `Effort`: what is spent on statistics and on the search."""
    goal: str | None = None
    """A `Goal`: which strategies may change the form of layers, and what they have to save."""
    activations: int | None = None
    """8 or 16: run every supported layer in INT8, with activations of this many bits."""
    device: str | None = None
    """The device whose INT8 kernels to target, one of `TARGETS`; by default, this machine."""
    stamp: str = ""
    """What the output's metadata say of its origin: a `build.stamp.Stamp` as text; empty: nothing."""
    clock: Clock = field(default_factory=OrtClock)
    """Measures time."""
    pool: Pool = field(default_factory=Threads)
    """Where what is independent runs."""
    tune: Tuning | str | None = None
    """A `Tuning`, or its text, such as "10m", "30epochs" or "auto": train the weights for so long, towards the
    outputs of the original on `data`."""
    augment: Sequence[Augment] | str | None = None
    """What is done to images that train, or its text, such as "flip,crop" or "none"; None leaves it to the data."""
    tune_labels: float = 0.0
    """Share of the labels of `data` in what training aims at, 0 to 1; the rest is the original's outputs."""
    started: float = field(default_factory=time.monotonic)
    """Creation time in seconds of a monotonic clock, from which results derive their duration."""

    def checked(self) -> Request:
        """This request with its goal as a `Goal`. Raises OnnxoptError if it contradicts itself or has invalid
        values."""
        if self.goal is not None and self.goal not in list(Goal):
            raise OnnxoptError(f"--for is {self.goal!r}, expected {', '.join(Goal)}")
        if self.effort not in list(Effort):
            raise OnnxoptError(f"--effort is {self.effort!r}, expected {' or '.join(Effort)}")
        if self.activations not in (None, *_ACTIVATIONS):
            raise OnnxoptError(f"--activations is {self.activations}, expected 8 or 16; a rule's outputs{{bits=...}} "
                               "rounds layer outputs to other widths")  # fmt: skip
        named = {"--lossless": self.lossless, "--recipe": self.recipe is not None,
                 "--activations": self.activations is not None, "--for": self.goal is not None}  # fmt: skip
        given = [name for name, is_given in named.items() if is_given]
        if len(given) > 1 and given != ["--lossless", "--recipe"]:
            raise OnnxoptError(f"{given[0]} and {given[1]} contradict each other; give one of them")
        if self.device is not None and not self.int8:
            raise OnnxoptError("--device says which INT8 kernels to target; give --for speed, --for balanced or "
                               "--activations, too")  # fmt: skip
        Target.of(self.device)
        self._check_steps()
        self.contract.check(self.lossless, self.recipe is not None)
        if self.lossless and self.effort != Effort.DEFAULT:
            raise OnnxoptError(f"--lossless and --effort {self.effort} contradict each other: a lossless file takes no "
                               "search")  # fmt: skip
        tune = Tuning.parse(self.tune) if isinstance(self.tune, str) else self.tune
        augment = parse_augment(self.augment) if isinstance(self.augment, str) else self.augment
        if tune is not None:
            self._check_tuning()
        elif augment:
            raise OnnxoptError("--augment changes images that train; give --tune, too")
        elif self.tune_labels:
            raise OnnxoptError("--tune-labels is their share in training; give --tune, too")
        goal = None if self.goal is None else Goal(self.goal)
        return replace(self, goal=goal, effort=Effort(self.effort), tune=tune, augment=augment)

    def _check_steps(self) -> None:
        """Raises OnnxoptError if a rule's step is none, before anything is done for it."""
        ends = () if self.recipe is None else (self.recipe.at(GENTLEST), self.recipe.at(STRONGEST))
        whose = "" if self.recipe is None else f"recipe {self.recipe.name}: "
        for prefix, overrides in (("", self.overrides), *((whose, one) for one in ends)):
            for rule in overrides.rules:
                try:
                    _ = passes_of(rule.decided["step"]) if "step" in rule.decided else []
                except OnnxoptError as error:
                    raise OnnxoptError(f"{prefix}{rule}: {error}") from error

    def _check_tuning(self) -> None:
        """Raises OnnxoptError if nothing can be trained."""
        if self.data is None:
            raise OnnxoptError("--tune trains the weights on real inputs; name some hundreds or more with --data")
        if not 0 <= self.tune_labels <= 1:
            raise OnnxoptError(f"--tune-labels is {self.tune_labels:g}, expected a share from 0 to 1")
        if self.tune_labels and self.contract.error is not None:
            raise OnnxoptError(
                "--error bounds the noise in the outputs, and --tune-labels changes answers; give one of them"
            )
        if self.recipe is not None and not self.recipe.tune:
            raise OnnxoptError(f"recipe {self.recipe.name} does not say after which steps to train, as in tune = "
                               '["prune"]; leave --tune or --recipe out')  # fmt: skip
        if self.lossless:
            raise OnnxoptError("--tune and --lossless contradict each other: one trains weights, the other keeps every "
                               "bit of them; give one of them")  # fmt: skip

    @property
    def fast(self) -> bool:
        """Whether little time shall be spent."""
        return self.effort == Effort.FAST

    @property
    def corrects(self) -> bool:
        """Whether weights make up for the noise of the layers before them. What synthetic inputs say of that noise need
        not hold for real ones."""
        return self.effort == Effort.BEST and self.data is not None

    @property
    def moves_integers(self) -> bool:
        """Whether integers that a model came with may be moved to others. Only real inputs say what that does."""
        return self.data is not None and not (self.lossless or self.recipe or self.tune)

    @property
    def wanted(self) -> Goal | None:
        """The goal; None without one."""
        return None if self.goal is None else Goal(self.goal)

    @property
    def demanding(self) -> bool:
        """Whether a file that keeps every bit would not be what was asked for."""
        sized = self.contract.target_size is not None or self.contract.target_ratio is not None
        return sized or self.recipe is not None or self.activations is not None

    @property
    def int8(self) -> bool:
        """Whether layers may run in INT8."""
        return self.activations is not None or (self.goal is not None and Goal(self.goal).timed)

    @property
    def kind(self) -> Target:
        """The target of INT8 layers."""
        return Target.of(self.device)

    @property
    def detailed(self) -> bool:
        """Whether events also need the contents of the table in the recipe's paper."""
        return self.recipe is not None and bool(self.recipe.table)

    @classmethod
    def of(cls, contract: Contract | None, data: Spec | None, options: Mapping[str, Any]) -> Request:
        """The request for the arguments of a call. Raises TypeError for an unknown option, otherwise as `checked`."""
        known = {one.name for one in fields(cls)} - {"contract", "data", "started"} | set(_BOUNDS)
        if unknown := [name for name in options if name not in known]:
            listed = f"there is no option {unknown[0]!r}; there is {', '.join(sorted(known))}"
            raise TypeError(f"{listed}{meant(unknown[0], known)}")
        given = {name: value for name, value in options.items() if value is not None}
        bounds = {name: given.pop(name) for name in _BOUNDS if name in given}
        if contract is not None and bounds:
            raise OnnxoptError(f"the contract and {next(iter(bounds))} both say what to keep; give one of them")
        return cls(contract=contract or Contract(**bounds), data=data, **given).checked()
