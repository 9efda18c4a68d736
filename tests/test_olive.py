"""The workflow of docs/pipelines.md, carried out by Olive where it is installed."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import onnxopt
import train_digits

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("olive") is None, reason="needs olive-ai"),
]

ROOT = Path(__file__).resolve().parents[1]


def test_the_workflow_of_the_page(tmp_path: Path) -> None:
    """Its file is the one that `optimize` makes."""
    text = (ROOT / "docs/pipelines.md").read_text(encoding="utf-8")
    package, workflow, command = re.findall(r"<!-- run by tests/test_olive.py -->\n```\w+\n(.*?)```", text, re.DOTALL)
    (tmp_path / "package.json").write_text(package)
    (tmp_path / "workflow.json").write_text(workflow)
    model = Path(shutil.copy(ROOT / "models" / "digits.onnx", tmp_path))
    images, labels, _, _ = train_digits.split()
    np.savez(tmp_path / "train.npz", input=images, labels=labels)
    program, *words = command.split()
    done = subprocess.run(
        [sys.executable, "-m", program, *words], cwd=tmp_path, env={**os.environ, "OLIVE_DISABLE_TELEMETRY": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (small,) = (tmp_path / "out").glob("*.onnx")
    onnxopt.optimize(model, tmp_path / "wanted.onnx", data=tmp_path / "train.npz", max_drop=0.5)
    assert small.read_bytes() == (tmp_path / "wanted.onnx").read_bytes()
    assert small.stat().st_size < model.stat().st_size / 10
    (outputs,) = onnxopt.load(small).run(None, {"input": images[:2]})
    assert outputs.shape == (2, 10)
