"""Folders of files, with a class folder for each label or without."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from onnxopt.data.random import Array
from onnxopt.data.stream import file_digest


def files_in(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """The files of these suffixes at any depth, in the order of their names, without hidden ones."""
    return [path for path in sorted(folder.rglob("*")) if has_suffix(path, folder, suffixes) and not path.is_dir()]


def has_suffix(path: Path, folder: Path, suffixes: Sequence[str]) -> bool:
    """Whether a path in a folder has one of these suffixes, and no part of it is hidden."""
    return path.suffix.lower() in suffixes and not any(part.startswith(".") for part in path.relative_to(folder).parts)


def folder_labels(paths: Sequence[Path]) -> Array | None:
    """Labels by class folder: its name if all names are whole numbers, else its place in alphabetical order.

    None if a file lies in no class folder, or the only class folder is not a number.

    Arguments:
        paths: of files, relative to the folder that holds the class folders.
    """
    if any(len(path.parts) == 1 for path in paths):
        return None
    names = [path.parts[0] for path in paths]
    if all(name.isdecimal() for name in names):
        return np.array([int(name) for name in names])
    classes, indices = np.unique(names, return_inverse=True)
    return indices if len(classes) > 1 else None


def identity(path: Path, folder: Path) -> bytes:
    """What identifies a file in a folder: its place there and its content."""
    return os.fsencode(path.relative_to(folder).as_posix()) + file_digest(path)
