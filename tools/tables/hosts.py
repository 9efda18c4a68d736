"""Where compressed models load, and what of it ran on this machine."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

import onnxopt
from common import genai
from common.pages import ROOT, markdown
from onnxopt import native
from tables import CannotMeasureError, Scope, Table

NATIVE = ROOT / "onnxopt" / "native"
HEADERS = ROOT / "build" / "runtimes" / "headers-1.29"
"""The folder that tests/test_install.py fetches ONNX Runtime's headers into."""
WEB = ROOT / "build" / "web"
"""The folder that tests/test_web.py builds onnxopt-web and fetches its runtimes into."""
SHOWN = 8
"""Numbers of an output that the examples print, to six digits."""

RUN_IN_NODE = """
import { load } from 'onnxopt-web';
const [runtime, model, feeds] = process.argv.slice(1);
const module = await import(runtime);
const ort = module.InferenceSession ? module : module.default;
const session = await load(model, ort);
const tensors = Object.entries(JSON.parse(feeds)).map(
  ([name, { data, dims }]) => [name, new ort.Tensor('float32', data, dims)]);
const outputs = await session.run(Object.fromEntries(tensors));
console.log(JSON.stringify(session.outputNames.map((name) => [...outputs[name].data])));
process.exit(0);
"""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """A model to run in every host."""

    folder: Path
    model: Path
    """Compressed."""
    feeds: dict[str, Array]
    """What the examples feed it."""
    outputs: list[Array]
    """Of the plain model, in Python."""

    def check(self, outputs: Sequence[Array]) -> None:
        """Raises CannotMeasureError where a host's outputs are others."""
        for got, wanted in zip(outputs, self.outputs, strict=True):
            if not np.allclose(got.ravel()[:SHOWN], wanted.ravel()[:SHOWN], rtol=1e-5, atol=1e-6):
                raise CannotMeasureError(f"the outputs are {got}, expected {wanted}")

    def check_printed(self, *command: str | Path) -> None:
        """The same of an example's program. Raises CalledProcessError where it fails."""
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        self.check([np.array(line.rpartition(":")[2].split(), np.float32) for line in printed.splitlines()])


def case(folder: Path) -> Case:
    """The model of the demo, compressed without loss."""
    source, model = ROOT / "models" / "digits.onnx", folder / "small.onnx"
    onnxopt.optimize(source, model, lossless=True)
    plain = onnxruntime.InferenceSession(str(source), providers=["CPUExecutionProvider"])
    feeds = {}
    for value in plain.get_inputs():
        shape = [dim if isinstance(dim, int) else 2 for dim in value.shape]
        feeds[value.name] = (np.arange(np.prod(shape)) % 100).astype(np.float32).reshape(shape) / np.float32(100)
    return Case(folder, model, feeds, plain.run(None, feeds))


def python(case: Case) -> list[str]:
    """What runs in this process."""
    options = onnxruntime.SessionOptions()
    onnxopt.register(options)
    registered = onnxruntime.InferenceSession(str(case.model), options, providers=["CPUExecutionProvider"])
    for session in (registered, onnxopt.load(case.model)):
        case.check(session.run(None, case.feeds))
    return ["registered", "`onnxopt.load`"]


def c(case: Case) -> list[str]:
    """The example in C."""
    program = _compiled(case, "cc", "run_model.c", "-ldl")
    ways: dict[str, str | Path] = {"registered": native.library_path(), "linked in": "linked"}
    for argument in ways.values():
        case.check_printed(program, _runtime(), case.model, argument)
    case.check_printed(program, _runtime(), case.model)
    return [*ways, "`onnxopt_create_session`"]


def cxx(case: Case) -> list[str]:
    """The example in C++. Raises CannotMeasureError where ONNX Runtime's headers have not been fetched."""
    if not HEADERS.is_dir():
        raise CannotMeasureError(f"no headers in {HEADERS}; `pytest -m slow tests/test_install.py` fetches them")
    linked = case.folder / "libonnxruntime.so.1"
    linked.symlink_to(_runtime())
    program = _compiled(case, "c++", "run_model.cc", "-std=c++17", f"-I{HEADERS}", linked, f"-Wl,-rpath,{case.folder}")
    case.check_printed(program, case.model, "register")
    case.check_printed(program, case.model)
    return ["linked in", "`onnxopt::create_session`"]


def node(case: Case) -> list[str]:
    """The npm package onnxopt-web. Raises CannotMeasureError where it has not been built."""
    if not (WEB / "node_modules").is_dir():
        raise CannotMeasureError(f"nothing in {WEB}; `pytest tests/test_web.py` builds and fetches it")
    feeds = {name: {"data": x.ravel().tolist(), "dims": x.shape} for name, x in case.feeds.items()}
    ways = ["onnxruntime-node", "onnxruntime-web"]
    for way in ways:
        command = ["node", "--input-type=module", "-e", RUN_IN_NODE, way, str(case.model), json.dumps(feeds)]
        printed = subprocess.run(command, cwd=WEB, capture_output=True, text=True, check=True).stdout
        case.check([np.array(output, np.float32) for output in json.loads(printed)])
    return [f"`{way}`" for way in ways]


def _tested(test: str) -> None:
    """Runs a test where nothing may be skipped. Raises CannotMeasureError where it fails."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "", "-p", "no:cacheprovider", test]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "CI": "true"}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise CannotMeasureError(f"{test} failed:\n{done.stdout}")


def browser(case: Case) -> list[str]:
    """Chromium, as the tests drive it."""
    _tested("tests/test_web.py::test_a_browser_gives_what_python_gives")
    return ["Chromium, `onnxruntime-web`"]


def genai_runs(case: Case) -> list[str]:
    """A decoder of its own, in the tests."""
    _tested("tests/test_genai.py::test_genai_generates_the_same_tokens")
    return [f"registered, onnxruntime-genai {genai.VERSION}"]


def _runtime() -> Path:
    return next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"))


def _compiled(case: Case, compiler: str, source: str, *flags: str | Path) -> Path:
    tool, folder, program = shutil.which(compiler), native.library_path().parent, case.folder / f"{source}.out"
    if not tool:
        raise CannotMeasureError(f"there is no compiler {compiler}")
    ours = [f"-I{NATIVE / 'include'}", f"-L{folder}", f"-Wl,-rpath,{folder}", "-lonnxopt"]
    subprocess.run([tool, NATIVE / "examples" / source, *ours, *flags, "-o", program], check=True)
    return program


@dataclass(frozen=True, slots=True)
class Host:
    """A program that loads models."""

    name: str
    loads: str
    """How it takes a compressed file."""
    tried: Callable[[Case], list[str]] | None = None
    """Runs what this machine can, and says what that was."""


REGISTERS = "registers the library"
PACKAGE = "npm package `onnxopt-web`"
HOSTS = (
    Host("[Python](#python)", f"{REGISTERS}, or `onnxopt.load`", python),
    Host("[C](#c)", f"{REGISTERS}, or links it", c),
    Host("[C++](#c-programs)", f"{REGISTERS}, or links it", cxx),
    Host("[C#](#c-and-net)", REGISTERS),
    Host("[Java, Kotlin](#java-and-android)", REGISTERS),
    Host("[Rust](#rust)", REGISTERS),
    Host("[Android](#java-and-android)", REGISTERS),
    Host("[iOS](#ios)", "links the library"),
    Host("[Triton](#triton)", REGISTERS),
    Host("[GenAI](#genai)", REGISTERS, genai_runs),
    Host("[Node.js](#node-browsers-electron)", PACKAGE, node),
    Host("[browser](#node-browsers-electron)", PACKAGE, browser),
    Host("[Electron](#node-browsers-electron)", PACKAGE),
    Host("[React Native](#react-native)", "takes the plain model"),
)


def measure(scope: Scope) -> list[list[str]]:
    """A row for each host. Raises CannotMeasureError and CalledProcessError where one that is tried fails."""
    with tempfile.TemporaryDirectory() as folder:
        tried = case(Path(folder))
        return [[host.name, host.loads, ", ".join(host.tried(tried)) if host.tried else "no"] for host in HOSTS]


def render(rows: Sequence[list[str]]) -> str:
    """The rows in Markdown, and where they ran."""
    table = markdown(["host", "how", "ran here"], "lll", rows)
    return f"{table}\n\nONNX Runtime {onnxruntime.__version__}, {platform.system()} on {platform.machine()}."


TABLES = (Table("hosts", "docs/hosts.md", 1, measure, render),)
