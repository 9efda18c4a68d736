"""Arguments and options that several commands share, and what their texts mean."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from onnxopt import native, runtime
from onnxopt.data import PRESETS, Data, ImageOptions, open_data
from onnxopt.errors import OnnxoptError

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}

argument, option = (partial(kind, show_default=False) for kind in (typer.Argument, typer.Option))

Output = Annotated[Path, option("--output", "-o", help="The file to write.")]
DataOption = Annotated[str | None, option("--data", metavar="DATA", help="Inputs: .npz, .npy, a folder of images, or "
                                          "package.module:function.")]  # fmt: skip
Preprocess = Annotated[str | None, option(help=f"For images: {', '.join(PRESETS)}, or package.module:function.")]
Mean = Annotated[str | None, option(help="For images, of pixels in 0..1: one number or one a channel.")]
Std = Annotated[str | None, option(help="Likewise.")]
Layout = Annotated[str | None, option(help="For images: NCHW or NHWC.")]
Size = Annotated[int | None, option(help="For images: the side.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say on standard error what is being done, and why.")]


@dataclass(frozen=True, slots=True)
class Images:
    """The image options as they stand on the command line."""

    preprocess: str | None
    mean: str | None
    std: str | None
    layout: str | None
    size: int | None

    def open(self, model: Path, *specs: str | None) -> list[Data | None]:
        """The data that `specs` name, for this model. Raises OnnxoptError if the model does not run or take it."""
        if all(spec is None for spec in specs):
            return [None] * len(specs)
        if not model.is_file():
            raise OnnxoptError(f"{model}: no such file; expected an ONNX model")
        native.return_memory()
        session = runtime.load_checked(model)
        mean, std = numbers("--mean", self.mean), numbers("--std", self.std)
        options = ImageOptions(self.preprocess, mean, std, self.layout, self.size)
        return [(spec and open_data(spec, session, options)) or None for spec in specs]


def numbers(name: str, text: str | None) -> list[float] | None:
    """``0.5,0.5,0.5``. Raises OnnxoptError if the option of this name is something else."""
    try:
        return None if text is None else [float(word) for word in text.split(",")]
    except ValueError as error:
        raise OnnxoptError(f"{name} is {text!r}, expected numbers, as in 0.485,0.456,0.406") from error


def count(name: str, text: str) -> int:
    """Bytes: ``2MB``, ``512 KiB``, ``100000``. Raises OnnxoptError if the option of this name is something else."""
    match = re.fullmatch(r"([0-9.]+)\s*([a-z]*)", text.strip(), re.IGNORECASE)
    try:
        found = int(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
    except (KeyError, ValueError):
        found = 0
    if found < 1:
        raise OnnxoptError(f"{name} is {text!r}, expected bytes, as in 2MB, 500kB or 1GiB")
    return found
