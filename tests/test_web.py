"""The npm package onnxopt-web: a compressed model gives the same in Node.js and in a browser as in Python."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from base64 import b64decode
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from browsing import Arrays, arrays, as_json, chromium, npm, package, run_in_node, served
from builders import model, weights
from building import CONTEXT, Box, Entry
from make_attacks import HERE, attacks
from onnx import helper
from PIL import Image

import build_web
import onnxopt
from common import realdata
from common.lessons import run_by
from onnxopt import Contract, native

ROOT = Path(__file__).resolve().parents[1]
DIGITS = ROOT / "models" / "digits.onnx"
RUNTIMES = ("onnxruntime-node", "onnxruntime-web")
SQUEEZENET = realdata.MODELS / "squeezenet1.1.onnx"
ROWS = ("bytes", "load", "run", "top")
"""Of the demo's table."""
LOAD = """
const [page, model, feeds, options, done] = given;
const ort = await import(page + '/node_modules/onnxruntime-web/dist/ort.wasm.bundle.min.mjs');
const { load } = await import(page + '/browser.js');
let loaded;
try {
  const session = await load(model, ort, { ...options, onProgress: (progress) => (loaded = progress) });
  const outputs = await session.run(Object.fromEntries(
    Object.entries(feeds).map(([name, { type, data, dims }]) => [name, new ort.Tensor(type, data, dims)])));
  const plain = Object.entries(outputs).map(([name, { data, dims }]) => [name, { data: [...data], dims }]);
  done({ loaded, outputs: Object.fromEntries(plain) });
} catch (error) {
  done({ error: error.message });
}
"""

USAGE = """
import { load } from 'onnxopt-web';
import * as node from 'onnxruntime-node';
import * as web from 'onnxruntime-web';

const session: web.InferenceSession = await load('small.onnx', web, {
  sessionOptions: { executionProviders: ['webgpu'] },
  onProgress: ({ loaded, total }) => console.log(total === undefined ? loaded : loaded / total),
});
await load(new Uint8Array(), node, { worker: false });
await load(new Blob(), node);
// @ts-expect-error
await load(5, node);
// @ts-expect-error
await load('small.onnx', node, { workers: 2 });
"""


@pytest.fixture(scope="module")
def web() -> Path:
    return package()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("web") / "small.onnx"
    onnxopt.optimize(DIGITS, path)
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("chromium")) as started:
        yield started


def feeds_of(path: Path) -> Arrays:
    rng = np.random.default_rng(3)
    inputs = onnxopt.load(path).get_inputs()
    return {x.name: rng.random([n if isinstance(n, int) else 2 for n in x.shape], np.float32) for x in inputs}


def same(path: Path, feeds: Arrays, outputs: Arrays) -> None:
    """As close to Python's outputs as rounding in another order is."""
    session = onnxopt.load(path)
    names = [output.name for output in session.get_outputs()]
    assert set(outputs) == set(names)
    for name, wanted in zip(names, session.run(names, feeds), strict=True):
        assert outputs[name].shape == wanted.shape
        assert np.abs(outputs[name] - wanted).max() <= 1e-5 * np.abs(wanted).max(), name


def decoded(web: Path, *files: Path) -> dict[str, dict[str, str]]:
    command = ["node", str(Path(__file__).with_name("decode_all.mjs")), str(web), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return dict(json.loads(done.stdout))


# --- Node.js ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("worker", [True, False], ids=["worker", "in place"])
def test_node_gives_what_python_gives(web: Path, small: Path, runtime: str, worker: bool) -> None:
    feeds = feeds_of(small)
    same(small, feeds, run_in_node(runtime, small, feeds, worker=worker))


def test_a_url_of_either_kind_is_loaded(web: Path, small: Path) -> None:
    feeds = feeds_of(small)
    same(small, feeds, run_in_node("onnxruntime-node", small.as_uri(), feeds))
    with served(small.parent) as server:
        same(small, feeds, run_in_node("onnxruntime-node", f"{server}/{small.name}", feeds))
        with pytest.raises(RuntimeError, match=r"Error: http://.*/other\.onnx: the server answered 404 File not found"):
            run_in_node("onnxruntime-node", f"{server}/other.onnx", feeds)
    with pytest.raises(RuntimeError, match=r"no such file or directory, open 'other\.onnx'"):
        run_in_node("onnxruntime-node", "other.onnx", feeds)


@pytest.mark.parametrize("worker", [True, False], ids=["worker", "in place"])
def test_a_plain_model_is_refused(web: Path, worker: bool) -> None:
    with pytest.raises(RuntimeError, match="not a compressed ONNX model: it holds no compressed model"):
        run_in_node("onnxruntime-node", DIGITS, {}, worker=worker)


def test_nodes_beside_the_container_are_refused(web: Path, small: Path, tmp_path: Path) -> None:
    model = onnx.load(small)
    (output,) = model.graph.output
    model.graph.node.append(helper.make_node("Relu", [output.name], ["positive"]))
    output.name = "positive"
    onnx.save(model, tmp_path / "beside.onnx")
    with pytest.raises(
        RuntimeError, match=r"Error: the model has nodes or outputs beside its compressed part, .*decompress"
    ):
        run_in_node("onnxruntime-node", tmp_path / "beside.onnx", {})


def test_without_a_runtime_it_says_what_is_expected(web: Path, small: Path) -> None:
    with pytest.raises(RuntimeError, match="ort has no InferenceSession, expected onnxruntime-web or onnxruntime-node"):
        run_in_node("node:path", small, {})


def photos() -> onnx.ModelProto:
    """Two layers on a picture of the size that the documents have."""
    nodes = [
        helper.make_node("Conv", ["input", "w"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "v"], ["output"]),
    ]
    tensors = {"w": weights(8, 3, 3, 3), "v": weights(8, 2000)}
    return model(nodes, tensors, {"input": [1, 3, 224, 224]}, {"output": [1, 2000]})


PAGES = {"docs/web.md": ["onnxruntime-web", "onnxruntime-node"], "docs/hosts.md": ["onnxruntime-node"],
         "docs/tutorials/speech.md": ["onnxruntime-web"]}  # fmt: skip
"""The runtime that each block imports."""


@pytest.mark.parametrize("page", PAGES)
def test_the_lines_of_the_documents_run(web: Path, page: str) -> None:
    """In Node.js, where WebGPU is missing and WebAssembly takes its place."""
    found = run_by("tests/test_web.py", page)
    for block, runtime in zip(found, PAGES[page], strict=True):
        assert f"'{runtime}'" in block.text
        (name,) = re.findall(r"load\('([^']+)'", block.text)
        place = web / "page" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        onnxopt.optimize(photos(), place)
        script = f"const pixels = new Float32Array(3 * 224 * 224);\n{block.text}\n"
        script += "console.log(session.outputNames[0]);\nprocess.exit(0);\n"
        command = ["node", "--input-type=module", "-e", script]
        done = subprocess.run(command, cwd=web / "page", capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["output"]), done.stderr


# --- the decoder -----------------------------------------------------------------------------------------------------


def test_weights_are_those_of_the_native_library(web: Path, small: Path) -> None:
    """In the order of the file, each at a multiple of 64; the model says where."""
    said = decoded(web, small)[str(small)]
    inner = onnx.load_from_string(b64decode(said["model"]))
    with native.Container(small.read_bytes()) as container:
        weights = container.decode()
    packed = b""
    for tensor in inner.graph.initializer:
        if tensor.name in weights:
            given = {entry.key: entry.value for entry in tensor.external_data}
            assert given["location"] == "onnxopt"
            packed = packed.ljust(int(given["offset"]), b"\0")
            packed += weights.pop(tensor.name).tobytes()
            assert len(packed) == int(given["offset"]) + int(given["length"])
    assert not weights
    assert sha256(packed.ljust(-(-len(packed) // 64) * 64, b"\0")).hexdigest() == said["weights"]


def test_hostile_files_are_refused_in_the_words_of_the_native_library(web: Path) -> None:
    wanted = {HERE / attack.name: attack.message for attack in attacks()}
    said = decoded(web, *wanted)
    for path, message in wanted.items():
        error = said[str(path)].get("error", "")
        assert message in error or "more than this machine's memory" in error, path.name
        assert error.isprintable()
        assert said[str(path)].get("name", "Error") == "Error"


def test_what_does_not_fit_a_32_bit_memory_is_refused(web: Path, tmp_path: Path) -> None:
    """65536 chunks of 32 bytes, of 65536 elements each: a product that is 0 in 32 bits."""
    rows = 1 << 16
    entry = Entry(dims=(rows, rows), chunk_rows=1, codec=CONTEXT, chunks=(bytes(32),) * rows)
    file = tmp_path / "large.onnx"
    file.write_bytes(Box((entry,)).build())
    said = decoded(web, file)[str(file)]
    assert said["error"] == "entry 'w': more than this machine's memory"


def test_damaged_files_are_refused_or_lose_nothing(web: Path, small: Path, tmp_path: Path) -> None:
    intact, rng = small.read_bytes(), np.random.default_rng(1)
    files = []
    for index, (at, cut) in enumerate(zip(rng.integers(0, len(intact), 150), rng.random(150) < 0.3, strict=True)):
        damaged = bytearray(intact)
        damaged[at] ^= 1 << index % 8
        files.append(tmp_path / f"{index}.onnx")
        files[-1].write_bytes(bytes(damaged[:at] if cut else damaged))
    said = decoded(web, small, *files)
    weights = said.pop(str(small))["weights"]
    for path, one in said.items():
        assert one.get("weights") == weights or one["error"], path
        assert one.get("name", "Error") == "Error"
    assert sum("error" in one for one in said.values()) > 130


# --- the package -----------------------------------------------------------------------------------------------------


def test_the_decoder_is_small(web: Path) -> None:
    assert build_web.packed_bytes(web / "onnxopt.wasm") < 90_000


def test_versions_agree() -> None:
    assert json.loads((build_web.WEB / "package.json").read_text())["version"] == onnxopt.__version__


def test_what_is_published_holds_all_that_it_imports(web: Path) -> None:
    (packed,) = json.loads(npm("pack", "--dry-run", "--json", "--ignore-scripts"))
    files = {file["path"] for file in packed["files"]}
    assert {"browser.js", "node.js", "index.d.ts", "onnxopt.wasm"} <= files
    for file in (name for name in files if name.endswith(".js")):
        assert set(re.findall(r"'\./([^']+)'", (web / file).read_text())) <= files, file


@pytest.mark.slow
def test_typescript_knows_it(web: Path) -> None:
    (web / "usage.ts").write_text(USAGE)
    command = [
        str(web / "node_modules" / ".bin" / "tsc"),
        "--noEmit",
        "--strict",
        "--skipLibCheck",
        "--target",
        "es2022",
    ]
    command += ["--module", "nodenext", "usage.ts"]
    done = subprocess.run(command, cwd=web, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


# --- a browser -------------------------------------------------------------------------------------------------------


def in_browser(browser: Any, page: str, model: str, feeds: Arrays, **options: Any) -> dict[str, Any]:
    browser.set_script_timeout(120)
    browser.get(f"{page}/package.json")
    return dict(
        browser.execute_async_script(
            f"(async (...given) => {{{LOAD}}})(...arguments)", page, model, as_json(feeds), options
        )
    )


def until(browser: Any, true: Callable[[], bool]) -> None:
    from selenium.webdriver.support.wait import WebDriverWait  # noqa: PLC0415 (comes with the extra `test`)

    WebDriverWait(browser, 60).until(lambda _: true())


@pytest.mark.parametrize("worker", [True, False], ids=["worker", "in place"])
def test_a_browser_gives_what_python_gives(web: Path, small: Path, browser: Any, worker: bool) -> None:
    feeds = feeds_of(small)
    (web / "small.onnx").write_bytes(small.read_bytes())
    with served(web) as page:
        said = in_browser(browser, page, f"{page}/small.onnx", feeds, worker=worker)
    assert said["loaded"] == {"loaded": small.stat().st_size, "total": small.stat().st_size}
    same(small, feeds, arrays(said["outputs"]))


@pytest.mark.slow
@pytest.mark.skipif(not SQUEEZENET.is_file(), reason=f"no {SQUEEZENET}; ONNXOPT_DATA names the folder above")
def test_the_demo_classifies_a_picture(web: Path, browser: Any, tmp_path: Path) -> None:
    """With both files; and squeezenet's outputs are Python's."""
    demo = web / "demo"
    shutil.copy(SQUEEZENET, demo / "plain.onnx")
    onnxopt.optimize(SQUEEZENET, demo / "small.onnx", Contract(target_ratio=7), effort="fast")
    (demo / "classes.txt").write_text("\n".join(f"name {i}" for i in range(1000)))
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "picture.png")
    feeds = feeds_of(demo / "small.onnx")
    with served(web) as page:
        same(demo / "small.onnx", feeds, arrays(in_browser(browser, page, f"{page}/demo/small.onnx", feeds)["outputs"]))
        browser.get_log("browser")  # the page before has no icon
        browser.get(f"{page}/demo/index.html")
        upload = browser.find_element("css selector", "input[type=file]")
        until(browser, upload.is_enabled)
        upload.send_keys(str(tmp_path / "picture.png"))
        until(browser, lambda: len(browser.find_elements("css selector", "#top td")) == 2 and upload.is_enabled())
        rows = {row: [cell.text for cell in browser.find_elements("css selector", f"#{row} td")] for row in ROWS}
        assert not browser.get_log("browser")
    assert rows["bytes"] == [f"{(demo / name).stat().st_size:,} bytes" for name in ("plain.onnx", "small.onnx")]
    assert all(re.fullmatch(r"[\d.]+ ms", time) for time in (*rows["load"], *rows["run"]))
    assert all(re.fullmatch(r"(name \d+ [\d.]+ %\n?){5}", classes) for classes in rows["top"])
