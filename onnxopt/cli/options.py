"""Arguments and option groups shared by several commands, and how their values are parsed."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from onnxopt import metrics, native, runtime
from onnxopt.data import PRESETS, Data, ImageOptions, custom_ops, open_data
from onnxopt.errors import OnnxoptError, meant
from onnxopt.files import reading
from onnxopt.report import classical
from onnxopt.request import Options
from onnxopt.spec import recipes
from onnxopt.spec.contract import CONFIDENCE, DEFAULT_ERROR, SYNTHETIC_ERROR, Contract
from onnxopt.spec.effort import Effort
from onnxopt.spec.goal import Goal
from onnxopt.spec.overrides import Overrides
from onnxopt.spec.recipes import Recipe
from onnxopt.spec.target import TARGETS

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}

argument, option = (partial(kind, show_default=False) for kind in (typer.Argument, typer.Option))


def among(known: Iterable[str]) -> Callable[[str], list[str]]:
    """What shells complete the value of an option from."""
    return lambda incomplete: [word for word in known if word.startswith(incomplete)]


hidden = partial(typer.Option, hidden=True, show_default=False)
"""Declares the old name of an option, which still works."""


def _one_of(known: type[StrEnum]) -> Callable[[str], StrEnum]:
    """Parses a word of an enumeration. A wrong one is a usage error that names the nearest."""

    def parsed(text: str) -> StrEnum:
        if text not in list(known):
            raise typer.BadParameter(f"{text!r} is not one of {', '.join(known)}{meant(text, known)}")
        return known(text)

    return parsed


def choice(known: type[StrEnum], *names: str, **how: Any) -> Any:
    """Declares an option whose values are the words of an enumeration."""
    words = f"[{'|'.join(known)}]"
    return option(*names, parser=_one_of(known), metavar=words, autocompletion=among(known), **how)


class Decode(StrEnum):
    """What codec selection favours."""

    SMALLEST = "smallest"
    BALANCED = "balanced"
    FASTEST = "fastest"


Model = Annotated[Path, argument(help="An ONNX model.")]
Output = Annotated[Path, option("--output", "-o", help="The file to write.")]
RequiredData = Annotated[str, option("--data", metavar="DATA", help="Inputs, and labels where there are any: .npz, "
                                     ".npy, a folder of images, texts (.txt, .jsonl, .csv, .parquet), audio, or "
                                     "package.module:function.")]  # fmt: skip
DataOption = Annotated[str | None, option("--data", metavar="DATA", help="Inputs: .npz, .npy, a folder of images, "
                                          "texts (.txt, .jsonl, .csv, .parquet), audio, or "
                                          "package.module:function.")]  # fmt: skip
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Print each step and its reason to standard error.")]
LogJson = Annotated[Path | None, option("--log-json", metavar="FILE", help="Append JSON Lines: phase, share, seconds, "
                                        "peak memory, bytes; - is standard error.")]  # fmt: skip
Metric = Annotated[str, typer.Option("--metric", help=f"{metrics.CHOICES}.", autocompletion=among(metrics.METRICS))]


@dataclass(frozen=True)
class Preparing:
    """Options for turning images, texts and audio into inputs."""

    preprocess: Annotated[
        str | None,
        option(help=f"For images: {', '.join(PRESETS)}, or package.module:function.", autocompletion=among(PRESETS)),
    ] = None
    mean: Annotated[str | None, option(help="For images: mean of pixels in 0..1, one number or one per channel.")] = (
        None
    )
    std: Annotated[str | None, option(help="For images: standard deviation, as for --mean.")] = None
    layout: Annotated[str | None, option(help="For images: NCHW or NHWC.")] = None
    image_size: Annotated[int | None, option(help="For images: side length in pixels.")] = None
    size: Annotated[int | None, hidden("--size")] = None
    tokenizer: Annotated[Path | None, option(help="For texts: the model's tokenizer.json.")] = None
    sample_rate: Annotated[int | None, option(help="For audio: samples a second that the model takes.")] = None

    def open(self, model: Path, *specs: str | None) -> list[Data | None]:
        """Opens the data that options name. Raises OnnxoptError if the model does not run or the data does not fit
        it."""
        if all(spec is None for spec in specs):
            if self.tokenizer is not None:
                raise OnnxoptError(f"--tokenizer {self.tokenizer} is for texts; give them with --data texts.txt")
            if self.sample_rate is not None:
                raise OnnxoptError(f"--sample-rate {self.sample_rate} is for audio; give it with --data FOLDER")
            return [None] * len(specs)
        reading([model])
        native.return_memory(native.LARGE_BLOCK)
        session = runtime.load_checked(model)
        mean, std = numbers("--mean", self.mean), numbers("--std", self.std)
        size = self.size if self.image_size is None else self.image_size
        images = ImageOptions(self.preprocess, mean, std, self.layout, size)
        opened = partial(
            open_data, session=session, options=images, tokenizer=self.tokenizer, sample_rate=self.sample_rate
        )
        return [None if spec is None else opened(spec) for spec in specs]


@dataclass(frozen=True)
class Inputs:
    """Options for optional data."""

    data: DataOption = None
    preparing: Preparing = field(default_factory=Preparing)

    def opened(self, model: Path, *more: str | None) -> list[Data | None]:
        """The data of these and of further options; see `Preparing.open`."""
        return self.preparing.open(model, self.data, *more)


@dataclass(frozen=True)
class Bounds:
    """Options of the contract."""

    metric: Metric = "top1"
    max_drop: Annotated[
        float | None, option(help="Largest drop of the metric; in points where it is a percentage.")
    ] = None
    confidence: Annotated[
        float, typer.Option(help="How sure it shall be that new samples drop by no more, 0.5 to less than 1.")
    ] = CONFIDENCE
    target_size: Annotated[str | None, option(help="Largest size of the file, such as 2MB.")] = None
    target_ratio: Annotated[float | None, option(help="Factor by which the file has to shrink.")] = None
    error: Annotated[
        float | None,
        option(help="Largest noise over signal in the outputs. Without any bound, "
        f"{DEFAULT_ERROR}, or {SYNTHETIC_ERROR} on synthetic inputs."),
    ] = None  # fmt: skip

    @property
    def contract(self) -> Contract:
        """The contract of these options. Raises OnnxoptError if the size is not a number of bytes."""
        most = None if self.target_size is None else count("--target-size", self.target_size)
        return Contract(self.max_drop, most, self.target_ratio, self.error, self.metric, self.confidence)


@dataclass(frozen=True)
class Decisions:
    """Options that determine the decisions besides the contract."""

    lossless: Annotated[bool, typer.Option("--lossless", help="Keep every weight bit for bit.")] = False
    recipe: Annotated[
        str | None,
        option(
            help=f"Use a published system instead of the search: {', '.join(recipes.names())}, or a .toml file.",
            autocompletion=among(recipes.names()),
        ),
    ] = None
    effort: Annotated[
        Effort,
        choice(
            Effort,
            help="fast takes a part of the samples and few trials, for a slightly larger file; best lets "
            "weights make up for the noise before them, for a slightly smaller one.",
        ),
    ] = Effort.DEFAULT
    goal: Annotated[
        Goal | None,
        choice(
            Goal,
            "--for",
            help="Factorise layers, or run them in INT8, where that saves bytes (size), milliseconds on "
            "this machine (speed), or both (balanced).",
        ),
    ] = None
    activations: Annotated[
        int | None, option(help="8 or 16: run every supported layer in INT8, with activations of this many bits.")
    ] = None
    device: Annotated[
        str | None,
        option(
            help=f"Device whose INT8 kernels to target: {', '.join(TARGETS)}; by default, this machine.",
            autocompletion=among(TARGETS),
        ),
    ] = None
    target: Annotated[str | None, hidden("--target")] = None
    overrides: Annotated[Path | None, option("--overrides", help="TOML file with rules for single weights.")] = None

    @property
    def opened(self) -> Recipe | None:
        """The recipe. Raises OnnxoptError if it does not exist or names an unknown table."""
        recipe = None if self.recipe is None else Recipe.open(self.recipe)
        if recipe and recipe.table:
            classical.check(recipe.table)
        return recipe

    @property
    def options(self) -> Options:
        """The options as fields of `Request`."""
        rules = Overrides() if self.overrides is None else Overrides.read(self.overrides)
        return Options(
            lossless=self.lossless, recipe=self.opened, effort=self.effort, goal=self.goal,
            activations=self.activations, device=self.target if self.device is None else self.device, overrides=rules,
        )  # fmt: skip


@dataclass(frozen=True)
class Memory:
    """Memory limit of measurements."""

    max_ram: Annotated[str, typer.Option(help="Memory limit for statistics and for training.")] = "512MiB"

    @property
    def ram(self) -> int:
        """The limit in bytes. Raises OnnxoptError for anything else."""
        return count("--max-ram", self.max_ram)


@dataclass(frozen=True)
class Building(Memory):
    """Options for measuring statistics and coding files."""

    decode: Annotated[
        Decode | None, choice(Decode, help="What codec selection favours: smallest, balanced or fastest to decode.")
    ] = None
    prefer: Annotated[Decode | None, choice(Decode, "--prefer", hidden=True)] = None

    @property
    def favoured(self) -> str:
        """What codec selection favours."""
        return (self.decode or self.prefer or Decode.BALANCED).value


def _registered(ctx: typer.Context, libraries: list[Path] | None) -> list[Path]:
    """Registers the libraries with all sessions of the command."""
    ctx.with_resource(custom_ops(libraries or ()))
    return libraries or []


CustomOps = Annotated[
    list[Path] | None,
    option("--custom-ops", metavar="LIBRARY", callback=_registered,
           help="Library of custom operators that the model needs; may be given several times."),
]  # fmt: skip


@dataclass(frozen=True)
class Libraries:
    """Option for libraries of custom operators."""

    custom_ops: CustomOps = None


def _chosen(ctx: typer.Context, text: str | None) -> str | None:
    """Chooses the providers for all sessions of the command that run its models."""
    ctx.with_resource(runtime.providers(_names(text)))
    return text


def _preferred(ctx: typer.Context, text: str | None) -> str | None:
    """`_chosen`, where a session that cannot be on a provider is on the CPU, and a sentence says so."""
    ctx.with_resource(runtime.providers(_names(text), lambda why: print(f"onnxopt: {why}", file=sys.stderr)))
    return text


def _names(text: str | None) -> list[str]:
    return [] if text is None else [word.strip() for word in text.split(",")]


@dataclass(frozen=True)
class Running:
    """Option for where models run."""

    providers: Annotated[
        str | None,
        option(metavar="NAMES", callback=_chosen,
               help="Execution providers to run on, the first wherever it can: such as CUDA,CPU. By default, ONNX "
                    "Runtime chooses."),
    ] = None  # fmt: skip


@dataclass(frozen=True)
class Measuring:
    """Option for where a model is measured while it is compressed."""

    providers: Annotated[
        str | None,
        option(metavar="NAMES", callback=_preferred,
               help="Execution providers for statistics, gradients, trials and tuning, the first wherever it can: such "
                    "as CUDA,CPU. By default, the CPU."),
    ] = None  # fmt: skip


@dataclass(frozen=True)
class Showing(Libraries):
    """Options for showing a result."""

    as_json: Json = False
    verbose: Verbose = False
    log_json: LogJson = None


def numbers(name: str, text: str | None) -> list[float] | None:
    """Parses numbers such as ``0.5,0.5,0.5``. Raises OnnxoptError, naming the option, for anything else."""
    try:
        return None if text is None else [float(word) for word in text.split(",")]
    except ValueError as error:
        raise OnnxoptError(f"{name} is {text!r}, expected numbers, as in 0.485,0.456,0.406") from error


def count(name: str, text: str) -> int:
    """Parses bytes such as ``2MB``, ``512 KiB`` or ``100000``. Raises OnnxoptError, naming the option, for anything
    else."""
    match = re.fullmatch(r"([0-9.]+)\s*([a-z]*)", text.strip(), re.IGNORECASE)
    try:
        found = int(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
    except (KeyError, ValueError):
        found = 0
    if found < 1:
        raise OnnxoptError(f"{name} is {text!r}, expected bytes, as in 2MB, 500kB or 1GiB")
    return found
