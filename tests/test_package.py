"""What gets installed: the library's size and dependencies, the wheel's tag, the public names."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import onnxopt
from onnxopt import native

ROOT = Path(__file__).resolve().parents[1]
SYSTEM = ("linux-vdso", "libstdc++", "libm.", "libgcc_s", "libc.", "libpthread", "ld-linux")


def test_the_library_is_small() -> None:
    assert native.library_path().stat().st_size < 300_000


@pytest.mark.skipif(shutil.which("ldd") is None, reason="needs ldd")
def test_the_library_needs_nothing_but_the_cxx_runtime() -> None:
    listed = subprocess.run(["ldd", native.library_path()], capture_output=True, text=True, check=True).stdout
    names = [line.split()[0].rsplit("/", 1)[-1] for line in listed.splitlines()]
    assert names
    assert [name for name in names if not name.startswith(SYSTEM)] == []


def test_versions_agree() -> None:
    assert onnxopt.__version__ == native.version()


def test_the_public_names_are_there() -> None:
    assert all(getattr(onnxopt, name).__doc__ for name in onnxopt.__all__)


@pytest.mark.slow
def test_one_wheel_serves_every_python(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-C", "cmake.build-type=Plain",
               "--wheel-dir", tmp_path, ROOT]  # fmt: skip
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert "-py3-none-" in wheel.name
    names = zipfile.ZipFile(wheel).namelist()
    for wanted in (
        "onnxopt/py.typed",
        "onnxopt/include/onnxopt.h",
        "onnxopt/lib/",
        "onnxopt/report/templates/report.html",
        "onnxopt/report/sections/search.html",
        "onnxopt/spec/recipes/microbrain.toml",
    ):
        assert any(name.startswith(wanted) for name in names), wanted
    assert not [name for name in names if name.endswith((".cc", ".c"))]
