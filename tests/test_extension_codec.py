"""A codec is one file: dropped into the native tree, it passes the contract tests with no other edit."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("cmake") is None, reason="needs CMake and a C++ compiler"),
]


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of the package, built with the toy codec."""
    folder = tmp_path_factory.mktemp("extended")
    package, build = folder / "onnxopt", folder / "build"
    shutil.copytree(TESTS.parent / "onnxopt", package, ignore=shutil.ignore_patterns("lib", "__pycache__"))
    shutil.copy(TESTS / "toys" / "codec.cc", package / "native" / "src" / "codecs" / "toy.cc")
    run(folder, "cmake", "-S", package / "native", "-B", build, "-DCMAKE_BUILD_TYPE=Plain")
    run(folder, "cmake", "--build", build, "--parallel")
    (package / "lib").mkdir()
    for library in build.glob("*onnxopt*"):
        if library.is_file():
            shutil.copy(library, package / "lib")
    return folder


def run(folder: Path, *command: str | Path) -> str:
    """What the command says in that folder, where Python finds its copy of the package first."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_tests(folder: Path, *arguments: str | Path) -> None:
    options = ("-p", "no:cacheprovider", "-c", TESTS.parent / "pyproject.toml")
    run(folder, sys.executable, "-m", "pytest", *options, *arguments)


def test_python_learns_of_it_from_the_library(extended: Path) -> None:
    said = run(extended, sys.executable, "-c", "from onnxopt import native; print(dict(native.CODECS))")
    assert (
        said
        == "{'raw': 0, 'bitpack': 1, 'huffman': 2, 'rans': 3, 'context': 4, 'lossless': 5, 'adaptive': 6, 'toy': 200}\n"
    )


def test_the_contract_holds(extended: Path) -> None:
    run_tests(extended, TESTS / "test_codecs.py", "-k", "toy or choice or instruction")


def test_what_is_settled_stays(extended: Path) -> None:
    """The bytes of files."""
    run_tests(extended, TESTS / "test_golden.py")
