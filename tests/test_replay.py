"""A refactoring changes no byte: plans and files of every goal match recorded digests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import replaying
from builders import mlp

from common import realdata

KNOWN = json.loads(replaying.RECORDED.read_text()).get(replaying.environment())
recorded_here = pytest.mark.skipif(
    KNOWN is None,
    reason=f"nothing is recorded for {replaying.environment()}; `python tests/replaying.py --record` on a commit "
    "that is known to be good records it",
)


CORES = range(os.cpu_count() or 1)
"""Of the machine; those of this process may be fewer."""


def _replays(name: str, goal: str, folder: Path) -> None:
    got = replaying.replayed(replaying.made(name, folder), goal, folder, replaying.data_for(name, folder))
    assert got == KNOWN[f"{name} {goal}"]


@recorded_here
@pytest.mark.slow
@pytest.mark.parametrize("goal", replaying.GOALS)
@pytest.mark.parametrize("name", replaying.MODELS)
def test_models_of_our_own(name: str, goal: str, tmp_path: Path) -> None:
    _replays(name, goal, tmp_path)


@recorded_here
@pytest.mark.skipif(
    not realdata.MODELS.is_dir(), reason=f"no models in {realdata.MODELS}; ONNXOPT_DATA names their folder"
)
@pytest.mark.slow
@pytest.mark.parametrize("goal", replaying.GOALS)
@pytest.mark.parametrize("name", ["lenet5", "kws_dscnn"])
def test_real_models(name: str, goal: str, tmp_path: Path) -> None:
    """Two of the six that `python tests/replaying.py --check --shared` replays, which takes minutes."""
    _replays(name, goal, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("goal", ["speed", "activations", "size"])
def test_other_hashes_give_the_same_bytes(goal: str, tmp_path: Path) -> None:
    """Sets of strings are in another order in every process; nothing may follow it."""
    script = (
        "import json, sys, pathlib, replaying; folder = pathlib.Path(sys.argv[2]); "
        "print(json.dumps(replaying.replayed(replaying.made('residual', folder), sys.argv[1], folder)))"
    )
    paths = os.pathsep.join(str(replaying.HERE.parent / folder) for folder in ("tests", "tools"))
    found = []
    for seed in "12":
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": paths}
        command = [sys.executable, "-c", script, goal, str(tmp_path)]
        found.append(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert found[0] == found[1]


@pytest.mark.skipif(len(CORES) < 2, reason="one core, so nothing can run on two")
def test_one_core_gives_the_bytes_of_two(tmp_path: Path) -> None:
    """LAPACK sums in another order where it has several threads."""
    onnx.save(mlp(), tmp_path / "model.onnx")
    script = (
        "import sys, psutil; psutil.Process().cpu_affinity(list(map(int, sys.argv[2:]))); "
        "import numpy as np, onnxopt; from onnxopt.build.preparation import prepare; "
        "from onnxopt.calibration.stats import cholesky_feedback; from onnxopt.request import Request; "
        "x = np.random.default_rng(0).standard_normal((200, 800)); "
        "work = prepare(onnxopt.graph.read(sys.argv[1]), Request.of(None, None, {})).__enter__(); "
        "print(cholesky_feedback(np.stack([x.T @ x]), 0.01)[0].tobytes().hex())"
    )
    found = []
    for cores in (CORES[:1], CORES[:2]):
        command = [sys.executable, "-c", script, tmp_path / "model.onnx", *map(str, cores)]
        found.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert found[0] == found[1]
