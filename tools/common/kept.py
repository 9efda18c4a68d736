"""Measurements that are made once: each is kept in build/measured/ by a digest of what was asked.

A digest covers the function, its module and the modules beside this one, the arguments with the content of model files,
the versions of the runtime and of numpy, the machine, and, for `ONNXOPT`, every source file of onnxopt. Data sets do
not count: they do not change.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import pickle
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import numpy as np
import onnxruntime

import onnxopt
from common import pages, realdata

Arguments = ParamSpec("Arguments")
Value = TypeVar("Value")

FOLDER = pages.ROOT / "build" / "measured"


def fresh(function: Callable[Arguments, Value], *args: Arguments.args, **kwargs: Arguments.kwargs) -> Value:
    """What a module's function returns, called in a process of its own, so that its peak memory is its own. So is its
    cache: a run that was killed has left statistics, and one that finds them takes too few seconds."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    downloads = downloaded()
    with (
        tempfile.TemporaryDirectory(prefix="cache-", dir=FOLDER) as cached,
        ProcessPoolExecutor(1, get_context("spawn"), _with_cache, (cached, downloads)) as process,
    ):
        return process.submit(function, *args, **kwargs).result()


def _with_cache(folder: str, downloads: Path) -> None:
    os.environ["XDG_CACHE_HOME"] = folder
    downloaded().symlink_to(downloads, target_is_directory=True)


def downloaded() -> Path:
    """The folder of what tools have downloaded."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    return (caches / "onnxopt-tools").resolve()


@dataclass(frozen=True, slots=True)
class Kept:
    """Measurements that hold for one `version`, which is a text."""

    version: Callable[[], str]

    def once(self, function: Callable[Arguments, Value], *args: Arguments.args, **kwargs: Arguments.kwargs) -> Value:
        """What a module's function returns, from the file of an earlier call or from a fresh process.

        An argument that names a model, or is a path, stands for the content of that file.
        """
        file = self._file(function, (*args, *sorted(kwargs.items())), "pickle")
        if not file.is_file():
            value = fresh(function, *args, **kwargs)
            print(f"{file.name}: {str(value)[:200]}", file=sys.stderr, flush=True)
            with _written(file) as temporary:
                temporary.write_bytes(pickle.dumps(value))
        found: Value = pickle.loads(file.read_bytes())
        return found

    def made(
        self, make: Callable[Concatenate[Path, Arguments], object], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Path:
        """The model file that `make(path, *args)` writes, likewise."""
        file = self._file(make, (*args, *sorted(kwargs.items())), "onnx")
        if not file.is_file():
            print(f"{file.name}: is being written", file=sys.stderr, flush=True)
            with _written(file) as temporary:
                fresh(make, temporary, *args, **kwargs)
        return file

    def _file(self, function: Callable[..., object], args: Iterable[object], suffix: str) -> Path:
        sources = [Path(inspect.getfile(function)), *sorted(Path(__file__).parent.glob("*.py"))]
        asked = [function.__qualname__, *map(_asked, (*sources, *args)), self.version()]
        digest = hashlib.sha256("\n".join(asked).encode()).hexdigest()[:16]
        names = [one for one in args if isinstance(one, str) and realdata.path_of(one).is_file()]
        what = f"{function.__module__.rpartition('.')[2]}.{function.__qualname__}"
        FOLDER.mkdir(parents=True, exist_ok=True)
        return FOLDER / f"{'-'.join([what, *names, digest])}.{suffix}"


def _asked(value: object) -> str:
    if isinstance(value, Path):
        return _sha256(value)
    if isinstance(value, tuple):
        return f"({', '.join(map(_asked, value))})"
    if isinstance(value, str) and realdata.path_of(value).is_file():
        return f"{value} {_sha256(realdata.path_of(value))}"
    return repr(value)


@contextmanager
def _written(file: Path) -> Iterator[Path]:
    """Gives a path of the same name, whose file takes this place only if the body ends well."""
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        temporary = Path(folder) / file.name
        yield temporary
        temporary.replace(file)


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@cache
def _runtime() -> str:
    return f"onnxruntime {onnxruntime.__version__}, numpy {np.__version__}, {pages.machine()}"


@cache
def _onnxopt() -> str:
    package = Path(onnxopt.__file__).parent
    files = [*package.rglob("*.py"), *package.rglob("*.toml"), *package.glob(f"lib{os.sep}*")]
    sources = "\n".join(f"{file.relative_to(package)} {_sha256(file)}" for file in sorted(files))
    return f"{_runtime()}, {hashlib.sha256(sources.encode()).hexdigest()}"


RUNTIME = Kept(_runtime)
"""For what stock ONNX Runtime does with a file."""
ONNXOPT = Kept(_onnxopt)
"""For what depends on how onnxopt compresses."""
