"""A browser, and the npm package onnxopt-web with the runtimes that its tests need: built once, in build/web/."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

import build_web
from cross_build import CannotBuildError

FOLDER = Path(__file__).resolve().parents[1] / "build" / "web"
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-sync", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--force-prefers-reduced-motion",
    "--window-size=1280,900",
)  # fmt: skip

RUN = """
import { readFileSync } from 'node:fs';
import { load } from 'onnxopt-web';
const { runtime, model, feeds, options } = JSON.parse(readFileSync(0));
const module = await import(runtime);
const ort = module.InferenceSession ? module : module.default;
const session = await load(model, ort, options);
const outputs = await session.run(Object.fromEntries(
  Object.entries(feeds).map(([name, { type, data, dims }]) => [name, new ort.Tensor(type, data, dims)])));
const plain = Object.entries(outputs).map(([name, { data, dims }]) => [name, { data: [...data], dims }]);
console.log(JSON.stringify(Object.fromEntries(plain)));
process.exit(0); // onnxruntime-web keeps its threads
"""

Arrays = Mapping[str, "np.ndarray[Any, Any]"]


def missing(what: str) -> None:
    """Where everything must be tested, a program that is not there is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


@contextmanager
def chromium(profile: Path) -> Iterator[Any]:
    """A headless browser."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not program or not driver:
        missing("no chromium and chromedriver: apt-get install chromium chromium-driver")
    from selenium import webdriver  # noqa: PLC0415 (comes with the extra `test`)

    options = webdriver.ChromeOptions()
    options.binary_location = program
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    with webdriver.Chrome(options, webdriver.ChromeService(driver)) as started:
        yield started


def package() -> Path:
    """The folder of the package, with its decoder and node_modules."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            missing(f"{program} is not installed")
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until the file is closed
        try:
            decoder = build_web.build()
        except CannotBuildError as error:
            missing(str(error))
        shutil.copytree(build_web.WEB, FOLDER, ignore=shutil.ignore_patterns("node_modules"), dirs_exist_ok=True)
        shutil.copy(decoder, FOLDER)
        wanted, installed = FOLDER / "package-lock.json", FOLDER / "node_modules" / "installed.json"
        if not installed.is_file() or installed.read_bytes() != wanted.read_bytes():
            try:
                npm("ci", "--ignore-scripts", "--no-audit", "--no-fund")
            except subprocess.CalledProcessError as error:
                missing(f"the npm registry cannot be reached: {error.stderr.strip().splitlines()[-1]}")
            shutil.copy(wanted, installed)
    return FOLDER


def npm(*arguments: str) -> str:
    """What npm prints in the package's folder."""
    return subprocess.run(["npm", *arguments], cwd=FOLDER, check=True, capture_output=True, text=True).stdout


def as_json(feeds: Arrays) -> dict[str, Any]:
    """Tensors in JSON, as `RUN` reads them."""
    return {name: {"type": str(x.dtype), "dims": x.shape, "data": x.ravel().tolist()} for name, x in feeds.items()}


def arrays(outputs: Mapping[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """Tensors of JSON."""
    return {name: np.reshape(output["data"], output["dims"]) for name, output in outputs.items()}


def run_in_node(runtime: str, model: str | Path, feeds: Arrays, **options: Any) -> dict[str, np.ndarray[Any, Any]]:
    """The outputs of a compressed model in Node.js. Raises RuntimeError with what Node.js says."""
    asked = {"runtime": runtime, "model": str(model), "feeds": as_json(feeds), "options": options}
    command = ["node", "--input-type=module", "-e", RUN]
    done = subprocess.run(command, input=json.dumps(asked), cwd=FOLDER, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return arrays(json.loads(done.stdout))


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The URL of a server for the files in the folder."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
