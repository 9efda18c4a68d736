"""Builds the C example and runs it with one ONNX Runtime library or another."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from onnxopt import native

NATIVE = Path(__file__).parent.parent / "onnxopt" / "native"


def build(folder: Path) -> Path:
    """The example, compiled as its first lines say; skips where there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    library = native.library_path()
    program = folder / "run_model"
    command = [compiler, "-std=c11", "-Wall", "-Wextra", str(NATIVE / "examples" / "run_model.c")]
    command += [f"-I{NATIVE / 'include'}", f"-L{library.parent}", f"-Wl,-rpath,{library.parent}"]
    subprocess.run([*command, "-lonnxopt", "-ldl", "-o", str(program)], check=True)
    return program


def wheel_library() -> Path | None:
    """The C library inside the installed onnxruntime wheel; older wheels have none."""
    return next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"), None)


def run(program: Path, runtime: Path, model: Path, library: Path | None) -> str:
    """What the example prints: with `library`, or with "linked", it registers that, else it creates the session."""
    command = [str(program), str(runtime), str(model), *([str(library)] if library else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def check(text: str, model: onnx.ModelProto) -> None:
    """The example printed what the plain `model` gives for the example's inputs."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds: dict[str, Any] = {}
    for value in session.get_inputs():
        shape = [dim if isinstance(dim, int) else 2 for dim in value.shape]
        ramp = (np.arange(np.prod(shape)) % 100).astype(np.float32) / np.float32(100)
        feeds[value.name] = ramp.reshape(shape)
    lines = text.splitlines()
    wanted = session.run(None, feeds)
    assert len(lines) == len(wanted)
    for line, value, array in zip(lines, session.get_outputs(), wanted, strict=True):
        head, numbers = line.split(":")
        assert head == f"{value.name} [{', '.join(map(str, array.shape))}]"
        np.testing.assert_allclose(np.array(numbers.split(), np.float32), array.ravel()[:8], rtol=1e-3, atol=1e-4)
