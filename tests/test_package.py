"""What gets installed: the library's size and dependencies, the wheel's tag, the public names."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxopt
from common.lessons import run_by
from onnxopt import native
from train_digits import split

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


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a source distribution, and with the wheel that was built from it; `make release` names it."""
    given = os.environ.get("ONNXOPT_DIST")
    folder = Path(given).absolute() if given else tmp_path_factory.mktemp("dist")
    (block,) = run_by("tests/test_package.py", "README.md")
    *_, source = block.text.split()  # of `pip install`, which builds and installs the same wheel
    said(sys.executable, "-m", "build", "--outdir", folder, "-C", "cmake.build-type=Plain", source, cwd=ROOT)
    return folder


def said(*command: str | Path, **settings: Any) -> str:
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, **settings)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.slow
def test_one_wheel_serves_every_python(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    assert "-py3-none-" in wheel.name
    assert wheel.stat().st_size < 1_500_000


@pytest.mark.slow
def test_the_wheel_has_what_it_needs_and_no_more(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    package = ROOT / "onnxopt"
    sources = {path for path in package.rglob("*") if path.suffix in (".py", ".html", ".css", ".js", ".toml", ".typed")}
    foreign = {path for path in sources if package / "native" in path.parents and path.parent != package / "native"}
    library = f"onnxopt/lib/{native.library_path().name}"
    made = {library, library.replace("onnxopt.", "onnxopt_quantizer.")}
    headers = {"onnxopt/include/onnxopt.h", "onnxopt/include/onnxopt.hpp"}
    assert names == {path.relative_to(ROOT).as_posix() for path in sources - foreign} | made | headers


@pytest.mark.slow
def test_an_installed_wheel_passes_the_readmes_session_without_a_compiler(built: Path, tmp_path: Path) -> None:
    """As pipx runs it, in an environment of its own, with nothing else to be found on the path."""
    (wheel,) = built.glob("*.whl")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIP"))}
    environment |= {"PATH": str(tmp_path), "PIPX_HOME": str(tmp_path / "pipx"), "HOME": str(tmp_path)}
    here: dict[str, Any] = {"cwd": tmp_path, "env": environment | {"PIP_ONLY_BINARY": ":all:"}}

    def onnxopt_(*words: str | Path) -> str:
        return said(sys.executable, "-m", "pipx", "run", "--spec", wheel, "onnxopt", *words, **here)

    assert "optimize" in onnxopt_("--help")
    shutil.copy(ROOT / "models" / "digits.onnx", tmp_path / "model.onnx")
    images, labels, others, theirs = split()
    np.savez(tmp_path / "train.npz", input=images[:300], labels=labels[:300])
    np.savez(tmp_path / "test.npz", input=others, labels=theirs)
    assert "smaller than fp32" in onnxopt_("optimize", "model.onnx", "-o", "small.onnx", "--data", "train.npz")
    assert "identical" in onnxopt_("verify", "small.onnx")
    onnxopt_("decompress", "small.onnx", "-o", "plain.onnx")
    assert "no significant difference" in onnxopt_("evaluate", "model.onnx", "small.onnx", "--data", "test.npz")
    python = next((tmp_path / "pipx").rglob("bin/onnxopt")).with_name("python")
    example = (ROOT / "README.md").read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    said(python, "-c", f"{example}\nassert session.get_outputs()", **here)
