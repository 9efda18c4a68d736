"""Pages of files that are mapped: those of large ones go back while they are used."""

from __future__ import annotations

import mmap
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from onnxopt.files import pages

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc tells what is in memory")


def in_memory(path: Path) -> int:
    """Bytes of a mapped file that count as this process's."""
    lines = iter(Path("/proc/self/smaps").read_text(encoding="ascii", errors="replace").splitlines())
    found = 0
    for line in lines:
        if line.endswith(str(path)):
            found += next(1024 * int(one.split()[1]) for one in lines if one.startswith("Rss:"))
    return found


def soon(condition: Callable[[], bool]) -> bool:
    """Whether it holds within ten seconds."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def test_pages_go_back_and_come_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "MOST", 1 << 20)  # the libraries alone are more
    content, path = np.random.default_rng(0).bytes(8 << 20), tmp_path / "large"
    path.write_bytes(content)
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    assert mapped[:] == content
    assert in_memory(path) == len(content)
    pages.watch(mapped)
    assert soon(lambda: in_memory(path) == 0)
    assert mapped[:] == content
    assert soon(lambda: in_memory(path) == 0)
    del mapped
    assert soon(lambda: not pages._watching.is_set())


def test_few_pages_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "MOST", 1 << 40)
    path = tmp_path / "small"
    path.write_bytes(bytes(1 << 16))
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    pages.watch(mapped)
    assert mapped[:] == bytes(1 << 16)
    time.sleep(0.2)
    assert in_memory(path) == 1 << 16
