"""What holds for all tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("onnxopt", deadline=None)  # a busy machine is no failure
settings.load_profile("onnxopt")


@pytest.fixture(scope="session", autouse=True)
def _no_cache_of_the_users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Statistics that a run leaves for the next one, because it was stopped, stay among the tests' files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def pytest_configure() -> None:
    """Of as many processes as cores each has its own: pools of threads that wait for one another take longer."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if worker and sys.platform == "linux":
        cores = sorted(os.sched_getaffinity(0))
        if int(os.environ["PYTEST_XDIST_WORKER_COUNT"]) == len(cores):
            os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw"))]})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests come first: a long one at the end would leave the other processes idle."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[str]:
    """The address of a scheduler with one worker."""
    file = tmp_path / "scheduler.json"
    dask = (sys.executable, "-P", "-m", "dask")  # -P: the sources in the current folder have no libraries
    main = subprocess.Popen([*dask, "scheduler", "--port", "0", "--no-dashboard", "--scheduler-file", file],
                            stderr=subprocess.DEVNULL)  # fmt: skip
    (tmp_path / "scheduler.pid").write_text(str(main.pid))
    while not file.exists() or not file.read_text():
        time.sleep(0.05)
        assert main.poll() is None
    address = json.loads(file.read_text())["address"]
    worker = subprocess.Popen([*dask, "worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard"],
                              stderr=subprocess.DEVNULL)  # fmt: skip
    yield address
    for process in (worker, main):
        process.kill()
        process.wait()
