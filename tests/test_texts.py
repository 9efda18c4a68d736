"""Texts as data: files, and what a tokenizer makes of them for a model's inputs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pyarrow
import pytest
from builders import model, weights
from commanding import refused, run
from feeding import VECTORS, everything, taking
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from pyarrow import parquet
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from onnxopt.data import ImageOptions, open_data
from onnxopt.data.texts import FORMATS, read_texts
from onnxopt.errors import OnnxoptError

WORDS = ["[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "d", "[PAD]"]
CLS, SEP, A, B, PAD = (WORDS.index(word) for word in ("[CLS]", "[SEP]", "a", "b", "[PAD]"))


def tokenizer() -> Tokenizer:
    """Words of one letter, between [CLS] and [SEP]."""
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, "[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(word, WORDS.index(word)) for word in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=ends)
    return made


def ints(**inputs: list[int | str | None]) -> onnxruntime.InferenceSession:
    return taking(TensorProto.INT64, **inputs)


IDS = ints(input_ids=["n", "t"])
NAMES = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
BERT = ints(**{name: ["n", "t"] for name in NAMES})

Opened = Callable[..., Any]


@pytest.fixture
def opened(tmp_path: Path) -> Opened:
    """Writes a file of texts and a tokenizer, and opens them for a model."""

    def write(content: str | bytes, session: Any = IDS, name: str = "texts.txt", made: Tokenizer | None = None) -> Any:
        file, saved = tmp_path / name, tmp_path / "tokenizer.json"
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        (made or tokenizer()).save(str(saved))
        return open_data(file, session, tokenizer=saved)

    return write


# ---- feeds -----------------------------------------------------------------------------------------------------------


def test_each_input_gets_what_it_is_called(opened: Opened) -> None:
    rows = {}
    for batch in opened("a b\n\na\r\n", BERT):
        for i, ids in enumerate(batch.feeds["input_ids"].tolist()):
            rows[tuple(ids)] = [batch.feeds[name][i].tolist() for name in ("attention_mask", "position_ids")]
        assert not batch.feeds["token_type_ids"].any()
        assert {array.dtype for array in batch.feeds.values()} == {np.dtype(np.int64)}
    assert rows == {(CLS, A, B, SEP): [[1, 1, 1, 1], [0, 1, 2, 3]], (CLS, A, SEP): [[1, 1, 1], [0, 1, 2]]}


@given(st.lists(st.integers(1, 12), min_size=1, max_size=60))
def test_a_batch_is_padded_to_its_longest_text(tmp_path_factory: Any, lengths: list[int]) -> None:
    folder = tmp_path_factory.getbasetemp()
    tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "padded.txt").write_text("".join("a " * length + "\n" for length in lengths))
    data = open_data(folder / "padded.txt", BERT, tokenizer=folder / "tokenizer.json")
    found = []
    for batch in data:
        ids, mask = batch.feeds["input_ids"], batch.feeds["attention_mask"]
        assert ((ids == PAD) == (mask == 0)).all()
        assert mask.sum(1).max() == mask.shape[1]
        found += [int(length) - 2 for length in mask.sum(1)]
    assert sorted(found) == sorted(lengths)
    assert everything(data) == everything(data)


def test_texts_of_one_length_share_a_batch(opened: Opened) -> None:
    lengths = [1, 5, 3, 7, 3] * 8
    batches = list(opened("".join("a " * length + "\n" for length in lengths), BERT))
    assert all(batch.feeds["attention_mask"].all() for batch in batches)
    found = [row.sum() - 2 for batch in batches for row in batch.feeds["attention_mask"]]
    assert sorted(found) == sorted(lengths)
    sizes = [batch.size for batch in batches]
    assert sizes == sorted(sizes, reverse=True)


def test_the_model_s_own_length_cuts_and_pads(opened: Opened) -> None:
    data = opened("a b c d\na\n", ints(ids=["n", 4], the_mask=["n", 4]))
    rows = {tuple(row) for batch in data for row in batch.feeds["ids"].tolist()}
    assert rows == {(CLS, A, B, SEP), (CLS, A, SEP, PAD)}
    with pytest.raises(OnnxoptError, match=r"input 'ids' is given int64 \[1, 3\], the model takes int64 \[n, 1\]"):
        list(opened("a\n", ints(ids=["n", 1])))


def test_the_tokenizer_says_how_to_cut_and_pad(opened: Opened, tmp_path: Path) -> None:
    made = tokenizer()
    made.enable_truncation(5)
    made.enable_padding(pad_id=A, direction="left", length=50)
    (batch,) = opened("a b c d a b\n", BERT, made=made)
    assert batch.feeds["input_ids"].shape == (1, 5)
    (padded,) = opened("b\n" + "b b\n", ints(**{name: [2, "t"] for name in NAMES}), made=made)
    row = int(np.argmin(padded.feeds["attention_mask"][:, 0]))
    assert padded.feeds["input_ids"][row].tolist() == [A, CLS, B, SEP], "padded with its id, on its side"
    assert padded.feeds["position_ids"][row].tolist() == [0, 0, 1, 2]
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 3}')
    (batch,) = opened("a b c d a b\n", BERT, made=made)
    assert batch.feeds["input_ids"].shape == (1, 3)
    for nothing in ('{"model_max_length": 1e30}', "[]", "{"):
        (tmp_path / "tokenizer_config.json").write_text(nothing)
        (batch,) = opened("a b c d a b\n", BERT)
        assert batch.feeds["input_ids"].shape == (1, 8)


def test_types_of_inputs_and_fixed_batches(opened: Opened) -> None:
    data = opened("a\n" * 11, taking(TensorProto.INT32, tokens=[4, "t"], input_mask=[4, "t"], segment_ids=[4, "t"]))
    assert [batch.size for batch in data] == [4, 4]
    assert {array.dtype for batch in data for array in batch.feeds.values()} == {np.dtype(np.int32)}
    with pytest.raises(OnnxoptError, match=r"texts\.txt: holds 2 texts, the model takes 4 at once"):
        opened("a\nb\n", ints(tokens=[4, "t"]))


def test_without_a_padding_token_it_is_0(opened: Opened) -> None:
    made = Tokenizer(models.WordLevel({"a": 1, "b": 2}))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    (batch,) = opened("a b\nb\n", ints(input_ids=[2, "t"]), made=made)
    assert sorted(batch.feeds["input_ids"].tolist()) == [[1, 2], [2, 0]]


# ---- files -----------------------------------------------------------------------------------------------------------


def texts_of(data: Any) -> list[tuple[str, Any]]:
    """The words, and labels, in the order of the words."""
    found = []
    for batch in data:
        for i, ids in enumerate(batch.feeds["input_ids"].tolist()):
            words = "".join(WORDS[one] for one in ids if one not in (CLS, SEP, PAD))
            found.append((words, None if batch.labels is None else batch.labels[i].item()))
    return sorted(found)


def test_json_lines_and_csv(opened: Opened) -> None:
    lines = [{"n": 1, "text": "a", "label": 7, "b": "x"}, {"text": "b", "label": 5}]
    assert texts_of(opened("\n\n".join(map(json.dumps, lines)), name="t.jsonl")) == [("a", 7), ("b", 5)]
    assert texts_of(opened('{"body": "a c", "label": "x"}\n{"body": "b", "label": "p"}', name="t.jsonl")) == [
        ("ac", 1), ("b", 0),
    ]  # fmt: skip
    table = '\ufeffid,sentence,label\n1,"a, ""b""\nc",0.5\n2,d,1\n'
    assert texts_of(opened(table, name="t.csv")) == [("a[UNK][UNK]b[UNK]c", 0.5), ("d", 1.0)]
    assert texts_of(opened("text\na\nb", name="t.csv")) == [("a", None), ("b", None)]


def test_parquet(opened: Opened, tmp_path: Path) -> None:
    opened("a")
    for kind in (pyarrow.string(), pyarrow.large_string(), pyarrow.dictionary(pyarrow.int32(), pyarrow.string())):
        table = {"id": [1, 2, 3], "said": pyarrow.array(["a", "b", "a"], kind), "label": [4, 5, 6]}
        parquet.write_table(pyarrow.table(table), tmp_path / "t.parquet", row_group_size=2)
        data = open_data(tmp_path / "t.parquet", IDS, tokenizer=tmp_path / "tokenizer.json")
        assert texts_of(data) == [("a", 4), ("a", 6), ("b", 5)]
    (tmp_path / "t.parquet").write_bytes((tmp_path / "t.parquet").read_bytes()[:-9])
    with pytest.raises(OnnxoptError, match=r"t\.parquet: not a Parquet file that can be read"):
        open_data(tmp_path / "t.parquet", IDS, tokenizer=tmp_path / "tokenizer.json")


def test_the_digest_is_that_of_texts_and_tokenizer(opened: Opened) -> None:
    made = tokenizer()
    made.normalizer = normalizers.Lowercase()
    digests = [opened("a").digest(), opened("b").digest(), opened("a", made=made).digest(),
               opened("a", ints(x=["n", 3])).digest()]  # fmt: skip
    assert len(set(digests)) == 4
    assert opened("a").digest() == digests[0]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.txt", "", "holds no texts"),
        ("t.txt", "\n \n", "holds no texts"),
        ("t.txt", b"a\n\xff\n", "line 2 is no UTF-8 text"),
        ("t.csv", b"text\n\xff\n", "line 2 is no UTF-8 text"),
        ("t.jsonl", "", "holds no texts"),
        ("t.jsonl", '{"text": "a"}\n{', "line 2 is no JSON: "),
        ("t.jsonl", "[" * 100_000, "line 1 is no JSON: "),
        ("t.jsonl", '["a"]', "line 1 is no JSON object"),
        ("t.jsonl", '{"text": 3}', "line 1 holds int in 'text', expected a text"),
        ("t.jsonl", '{"text": "a"}\n{"text": " "}', "line 2 holds a blank text in 'text'"),
        ("t.jsonl", '{"text": "a"}\n{"txt": "a"}', "line 2 holds nothing in 'text'"),
        ("t.jsonl", '{"text": "a", "label": 1}\n{"text": "b"}', "line 2 has no label, unlike those before"),
        ("t.jsonl", '{"text": "a"}\n{"text": "b", "label": 1}', "line 2 has a label, unlike"),
        ("t.jsonl", '{"text": "a", "label": [1]}', "a label is list, expected numbers or names"),
        ("t.jsonl", '{"text": "a", "label": 99999999999999999999}', "a label does not fit into 64 bits"),
        ("t.jsonl", '{"x": "a", "y": "b"}', r"has several fields that are texts \(x, y\); call the field"),
        ("t.jsonl", '{"x": 1}', "has no field that is a text"),
        ("t.csv", "text\n", "holds no texts"),
        ("t.csv", "id,text\n1,a,b\n", "line 2 has more fields than the header, which is id, text"),
        ("t.csv", 'text\n"a', "line 2 is no CSV: unexpected end of data"),
        ("t.parquet", "", "not a Parquet file that can be read"),
    ],
)
def test_a_wrong_file_is_one_sentence(opened: Opened, name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(OnnxoptError, match=rf"{name}: {message}") as caught:
        opened(content, name=name)
    assert "\n" not in str(caught.value)


@given(st.sampled_from(sorted(FORMATS)), st.binary(max_size=40) | st.text(',"\n{}:[]ab01', max_size=40).map(str.encode))
def test_any_bytes_are_texts_or_one_sentence(tmp_path_factory: Any, suffix: str, content: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / f"any{suffix}"
    file.write_bytes(content)
    try:
        found = read_texts(file)
    except OnnxoptError as error:
        assert str(error).startswith(f"{file}: ")
    else:
        assert all(text.strip() for text in found.texts)
        assert found.labels is None or len(found.labels) == len(found.texts)


# ---- what does not fit -----------------------------------------------------------------------------------------------


def test_a_model_without_tokens_is_one_sentence(opened: Opened) -> None:
    for session, message in (
        (VECTORS, r"inputs are x float32 \[n, 4\]; texts are for models with one input of token ids"),
        (ints(a=["n", "t"], b=["n", "t"]), "inputs are a .*, b .*; texts are for models with one input"),
        (ints(input_ids=["n"]), r"'input_ids' is int64 \[n\], and texts give \[batch, tokens\]"),
        (ints(input_ids=["n", "t"], lengths=["n"]), r"the model also takes 'lengths', int64 \[n\]"),
    ):
        with pytest.raises(OnnxoptError, match=rf"texts\.txt: .*{message}"):
            opened("a", session)


def test_texts_without_a_tokenizer_and_a_tokenizer_without_texts(opened: Opened, tmp_path: Path) -> None:
    opened("a")
    with pytest.raises(OnnxoptError, match=r"texts\.txt: texts need the model's tokenizer; give it with --tokenizer"):
        open_data(tmp_path / "texts.txt", IDS)
    np.save(tmp_path / "x.npy", np.zeros((9, 4), np.float32))
    with pytest.raises(OnnxoptError, match=r"x\.npy: only texts are turned into token ids"):
        open_data(tmp_path / "x.npy", VECTORS, tokenizer=tmp_path / "tokenizer.json")
    with pytest.raises(OnnxoptError, match=r"texts\.txt: only a folder of images is prepared"):
        open_data(tmp_path / "texts.txt", IDS, ImageOptions("unit"), tokenizer=tmp_path / "tokenizer.json")


def test_a_tokenizer_that_is_none(opened: Opened, tmp_path: Path) -> None:
    opened("a")
    for content in ("", "{}", "no JSON", '{"version": "1.0"}'):
        (tmp_path / "none.json").write_text(content)
        with pytest.raises(
            OnnxoptError, match=r"none\.json: not a tokenizer\.json of Hugging Face\'s tokenizers that can be read"
        ):
            open_data(tmp_path / "texts.txt", IDS, tokenizer=tmp_path / "none.json")
    with pytest.raises(OnnxoptError, match=r"absent\.json: cannot be read: No such file"):
        open_data(tmp_path / "texts.txt", IDS, tokenizer=tmp_path / "absent.json")
    with pytest.raises(OnnxoptError, match="expected a file"):
        open_data(tmp_path / "texts.txt", IDS, tokenizer=tmp_path)


def test_a_damaged_tokenizer_is_one_sentence(opened: Opened, tmp_path: Path) -> None:
    """The library panics where a template names a token that it does not define."""
    opened("a")
    damaged = json.loads((tmp_path / "tokenizer.json").read_text())
    damaged["post_processor"]["special_tokens"] = {}
    (tmp_path / "damaged.json").write_text(json.dumps(damaged))
    with pytest.raises(OnnxoptError, match=r"damaged\.json: ") as caught:
        list(open_data(tmp_path / "texts.txt", IDS, tokenizer=tmp_path / "damaged.json"))
    assert "\n" not in str(caught.value)


def test_texts_that_cannot_be_encoded(opened: Opened) -> None:
    made = Tokenizer(models.BPE({"a": 0}, []))
    with pytest.raises(OnnxoptError, match=r"tokenizer\.json gives no tokens for 'q'; leave such samples out"):
        list(opened("q\n", made=made))
    with pytest.raises(OnnxoptError, match=r"tokenizer\.json: cannot encode a text of .*t\.jsonl"):
        list(opened('{"text": "\\ud800"}', name="t.jsonl"))


@pytest.mark.parametrize(("package", "name"), [("tokenizers", "t.txt"), ("pyarrow.parquet", "t.parquet")])
def test_a_missing_library_is_one_sentence(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, package: str, name: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    root = package.partition(".")[0]
    with pytest.raises(OnnxoptError, match=rf"{root} is not installed, and is needed .*: pip install {root}$"):
        opened("a", name=name)


def test_a_tokenizer_without_data_is_said(tmp_path: Path) -> None:
    done = run("optimize", tmp_path / "m.onnx", "-o", tmp_path / "o.onnx", "--tokenizer", "t.json")
    refused(done, "--tokenizer t.json is for texts; give them with --data texts.txt")


# ---- commands --------------------------------------------------------------------------------------------------------


def encoder(width: int) -> onnx.ModelProto:
    """ids[n, t] and mask[n, t] -> Gather -> MatMul -> Relu -> MatMul -> y[n, t, width], 0 where there is padding."""
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["e"]),
        helper.make_node("MatMul", ["e", "w1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "w2"], ["o"]),
        helper.make_node("Cast", ["attention_mask"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["f", "last"], ["m"]),
        helper.make_node("Mul", ["o", "m"], ["y"]),
    ]
    tensors = {
        "table": weights(len(WORDS), 64),
        "w1": weights(64, 64, seed=1),
        "w2": weights(64, width, seed=2, scale=0.01),
        "last": np.array([2]),
    }
    made = model(nodes, tensors, {"input_ids": ["n", "t"], "attention_mask": ["n", "t"]}, {"y": ["n", "t", width]})
    for value in made.graph.input:
        value.type.tensor_type.elem_type = TensorProto.INT64
    return made


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a language model, its tokenizer, and 160 texts of different lengths."""
    folder = tmp_path_factory.mktemp("language")
    onnx.save(encoder(len(WORDS)), folder / "model.onnx")
    tokenizer().save(str(folder / "tokenizer.json"))
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(["a ", "b ", "c ", "d "], rng.integers(1, 12))) for _ in range(160)]
    (folder / "texts.txt").write_text("\n".join(texts))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["cosine", "retrieval", "next-token", "perplexity"])
def test_a_contract_on_texts_is_kept(language: Path, tmp_path: Path, metric: str) -> None:
    words = ("--data", language / "texts.txt", "--tokenizer", language / "tokenizer.json")
    bound = ("--metric", metric, "--max-drop", 1, "--json")
    done = run("optimize", language / "model.onnx", "-o", tmp_path / "small.onnx", *words, *bound)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["status"] == "met"
    assert result["calibrated"] == str(language / "texts.txt")
    assert result["check"]["found"]["drop"] <= 1
    assert result["bytes_after"] < result["bytes_before"] / 2


@pytest.mark.slow
def test_texts_in_every_command(language: Path, tmp_path: Path) -> None:
    words = ("--data", language / "texts.txt", "--tokenizer", language / "tokenizer.json")
    source, small = language / "model.onnx", tmp_path / "small.onnx"
    assert run("plan", source, "-o", tmp_path / "plan.json", *words).returncode == 0
    assert run("apply", source, tmp_path / "plan.json", "-o", small, *words).returncode == 0
    done = run("evaluate", source, small, *words, "--json")
    assert json.loads(done.stdout)["samples"] == 160, done.stderr
    done = run("sensitivity", source, *words, "--metric", "cosine", "--at", "0.5", "--json")
    drops = [point["drop"] for weight in json.loads(done.stdout)["weights"] for point in weight["points"]]
    assert drops
    assert all(drop > 0 for drop in drops)
    done = run("benchmark", source, *words, "--seconds", 0.2, "--batch", 1, "--threads", 1, "--json")
    assert json.loads(done.stdout)["data"] == str(language / "texts.txt"), done.stderr


def test_one_sentence_on_the_command_line(language: Path, tmp_path: Path) -> None:
    output = ("-o", tmp_path / "small.onnx")
    refused(run("optimize", language / "model.onnx", *output, "--data", language / "texts.txt"),
            "texts.txt: texts need the model's tokenizer; give it with --tokenizer")  # fmt: skip
    other = Tokenizer(models.WordLevel({word: 1000 + i for i, word in enumerate(WORDS)}, "[UNK]"))
    other.pre_tokenizer = pre_tokenizers.Whitespace()
    other.save(str(tmp_path / "other.json"))
    refused(run("optimize", language / "model.onnx", *output, "--data", language / "texts.txt", "--tokenizer",
                tmp_path / "other.json"), "model.onnx: does not run")  # fmt: skip
