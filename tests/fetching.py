"""What tests fetch from package registries, once, into build/runtimes/."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "build" / "runtimes"


def unreachable(error: BaseException | str) -> None:
    """Where everything must be tested, a package that cannot be fetched is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"cannot be fetched: {error}")
    pytest.skip(f"cannot be fetched: {error}")


def fetched(command: list[str], cwd: Path) -> None:
    try:
        subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True, timeout=600)
    except subprocess.CalledProcessError as error:
        unreachable(error.stderr.strip().splitlines()[-1] if error.stderr else error)
    except (OSError, subprocess.TimeoutExpired) as error:
        unreachable(error)


@contextmanager
def alone_with(name: str) -> Iterator[None]:
    """Tests run in several processes: one fetches, the others wait for it."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until the file is closed
        yield


@contextmanager
def npm_package(name: str, version: str) -> Iterator[tarfile.TarFile]:
    """A package of the npm registry, which is deleted afterwards."""
    npm = shutil.which("npm")
    if npm is None:
        unreachable("npm is not installed")
    assert npm is not None
    fetched([npm, "pack", f"{name}@{version}"], FOLDER)
    archive = FOLDER / f"{name}-{version}.tgz"
    with tarfile.open(archive) as package:
        yield package
    archive.unlink()


def runtime_headers() -> Path:
    """ONNX Runtime's C and C++ headers, of its release 1.29."""
    folder = FOLDER / "headers-1.29"
    with alone_with(folder.name):
        if not folder.exists():
            with npm_package("com.github.asus4.onnxruntime", "0.4.9") as package:
                unfinished = folder.with_suffix(".part")
                unfinished.mkdir(exist_ok=True)
                for member in package.getmembers():
                    path = Path(member.name)
                    if path.suffix == ".h" and "ios-arm64" in path.parts:
                        content = package.extractfile(member)
                        assert content is not None
                        (unfinished / path.name).write_bytes(content.read())
                unfinished.rename(folder)
    return folder
