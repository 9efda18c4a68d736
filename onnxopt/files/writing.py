"""Writes files whole or not at all, alone or together."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from onnxopt.errors import OnnxoptError

_PREFIX = ".onnxopt-"
"""Of the hidden folders in which files wait. A file has its final name there, so that a name may be as long as the file
system allows, and external data lies beside its model."""


@dataclass(slots=True)
class Output:
    """A file that an open `writing` block will write."""

    path: Path
    name: str
    """What messages call it: the option that names it."""
    waits: Path | None = None
    """Where the complete file waits; None until it is complete."""


announced: ContextVar[tuple[Output, ...]] = ContextVar("announced", default=())
"""The files of all open `writing` blocks."""


@contextmanager
def writing(outputs: Mapping[str, Path | None]) -> Iterator[Callable[[Path], Path]]:
    """Announces the files that the body writes: all of them appear when it succeeds, none if it fails.

    While the body runs, `reading` refuses to read what would be overwritten. Blocks may be nested: a file that an outer
    block announces appears when the outer block ends.

    Arguments:
        outputs: paths by the words that messages use for them; those that are None are not written.

    Yields a function that gives the path under which a complete file waits.

    Raises OnnxoptError before the body runs if a file cannot be written or is named twice, and after it if the files
    cannot be moved into place.
    """
    outer, own = announced.get(), list[Output]()
    for name, path in outputs.items():
        if path is not None and all(path != other.path for other in outer):
            _check_place(path)
            if same := next((other for other in (*outer, *own) if _place(other.path) == _place(path)), None):
                raise OnnxoptError(f"{path}: is named by both {same.name} and {name}; give one of them another name")
            own.append(Output(path, name))
    token = announced.set((*outer, *own))
    try:
        yield lambda path: _announced(path).waits or path
        for one in own:
            if one.waits:
                with _told(one.path):
                    _move(one.waits, one.path)
    finally:
        announced.reset(token)
        for one in own:
            if one.waits:
                _remove(one.waits.parent)


@contextmanager
def write_atomically(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a path of the same name in a hidden folder, from where the file is moved to `path` if the body succeeds.

    Other files that the body leaves in that folder, such as external data, are moved along. If an open `writing` block
    announces `path`, the files wait there until the block ends.

    Raises OnnxoptError if the folder or the disk does not allow it; then nothing is left behind.
    """
    path = Path(path)
    if all(path != other.path for other in announced.get()):
        with writing({"the output": path}), write_atomically(path) as waits:
            yield waits
        return
    output = _announced(path)
    with _told(path):
        folder = _hidden_folder(path)
        try:
            folder.mkdir(0o700)
            yield folder / path.name
            for file in folder.iterdir():
                with file.open("rb+") as written:
                    os.fsync(written.fileno())
            output.waits = folder / path.name
        except BaseException:
            output.waits = None
            _remove(folder)
            raise


def _announced(path: Path) -> Output:
    return next(one for one in announced.get() if one.path == path)


def _move(waits: Path, path: Path) -> None:
    """Moves a complete file into its place, behind the files that belong to it."""
    for file in sorted(waits.parent.iterdir(), key=lambda file: file == waits):
        file.replace(path.with_name(file.name))


def _check_place(path: Path) -> None:
    """Raises OnnxoptError unless a file can be written to `path`."""
    with _told(path):
        try:
            mode = path.stat().st_mode
        except FileNotFoundError:
            mode = stat.S_IFREG
        if kind := kind_of(mode):
            raise OnnxoptError(f"{path}: is {kind}; name a file, which is written whole or not at all")
        folder = _hidden_folder(path)
        try:
            folder.mkdir(0o700)
            (folder / path.name).touch()  # the name may be too long
        finally:
            _remove(folder)


def _place(path: Path) -> str:
    """What two paths to one place have in common; the last part may be a link, which would be replaced."""
    return os.path.normcase(path.parent.resolve() / path.name)


def _hidden_folder(path: Path) -> Path:
    """A new name beside `path`. It is known before the folder is made, so that no interruption leaves one behind."""
    return path.parent / f"{_PREFIX}{secrets.token_hex(8)}"


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except KeyboardInterrupt:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def kind_of(mode: int) -> str:
    """What a path with this mode is, with its article; empty for a regular file."""
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return "" if stat.S_ISREG(mode) else kinds.get(stat.S_IFMT(mode), "a device")


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turns errors of the operating system into one sentence about `path`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if isinstance(error, FileNotFoundError) and not path.parent.is_dir():
            reason = f"there is no folder {path.parent}; make it, or name another one"
        raise OnnxoptError(f"{path}: cannot be written: {reason}") from error
