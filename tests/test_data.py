"""Streams of data, their parts, and the readers of arrays and functions."""

from __future__ import annotations

import gc
import itertools
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from feeding import VECTORS, everything, seen, taking
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto

from common import realdata
from onnxopt.data import Array, Batch, Data, ImageOptions, Pending, open_data, split
from onnxopt.data import readers as data_readers
from onnxopt.errors import OnnxoptError

needs_data = pytest.mark.skipif(
    not realdata.MODELS.is_dir(), reason=f"no models in {realdata.MODELS}; ONNXOPT_DATA names their folder"
)


@pytest.fixture
def arrays(tmp_path: Path) -> Callable[..., Path]:
    def save(name: str = "d.npz", **arrays: Any) -> Path:
        np.savez(tmp_path / name, **arrays)
        return tmp_path / name

    return save


# ---- streams ---------------------------------------------------------------------------------------------------------


@given(st.integers(1, 60))
def test_the_last_batch_is_cut_where_samples_can_be_told_apart(wanted: int) -> None:
    rows, shared = np.arange(50), np.zeros(3)
    batches = [Pending(10, partial(Batch, {"x": rows[i : i + 10]}, rows[i : i + 10])) for i in range(0, 50, 10)]
    data = Data("rows", lambda: iter(batches), str)
    taken = [batch.feeds["x"] for batch in data.take(wanted, cut=True)]
    assert np.concatenate(taken).tolist() == rows[:wanted].tolist()
    assert data.take(wanted, cut=True).count() == min(wanted, 50)
    whole = replace(data, pending=lambda: iter([Pending(10, lambda: Batch({"x": rows[:10], "scale": shared}))]))
    assert whole.take(4, cut=True).count() == 10


def numbered(sizes: list[int]) -> Data:
    """A stream of batches of these sizes; labels count the samples."""
    starts = list(itertools.accumulate(sizes, initial=0))
    batches = [
        ({"x": np.zeros((n, 4), np.float32)}, np.arange(start, start + n))
        for n, start in zip(sizes, starts, strict=False)
    ]
    return open_data(batches, VECTORS)


@given(st.lists(st.integers(1, 9), min_size=2, max_size=60), st.fractions(Fraction(1, 50), Fraction(1, 2)))
def test_split_is_a_partition_with_about_the_share_held_back(sizes: list[int], share: Fraction) -> None:
    data = numbered(sizes)
    calibration, validation = split(data, float(share))
    assert sorted(seen(calibration) + seen(validation)) == list(range(sum(sizes)))
    assert seen(calibration)
    assert seen(validation)
    held = len(list(validation))
    assert abs(held - float(share) * len(sizes)) <= 1
    assert everything(split(data, float(share))[1]) == everything(validation)
    assert len({data.digest(), calibration.digest(), validation.digest()}) == 3


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.integers(1, 300))
def test_take_gives_the_fewest_batches_that_suffice(sizes: list[int], samples: int) -> None:
    taken = numbered(sizes).take(samples)
    assert seen(taken) == list(range(taken.count()))
    assert taken.count() >= min(samples, sum(sizes))
    assert taken.count() - len(list(taken)[-1].feeds["x"]) < samples


def test_parts_of_parts() -> None:
    calibration, _ = split(numbered([2] * 10), 0.5)
    assert seen(calibration.take(5)) == [0, 1, 4, 5, 8, 9]
    first, second = split(numbered([2] * 10).take(8), 0.5)
    assert (seen(first), seen(second)) == ([0, 1, 4, 5], [2, 3, 6, 7])


def test_what_is_passed_over_is_not_read() -> None:
    read = []

    def batches() -> Iterator[Array]:
        for i in itertools.count():
            read.append(i)
            yield np.zeros((2, 4), np.float32)

    assert open_data(batches, VECTORS).take(6).count() == 6
    assert read == [0, 1, 2]


def test_one_batch_cannot_be_split() -> None:
    with pytest.raises(OnnxoptError, match="is a single batch"):
        split(numbered([100]), 0.2)
    with pytest.raises(ValueError, match=r"held_back is 0\.9"):
        split(numbered([1, 1]), 0.9)


def test_a_batch_knows_its_size() -> None:
    one = np.float32(1)
    assert Batch({"sr": np.array(16000), "x": np.zeros((3, 2))}, None).size == 3
    assert Batch({"sr": np.asarray(one)}, None).size == 1
    assert Batch({"x": np.zeros((1, 2))}, np.zeros(5)).size == 5


# ---- arrays ----------------------------------------------------------------------------------------------------------


@given(st.integers(1, 400))
def test_arrays_are_shuffled_together_in_batches_none_left_out(tmp_path_factory: Any, count: int) -> None:
    file = tmp_path_factory.getbasetemp() / "shuffled.npz"
    x = np.arange(4.0 * count).reshape(count, 4)
    np.savez(file, x=x, labels=np.arange(count))
    data = open_data(file, VECTORS)
    labels = seen(data)
    assert sorted(labels) == list(range(count))
    assert count < 10 or labels != list(range(count))
    for batch in data:
        assert batch.feeds["x"].dtype == np.float32
        assert batch.labels is not None
        assert batch.feeds["x"][:, 0].tolist() == (4 * batch.labels).tolist()
    again = open_data(file, VECTORS)
    assert everything(again) == everything(data)
    assert again.digest() == data.digest()
    sizes = [batch.size for batch in data]
    assert len(set(sizes[:-1])) <= 1
    assert max(sizes) <= 64


def test_arrays_sorted_by_class_are_mixed_in_every_part(arrays: Callable[..., Path]) -> None:
    data = open_data(arrays(x=np.zeros((500, 4)), y=np.repeat(np.arange(5), 100)), VECTORS)
    for part in split(data, 0.1):
        assert set(seen(part)) == set(range(5))


def test_names_of_arrays(arrays: Callable[..., Path]) -> None:
    x, y = np.ones((20, 4)), np.arange(20)
    for stored in ({"x": x}, {"other": x}, {"x": x, "label": y}, {"pixels": x, "y": y}, {"x": x, "labels": y}):
        data = open_data(arrays(**stored), VECTORS)
        assert data.count() == 20
        assert all((batch.labels is None) == (len(stored) == 1) for batch in data)
    two = open_data(arrays(a=x, y=-x, labels=y), taking(a=["n", 4], y=["n", 4]))
    for batch in two:
        assert (batch.feeds["y"] == -1).all(), "an input called y is an input"
        assert batch.labels is not None


def test_a_single_npy(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(40, dtype=np.float32).reshape(10, 4))
    data = open_data(str(tmp_path / "x.npy"), VECTORS)
    assert sorted(value for batch in data for value in batch.feeds["x"].ravel()) == list(range(40))
    with pytest.raises(OnnxoptError, match=r"2 inputs \(a, b\); store their arrays in one .npz"):
        open_data(tmp_path / "x.npy", taking(a=["n", 4], b=["n", 4]))


def test_a_fixed_batch_drops_the_incomplete_rest(arrays: Callable[..., Path]) -> None:
    data = open_data(arrays(x=np.zeros((23, 4)), y=np.arange(23)), taking(x=[5, 4]))
    assert [batch.size for batch in data] == [5, 5, 5, 5]
    assert data.count() == 20
    with pytest.raises(OnnxoptError, match="holds 23 samples, the model's inputs take 32 at once"):
        open_data(arrays(x=np.zeros((23, 4))), taking(x=[32, 4]))


def test_an_array_without_dimensions_goes_with_every_batch(arrays: Callable[..., Path]) -> None:
    rate = taking(x=["n", 4], rate=[])
    data = open_data(arrays(x=np.zeros((30, 4)), rate=np.float32(16000)), rate)
    assert data.count() == 30
    assert {float(batch.feeds["rate"]) for batch in data} == {16000.0}


def test_whole_numbers_are_cast_where_they_fit(arrays: Callable[..., Path]) -> None:
    session = taking(TensorProto.INT32, x=["n", 2])
    for dtype in (np.int64, np.uint8, np.int16):
        data = open_data(arrays(x=np.full((4, 2), 100, dtype)), session)
        assert {str(batch.feeds["x"].dtype) for batch in data} == {"int32"}
    data = open_data(arrays(x=np.full((4, 2), 2**40)), session)
    with pytest.raises(OnnxoptError, match="'x' is given numbers that do not fit into int32"):
        list(data)


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"x": np.zeros((9, 5))}, r"'x' is given float64 \[9, 5\], the model takes float32 \[n, 4\]"),
        ({"x": np.zeros((9, 4, 1))}, r"\[9, 4, 1\]"),
        ({"x": np.zeros((9, 4), np.uint8)}, r"uint8 \[9, 4\], the model takes float32"),
        ({"x": np.zeros((9, 4)), "y": np.zeros(8)}, "equally many samples in every array, found x 9, labels 8"),
        ({"x": np.zeros((0, 4))}, "found x 0"),
        ({"x": np.zeros((9, 4)), "lables": np.zeros(9)}, r"holds x, lables; expected an array for each .* \(x\)"),
        ({"y": np.zeros(9)}, "holds y; expected"),
        ({"x": np.array([None, 1])}, "Object arrays"),
    ],
)
def test_wrong_arrays_are_one_sentence(arrays: Callable[..., Path], stored: dict[str, Array], message: str) -> None:
    with pytest.raises(OnnxoptError, match=rf"^.*d\.npz: .*{message}") as caught:
        open_data(arrays(**stored), VECTORS)
    assert "\n" not in str(caught.value)


def test_a_damaged_file(arrays: Callable[..., Path]) -> None:
    file = arrays(x=np.zeros((100, 4)))
    for content in (file.read_bytes()[:-40], b"", b"no archive"):
        file.write_bytes(content)
        with pytest.raises(OnnxoptError, match="not a file of numpy arrays that can be read"):
            open_data(file, VECTORS)


@needs_data
@pytest.mark.slow
def test_arrays_give_the_accuracy_that_is_known(tmp_path: Path) -> None:
    session = realdata.plain_session(realdata.MODELS / "lenet5.onnx")
    samples = realdata.mnist("test")
    np.savez(tmp_path / "mnist.npz", pixels=samples.images[:, None].astype(np.float32) / 256, y=samples.labels)
    data = open_data(tmp_path / "mnist.npz", session)
    right = sum(int((session.run(None, b.feeds)[0].argmax(1) == b.labels).sum()) for b in data)
    assert right == 9894
    for part in split(data, 0.2):
        assert set(seen(part)) == set(range(10))


# ---- functions -------------------------------------------------------------------------------------------------------


def test_a_function_by_name_is_called_for_every_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_data.py").write_text(
        "import numpy as np\n"
        "class Of:\n"
        "    @staticmethod\n"
        "    def batches():\n"
        "        for i in range(3):\n"
        "            yield {'x': np.full((2, 4), i)}, [i, i]\n"
    )
    monkeypatch.chdir(tmp_path)
    session = taking(TensorProto.INT64, x=["n", 4])
    data = open_data("own_data:Of.batches", session)
    assert seen(data) == [0, 0, 1, 1, 2, 2]
    assert seen(data) == [0, 0, 1, 1, 2, 2]
    assert data.name == "own_data:Of.batches"
    assert data.digest() == open_data("own_data:Of.batches", session).digest()
    assert data.digest() != data.take(2).digest()


@pytest.mark.parametrize("item", [np.ones((2, 4), np.float64), {"x": np.ones((2, 4))}, ({"x": np.ones((2, 4))}, None)])
def test_what_a_function_may_yield(item: Any) -> None:
    for spec in ([item, item], lambda: iter([item, item])):
        data = open_data(spec, VECTORS)
        assert everything(data) == [({"x": [[1.0] * 4] * 2}, None)] * 2
        assert open_data(data, VECTORS) is data


def raising() -> Iterator[Array]:
    yield np.ones((2, 4), np.float32)
    raise KeyError("gone")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ([np.ones((2, 5), np.float32)], r"'x' is given float32 \[2, 5\], the model takes float32 \[n, 4\]"),
        ([np.ones((2, 4), int)], "is given int64"),
        ([{"z": np.ones((2, 4))}], "gives z; the model's inputs are x"),
        ([(np.ones((2, 4)), np.ones(3))], "gives 3 labels for 2 samples"),
        ([None], r"is given object \[\]"),
        (raising, r"test_data:raising: KeyError: 'gone' \(test_data.py, line \d+\)"),
        (lambda: 3, "TypeError: 'int' object is not iterable"),
    ],
)
def test_wrong_batches_are_one_sentence(spec: Any, message: str) -> None:
    with pytest.raises(OnnxoptError, match=message) as caught:
        list(open_data(spec, VECTORS))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nowhere.npz", "nowhere.npz: no such file; expected a .npz"),
        (
            __file__,
            r"test_data.py: is no data; expected a .npz or .npy file, audio .*, a folder of images, texts .*, or a f",
        ),
        ("no_such_module:batches", r"no_such_module:batches: ModuleNotFoundError: No module named 'no_such_module'$"),
        ("math:tau", "math:tau: is a float, expected a function"),
        ((x for x in ()), "can be read only once; give the function"),
        (3, "can be read only once"),
    ],
)
def test_no_data_is_one_sentence(spec: Any, message: str) -> None:
    with pytest.raises(OnnxoptError, match=message):
        open_data(spec, VECTORS)


OWN_READER = """
import numpy as np
from onnxopt.data.readers.base import Reader, path_of
from onnxopt.data.readers.hooks import HookReader

class OwnReader(Reader):
    priority = 25
    reads = "a .dat file"

    def claims(self, spec):
        return path_of(spec) is not None and path_of(spec).suffix == ".dat" and path_of(spec).exists()

    def open(self, spec, inputs, options):
        return HookReader().open(lambda: [np.loadtxt(spec, np.float32)], inputs, options)
"""


def test_a_reader_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.py").write_text(OWN_READER)
    np.savetxt(tmp_path / "x.dat", np.arange(40).reshape(10, 4))
    with monkeypatch.context() as patch:
        patch.setattr(data_readers, "__path__", [*data_readers.__path__, str(tmp_path)])
        assert open_data(tmp_path / "x.dat", VECTORS).count() == 10
        with pytest.raises(
            OnnxoptError,
            match=r"\.npy file, audio \(.*\), a folder of images, texts \(.*\), a \.dat file, or a function",
        ):
            open_data(tmp_path / "y.dat", VECTORS)
    del sys.modules["onnxopt.data.readers.own"], data_readers.own
    gc.collect()  # a class refers to its subclasses weakly
    assert len(data_readers.readers()) == 5


def test_only_images_are_prepared(arrays: Callable[..., Path]) -> None:
    with pytest.raises(OnnxoptError, match="only a folder of images is prepared"):
        open_data(arrays(x=np.zeros((9, 4))), VECTORS, ImageOptions("imagenet"))
