"""The HTML report: what a person reads of a result, whatever the result."""

from __future__ import annotations

import copy
import io
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from builders import cnn, mlp
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rich.console import Console

import onnxopt
from onnxopt import Contract, OnnxoptError, cli
from onnxopt.report import html
from onnxopt.report.json import to_json
from onnxopt.report.strategies import print_strategies
from onnxopt.results.events import Histogram
from onnxopt.spec.overrides import Overrides

DIGITS = Path(__file__).resolve().parents[1] / "models" / "digits.onnx"
TIMES = "\N{MULTIPLICATION SIGN}"
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}

Plain = dict[str, Any]


class Page(HTMLParser):
    """A page that is checked while it is read: every element closed, ids used once, nothing fetched."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.names: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open
        assert len(set(self.ids)) == len(self.ids)
        for name, value in self.attributes:
            assert not name.startswith("on"), name
            if name in ("href", "src", "xlink:href", "action", "srcset"):
                assert (value or "").startswith("#"), value
                assert (value or "")[1:] in self.ids, value
        assert not re.search(r"https?://|@import|url\((?!#)", text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += attrs
        self.ids += [value or "" for name, value in attrs if name == "id"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def to_plain_model(result: onnxopt.Result) -> Plain:
    return dict(json.loads(to_json(result)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def digits(folder: Path) -> Plain:
    return to_plain_model(onnxopt.optimize(DIGITS, folder / "digits.onnx"))


BENCHMARK: Plain = {
    "machine": {"cpu": "A processor", "cores": 4, "memory": 8 * 10**9, "load": 0.25},
    "models": [
        {
            "path": name, "file_size": 1, "parameters": 110378, "macs": 777000, "load_ms": 12.0, "first_run_ms": 0.3,
            "latency": {"mean_ms": mean, "low_ms": 1.1, "high_ms": 1.3, "median_ms": 1.2, "p95_ms": 1.4, "runs": 100,
                        "settled": True},
            "throughput": [{"batch": 8, "threads": 2, "samples_per_s": 3000.0}], "peak_rss": 10**7,
            "steady_rss": 10**7, "energy_mj": None, "energy_note": "there are no counters",
            "ops": [{"op": "Conv", "nodes": 2, "ms": 0.8, "share": 0.8},
                    {"op": "Gemm", "nodes": 1, "ms": 0.2, "share": 0.2}],
        }
        for name, mean in (("a.onnx", 1.234), ("b.onnx", 1.347))
    ],
    "paired": [{"path": "b.onnx", "against": "a.onnx", "ratio": 1.09, "low": 0.97, "high": 1.2, "significant": False,
                "enough": True}],
}  # fmt: skip


def test_says_what_was_found(digits: Plain) -> None:
    text = Page(html.render(digits)).text
    ratio = digits["bytes_before"] / digits["bytes_after"]
    for word in (
        "digits.onnx is", f"{ratio:.1f}{TIMES} smaller", "442.3 kB", f"{ratio:.2f}{TIMES} smaller than fp32",
        "Contract met: noise over signal at most 0.02", f"{digits['check']['found']['error']:.4f}", "synthetic images",
        digits["plan"]["model_sha256"], digits["plan"]["data"], f"numpy {np.__version__}", "peak memory",
        "dense1.weight: predicted", f"128{TIMES}768", "feedback{slope=", "Conv conv2 (kernel_shape 3x3, pads 1x1x1x1)",
        f"{len(digits['trials'])} files tried", "asked for: at most 0.02",
    ):  # fmt: skip
        assert word in text, word


def test_is_small_and_always_the_same(digits: Plain) -> None:
    page = html.render(digits)
    assert len(page.encode()) < 150_000
    assert html.render(copy.deepcopy(digits)) == page


def test_every_weight_has_a_row_and_a_histogram(digits: Plain) -> None:
    page = html.render(digits)
    layers = [event for event in digits["events"] if event["elements"]]
    assert page.count('class="h-after"') == page.count('aria-expanded="false"') == len(layers) == 7


@pytest.mark.slow
def test_speed_where_it_was_measured(digits: Plain) -> None:
    assert "Speed" not in Page(html.render(digits)).text
    text = Page(html.render({**digits, "benchmark": BENCHMARK})).text
    for word in ("1.23 → 1.35", "no significant difference", "Throughput, batch 8, 2 threads",
                 "Conv after: 0.8 ms a run", "there are no counters", "memory 8.00 GB", "load 0.250"):  # fmt: skip
        assert word in text, word
    assert "Energy of a run" not in text


@pytest.mark.slow
def test_a_ratio_of_few_processes_is_not_shown(digits: Plain) -> None:
    few = copy.deepcopy(BENCHMARK)
    few["paired"][0]["enough"] = False
    pages = [Page(html.render({**digits, "benchmark": benchmark})).text for benchmark in (BENCHMARK, few)]
    for text, word in zip(pages, ("no significant difference: 1.09", "too few processes"), strict=True):
        assert word in text
    row = "Latency, mean 1.23 ms 1.35 ms"
    assert [text.partition(row)[2].split()[0] for text in pages] == ["1.09", "\N{EN DASH}"]
    assert pages[0].count("1.09") - pages[1].count("1.09") == 2  # another number may look alike


def test_names_are_text(digits: Plain) -> None:
    """Names of models, weights and nodes come from strangers."""
    evil = "</script><script>alert(1)</script><b onclick=x \"' $x^{$ {{ 1 }} \x01"
    hostile = copy.deepcopy(digits)
    for event in hostile["events"]:
        event.update(path=evil, op=evil, step=evil, reason=evil, codec=evil)
        event.update(nodes_before=[evil], nodes_after=[evil, evil])
    hostile.update(
        source=f"/tmp/{evil}", output=evil, command=evil, contract=evil, calibrated=evil, versions={"onnxopt": evil}
    )
    hostile["cleaned"], hostile["left_out"] = {evil: 1}, {evil: evil}
    hostile["plan"]["steps"] = {evil: evil}
    hostile["benchmark"] = copy.deepcopy(BENCHMARK)
    hostile["benchmark"]["models"][0]["ops"][0]["op"] = evil
    hostile["benchmark"]["machine"]["cpu"] = evil
    page = Page(html.render(hostile))
    assert page.names.count("script") == 1
    assert "b" not in page.names
    assert "<script>alert(1)</script>" in page.text


@pytest.mark.slow
def test_nodes_before_and_after_clean_ups(folder: Path) -> None:
    onnx.save(cnn(norm=True), folder / "cnn.onnx")
    result = to_plain_model(onnxopt.optimize(folder / "cnn.onnx", folder / "small.onnx"))
    folded = [event for event in result["events"] if event["path"].endswith("@bn")]
    assert folded
    for event in folded:
        assert [node.split()[0] for node in event["nodes_before"]] == ["Conv", "BatchNormalization"]
        assert [node.split()[0] for node in event["nodes_after"]] == ["Conv"]
    text = Page(html.render(result)).text
    assert "Nodes before" in text
    assert "fold_batchnorm" in text


@pytest.mark.parametrize(
    ("contract", "lossless", "words"),
    [
        (None, True, ("Lossless: every bit kept",)),
        (Contract(target_ratio=12), False, ("Contract met: at least 12x smaller", "asked for: at most 36.86 kB")),
        (Contract(target_size=900), False, ("Contract missed: at most 900 bytes", "smaller")),
        (
            Contract(max_drop=50),
            False,
            ("Contract met: top1 drops by at most 50", "a drop of", "asked for: at most 50"),
        ),
    ],
)
@pytest.mark.slow
def test_contracts(contract: Contract | None, lossless: bool, words: tuple[str, ...], folder: Path) -> None:
    rng = np.random.default_rng(0)
    session = onnxopt.load(DIGITS)
    (taken,) = session.get_inputs()
    np.savez(folder / "data.npz", **{taken.name: rng.random((256, *taken.shape[1:]), np.float32)})
    data = str(folder / "data.npz") if contract and contract.max_drop else None
    result = onnxopt.optimize(DIGITS, folder / "out.onnx", contract, data, lossless=lossless, allow_miss=True)
    text = Page(html.render(to_plain_model(result))).text
    for word in words:
        assert word in text, word


def test_a_copy_of_the_source(folder: Path) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 17]> g (float[1,4] x) => (float[1,4] y) { y = Relu(x) }'
    )
    onnx.save(model, folder / "tiny.onnx")
    text = Page(html.render(to_plain_model(onnxopt.optimize(folder / "tiny.onnx", folder / "same.onnx")))).text
    assert "unchanged" in text
    assert "compressing saves nothing" in text


def test_what_was_not_measured_is_not_claimed(digits: Plain) -> None:
    bare = copy.deepcopy(digits)
    bare.update(check=None, not_checked="no input runs it", trials=[], kept=None, calibrated="", contract="")
    bare.update(peak_memory=None, bounds=None)
    for event in bare["events"]:
        event.update(predicted=None, measured=None, sensitivity=None, histogram=None)
    text = Page(html.render(bare)).text
    assert "not compared" in text
    assert "no input runs it" in text
    for word in (
        "Predicted",
        "Were the predictions right?",
        "Noise over signal in the outputs",
        "The search",
        "Sensitivity",
        "peak memory",
    ):
        assert word not in text, word


def test_what_is_no_result_is_one_sentence(digits: Plain, tmp_path: Path) -> None:
    def refused(text: str, *words: str) -> None:
        path = tmp_path / "result.json"
        path.write_text(text)
        with pytest.raises(OnnxoptError) as error:
            html.render(html.read(path))
        for word in words:
            assert word in str(error.value), word
        assert "\n" not in str(error.value)

    refused("{", "result.json", "no JSON")
    refused("[]", "result.json", "list", "onnxopt optimize --json")
    refused('{"kind": "benchmark", "schema": 1}', "benchmark")
    refused(json.dumps({**digits, "schema": 1}), "schema 1", "schema 2")
    refused(json.dumps({key: value for key, value in digits.items() if key != "trials"}), "trials", "docs/result.md")
    refused(json.dumps({**digits, "events": 7}), "not whole")
    with pytest.raises(OnnxoptError, match=r"none\.json"):
        html.read(tmp_path / "none.json")


def test_the_documentation_names_every_field(digits: Plain) -> None:
    text = (Path(__file__).resolve().parents[1] / "docs" / "result.md").read_text(encoding="utf-8")
    parts = (digits, digits["bounds"], digits["plan"], digits["kept"], digits["trials"][0], digits["events"][0])
    for name in (*(name for part in parts for name in part), *digits["events"][0]["histogram"]):
        assert f"`{name}`" in text, name
    for name in digits["check"]["found"]:
        assert f"`found.{name}`" in text, name


@pytest.mark.slow
def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def unmeasured(*_: object, **__: object) -> None:
        raise OnnxoptError("takes a minute")

    def type_(*words: object) -> str:
        monkeypatch.setattr(sys, "argv", ["/usr/bin/onnxopt", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert not end.value.code
        return capsys.readouterr().out

    monkeypatch.setattr(cli.optimize, "benchmark", unmeasured)
    source, page = tmp_path / "a model.onnx", tmp_path / "report.html"
    onnx.save(mlp(128), source)
    printed = type_("optimize", source, "-o", tmp_path / "small.onnx", "--report", page, "--json")
    text = Page(page.read_text(encoding="utf-8")).text
    assert f"onnxopt optimize '{source}'" in text.replace("&#39;", "'")
    assert "Speed not measured takes a minute" in text
    assert json.loads(printed)["not_benchmarked"] == "takes a minute"
    (tmp_path / "result.json").write_text(printed)
    assert "again.html" in type_("report", tmp_path / "result.json", "-o", tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == page.read_bytes()
    type_("plan", source, "-o", tmp_path / "plan.json")
    said = type_("apply", source, tmp_path / "plan.json", "-o", tmp_path / "small.onnx", "--report", page)
    assert "speed not measured: takes a minute" in said
    assert "Plan applied" in Page(page.read_text(encoding="utf-8")).text


@given(hnp.arrays(np.float32, st.integers(1, 300), elements=st.floats(-1e6, 1e6, width=32)))
@example(np.array([1e-45, 0], np.float32))
def test_histograms_count_every_element(values: np.ndarray[Any, Any]) -> None:
    found = Histogram.of(values, values[::-1] * 0.5)
    if found is None:
        assert not np.square(values, dtype=np.float64).any()
        return
    assert sum(found.before) == sum(found.after) == values.size
    assert 0 < found.reach <= float(np.abs(values).max())


def test_histograms_show_the_body_of_a_heavy_tail() -> None:
    values = np.random.default_rng(0).standard_t(2, 100_000).astype(np.float32)
    found = Histogram.of(values, np.zeros_like(values))
    assert found is not None
    assert sum(count > 100 for count in found.before) > 30  # most bins are of use, however far the farthest lies
    assert found.after[len(found.after) // 2] == values.size  # what became zero is the middle bin


def test_nothing_to_count() -> None:
    for values in (np.zeros(9, np.float32), np.array([1, np.inf], np.float32), np.arange(9), np.zeros(0, np.float32)):
        assert Histogram.of(values, values) is None


@pytest.mark.slow
def test_layers_that_became_chains_have_a_table(folder: Path) -> None:
    result = onnxopt.optimize(DIGITS, folder / "chains.onnx", Contract(error=0.5), overrides=Overrides.parse(
        '[[rule]]\nmatch = "dense1.weight"\nstep = "svd{rank=24}"\n'
        '[[rule]]\nmatch = "conv2.weight"\nstep = "tucker{in=12,out=24}"\n'
    ))  # fmt: skip
    rendered = html.render(to_plain_model(result))
    text = Page(rendered).text
    for row in (
        "conv2.weight tucker{in=12,out=24} 10 368 4 032 2.57",
        "dense1.weight svd{rank=24} 98 304 21 504 4.57 98 304 21 504 4.57",
    ):
        assert row in text.replace("\N{THIN SPACE}", " ")
    assert "Factorised layers" in text
    assert f"12 {TIMES} 24" in text
    assert "dense1.weight: 0 B" not in text
    assert "of tensors before" in text
    assert "Factorised layers" not in Page(html.render({**to_plain_model(result), "chains": []})).text


TIME = {"path": "with", "against": "without", "ratio": 0.8, "low": 0.7, "high": 0.9, "significant": True,
        "enough": True}  # fmt: skip


def record(name: str, title: str, kept: bool, columns: list[str], layers: list[Plain]) -> Plain:
    """A strategy as JSON has it."""
    explained = [{"key": key, "heading": f"heading {key}", "explanation": "what it means"} for key in columns]
    return {"name": name, "title": title, "about": f"looked at {name}.", "goal": "speed", "kept": kept,
            "reason": "" if kept else "none pays", "time": TIME, "trial": None, "columns": explained,
            "layers": layers}  # fmt: skip


def test_every_strategy_is_shown(digits: Plain) -> None:
    """In the page and in the terminal, whether the file has what it proposed or not."""
    row = {"path": "dense1.weight", "ms_before": 0.5, "ms_after": 0.25, "accepted": True, "reason": ""}
    strategies = [
        record("weights", "Weight-only", True, ["path", "ms"], [row]),
        record("exact", "Exact", False, [], []),
    ]
    page = Page(html.render({**digits, "strategies": strategies}))
    console = Console(file=io.StringIO(), width=80)
    print_strategies(console, strategies)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    for text in (page.text, printed):
        for words in ("Weight-only", "ooked at weights", "dense1.weight", "Exact", "none pays"):
            assert words in text, words
    assert "0.500 \N{RIGHTWARDS ARROW} 0.250" in page.text
    assert "0.5 -> 0.25" in printed
    assert "Strategies" not in Page(html.render(digits)).text


@pytest.mark.parametrize("rows", [1, 40])
def test_a_strategy_chooses_its_columns(rows: int) -> None:
    """A terminal has 80 columns: what does not fit is left out, and of many rows it shows the first."""
    keys = [f"c{i}" for i in range(12)]
    values = {**dict.fromkeys(keys, (1.0, 2.0)), "c2": None}
    layers = [{**values, "c0": f"accepted{i}", "accepted": True, "reason": ""} for i in range(rows)]
    layers += [{**values, "c0": f"rejected{i}", "accepted": False, "reason": "too large"} for i in range(rows)]
    console = Console(file=io.StringIO(), width=80)
    print_strategies(console, [record("toy", "Toy", False, keys, layers)])
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, printed.splitlines())) <= 80
    for words in ("Toy: looked at toy.", "heading c3", "accepted0", "rejected0", "too large", "none pays"):
        assert words in printed, words
    assert "heading c2" not in printed  # nothing in it
    assert "heading c11" not in printed
    assert ("and 30 more" in printed) == ("and 37 more: too large" in printed) == (rows == 40)
