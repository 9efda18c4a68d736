"""Peak memory is that of the process alone."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import psutil

from onnxopt.measure import memory


def test_a_peak_is_kept() -> None:
    before = psutil.Process().memory_info().rss
    np.ones(2**25)
    peak = memory.peak()
    assert peak is not None
    assert peak > before + 2**27


def test_a_parents_memory_is_not_the_childs() -> None:
    held = np.ones(2**26)  # 512 MiB, more than libraries take
    command = [sys.executable, "-P", "-c", "from onnxopt.measure import memory; print(memory.peak())"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert 2**20 < int(printed) < held.nbytes
