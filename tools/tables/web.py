"""onnxopt-web: bytes, and decoding in WebAssembly against the native library's scalar code."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import build_web
import onnxopt
from common import pages, realdata
from common.kept import ONNXOPT
from cross_build import CannotBuildError
from onnxopt import native
from tables import CannotMeasureError, Scope, Table

MODELS = ("squeezenet1.1", "mobilenet_v1_0.25", "resnet56")
TURNS, REPEATS = 5, 21
"""Processes of Node.js, and times each decodes: what comes first, V8 has not optimized yet."""

DECODE = """
import { readFileSync } from 'node:fs';
const [web, wasm, model, repeats] = process.argv.slice(1);
const { decode } = await import(`${web}/decode.js`);
const decoder = await WebAssembly.compile(readFileSync(wasm));
const file = readFileSync(model);
const times = [];
for (let i = 0; i < repeats; ++i) {
  gc();
  await new Promise((done) => setTimeout(done, 20));
  const start = process.cpuUsage();
  await decode(file, decoder);
  const { user, system } = process.cpuUsage(start);
  times.push((user + system) / 1000);
}
console.log(JSON.stringify(times));
"""


def native_times(file: bytes) -> list[float]:
    """Milliseconds of CPU time of each of `REPEATS` decodings on one thread, without vector instructions."""
    times = []
    native.set_simd("scalar")
    try:
        for _ in range(REPEATS):
            started = time.process_time()
            with native.Container(file) as container:
                container.decode(threads=1)
            times.append((time.process_time() - started) * 1e3)
    finally:
        native.set_simd(None)
    return times


def web_times(wasm: Path, model: Path) -> list[float]:
    """The same in one process of Node.js, which frees the memory of each instance before the next one."""
    arguments = map(str, (build_web.WEB, wasm, model, REPEATS))
    command = ["node", "--expose-gc", "--input-type=module", "-e", DECODE, *arguments]
    return list(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def measured(name: str, wasm: Path) -> dict[str, float]:
    """Bytes of a model's files; milliseconds; the median ratio of WebAssembly to native code in turns."""
    source = realdata.path_of(name)
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / "small.onnx"
        onnxopt.optimize(source, small, effort="fast")
        turns = [(native_times(small.read_bytes()), web_times(wasm, small)) for _ in range(TURNS)]
        return {
            "plain": source.stat().st_size,
            "small": small.stat().st_size,
            "native": median(median(native) for native, _ in turns),
            "web": median(median(web[1:]) for _, web in turns),
            "ratio": median(median(web[1:]) / median(native) for native, web in turns),
            "first": median(web[0] for _, web in turns),
        }


def measure(scope: Scope) -> list[tuple[str, dict[str, float]]]:
    """Of each model, what `measured` says."""
    if not shutil.which("node"):
        raise CannotMeasureError("web: node is not installed")
    try:
        wasm = build_web.build()
    except CannotBuildError as error:
        raise CannotMeasureError(f"web: {error}") from None
    return [(name, ONNXOPT.once(measured, name, wasm)) for name in scope.models]


def render(rows: Sequence[tuple[str, dict[str, float]]]) -> str:
    """Rows to Markdown."""
    cells = [
        [name, f"{row['plain']:,.0f}", f"{row['small']:,.0f}", f"{row['native']:.1f}", f"{row['web']:.1f}",
         f"{row['ratio']:.2f}x", f"{row['first']:.1f}"]
        for name, row in rows
    ]  # fmt: skip
    heads = ("model", "plain, bytes", "small, bytes", "native, ms", "WebAssembly, ms", "ratio", "first time, ms")
    node = subprocess.run(["node", "--version"], check=True, capture_output=True, text=True).stdout.strip()
    wasm = build_web.build()
    return (
        f"{pages.markdown(heads, 'lrrrrrr', cells)}\n\n"
        f"CPU time on one thread, {pages.machine()}, Node.js {node}: medians of {TURNS} turns of {REPEATS} decodings. "
        f"The decoder, onnxopt.wasm, has {wasm.stat().st_size:,} bytes, {build_web.packed_bytes(wasm):,} with gzip."
    )


TABLES = (Table("web", "docs/web.md", 4, measure, render, models=MODELS),)
