"""Laws of synthetic inputs: what graphs, shapes and names tell of an input, and what is drawn for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from builders import model, weights
from feeding import everything
from onnx import TensorProto, helper, numpy_helper

from onnxopt.data import CannotRun, Data, Hints, quiet_session, split, synthetic
from onnxopt.data.guesses import laws_of
from onnxopt.data.inputs import inputs_of
from onnxopt.data.laws import At, Writing

I64, BOOL = TensorProto.INT64, TensorProto.BOOL
node = helper.make_node
Shape = list[Any]


def graph(
    nodes: list[onnx.NodeProto],
    tensors: Mapping[str, Any],
    inputs: Mapping[str, tuple[int, Shape]],
    outputs: Mapping[str, Shape | None],
) -> onnx.ModelProto:
    """A model with inputs of any type and float outputs."""
    made = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info(name, *what) for name, what in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()],
    )  # fmt: skip
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def drawn(made: onnx.ModelProto, count: int = 64) -> Data:
    return synthetic(quiet_session(made.SerializeToString()), Hints(made), count)


def values(data: Data, name: str) -> np.ndarray[Any, Any]:
    return np.concatenate([np.ravel(batch.feeds[name]) for batch in data])


def encoder(rows: int = 300) -> onnx.ModelProto:
    """Words and positions of two tables, summed where a mask says so."""
    nodes = [
        node("Cast", ["ids"], ["long"], to=I64), node("Gather", ["words", "long"], ["w"]),
        node("Gather", ["places", "position_ids"], ["p"]), node("Add", ["w", "p"], ["e"]),
        node("Cast", ["attention_mask"], ["m"], to=1), node("Unsqueeze", ["m", "two"], ["mm"]),
        node("Mul", ["e", "mm"], ["x"]), node("ReduceMean", ["x"], ["y"], axes=[1], keepdims=0),
    ]  # fmt: skip
    inputs = {
        "ids": (TensorProto.INT32, ["n", "t"]),
        "attention_mask": (I64, ["n", "t"]),
        "position_ids": (I64, ["n", "t"]),
    }
    tables = {"words": weights(rows, 8), "places": weights(64, 8), "two": np.array([2])}
    return graph(nodes, tables, inputs, {"y": ["n", 8]})


def test_token_ids_cover_the_table_in_several_lengths() -> None:
    data = drawn(encoder(), 640)
    assert data.name == "synthetic token ids"
    ids = values(data, "ids")
    assert ids.min() == 0
    assert ids.max() == 299
    assert len(np.unique(ids)) > 280
    assert len({batch.feeds["ids"].shape[1] for batch in data}) > 2
    assert 0.75 < values(data, "attention_mask").mean() < 1
    for batch in data:
        mask, places = batch.feeds["attention_mask"], batch.feeds["position_ids"]
        assert (np.diff(mask, axis=1) <= 0).all(), "the end is masked"
        assert (places == np.arange(places.shape[1])).all()


def test_a_comparison_with_counting_numbers_tells_the_range() -> None:
    nodes = [
        node("Unsqueeze", ["ids", "axis"], ["i"]), node("Equal", ["i", "range"], ["hot"]),
        node("Cast", ["hot"], ["f"], to=1), node("MatMul", ["f", "w"], ["y"]),
    ]  # fmt: skip
    tensors = {"axis": np.array([2]), "range": np.arange(40)[None, None], "w": weights(40, 8)}
    ids = values(drawn(graph(nodes, tensors, {"ids": (I64, ["n", 12])}, {"y": ["n", 12, 8]})), "ids")
    assert (ids.min(), ids.max()) == (0, 39)


def test_a_switch_takes_what_it_is_compared_with() -> None:
    nodes = [node("Equal", ["rate", "r"], ["same"]), node("Where", ["same", "x", "z"], ["y"])]
    made = graph(nodes, {"r": np.array(16000), "z": np.zeros(1, np.float32)},
                 {"x": (1, ["n", 8]), "rate": (I64, [])}, {"y": ["n", 8]})  # fmt: skip
    assert set(values(drawn(made), "rate").tolist()) == {16000, 16001}


@pytest.mark.parametrize("kind", ["sub", "mul", "batch norm", "quantize"])
def test_the_graph_tells_a_scale(kind: str) -> None:
    """Whatever it is told by, a law has about the mean and the spread that the model normalises."""
    four = np.full(4, 1, np.float32)
    kinds: dict[str, tuple[list[onnx.NodeProto], dict[str, Any]]] = {
        "sub": ([node("Sub", ["x", "m"], ["a"]), node("Div", ["a", "s"], ["b"])], {"m": 50 * four, "s": 20 * four}),
        "mul": ([node("Mul", ["x", "s"], ["a"]), node("Add", ["a", "m"], ["b"])], {"s": four / 20, "m": -2.5 * four}),
        "batch norm": (
            [node("BatchNormalization", ["x", "g", "g", "m", "v"], ["b"])], {"g": four, "m": 50 * four, "v": 400 * four}
        ),
        "quantize": (
            [node("QuantizeLinear", ["x", "s", "z"], ["a"]), node("DequantizeLinear", ["a", "s", "z"], ["b"])],
            {"s": np.float32(20 / 64), "z": np.uint8(0)},
        ),
    }  # fmt: skip
    first, tensors = kinds[kind]
    made = model([*first, node("MatMul", ["b", "w"], ["y"])], {**tensors, "w": weights(4, 8)}, {"x": ["n", 4]},
                 {"y": ["n", 8]})  # fmt: skip
    for law in drawn(made, 320).by_law:
        assert values(law, "x").mean() == pytest.approx(50, rel=0.25)
        assert values(law, "x").std() == pytest.approx(20, rel=0.35)


@pytest.mark.parametrize(("spread", "found"), [(60.0, (90, 160)), (1.0, (-0.1, 0.1)), (1e6, (-0.1, 0.1))])
def test_biases_of_the_first_layer_tell_raw_pixels(spread: float, found: tuple[float, float]) -> None:
    """A layer trained on pixels of 0..255 has weights so small that its biases are far beyond its sums for others.

    Weights that are nearly 0 tell nothing."""
    nodes = [node("Conv", ["x", "w", "b"], ["h"], pads=[1, 1, 1, 1]), node("Relu", ["h"], ["y"])]
    tensors = {"w": weights(8, 3, 3, 3, scale=0.2 / spread), "b": weights(8)}
    data = drawn(model(nodes, tensors, {"x": ["n", 3, 16, 16]}, {"y": ["n", 8, 16, 16]}), 32)
    assert data.name == "synthetic images"
    assert found[0] < values(data, "x").mean() < found[1]
    assert data.row_noise == np.inf, "images resemble images"


def test_a_normalization_behind_the_first_layer_tells_raw_pixels() -> None:
    nodes = [node("Conv", ["x", "w"], ["h"]), node("BatchNormalization", ["h", "one", "zero", "zero", "v"], ["y"])]
    eight = np.ones(8, np.float32)
    tensors = {"w": weights(8, 3, 3, 3), "one": eight, "zero": 0 * eight, "v": 60.0**2 * 27 * eight}
    data = drawn(graph(nodes, tensors, {"x": (1, ["n", 3, 16, 16])}, {"y": None}), 32)
    assert 90 < values(data, "x").mean() < 160


def test_spectra_and_caches_are_no_images() -> None:
    """Grey and not square, or very long: images or signals. Joined to something before it is filtered: a cache."""
    conv = [node("Conv", ["x", "w"], ["y"])]
    spectra = drawn(graph(conv, {"w": weights(4, 1, 3, 3)}, {"x": (1, ["n", 1, 49, 10])}, {"y": None}))
    assert spectra.name == "synthetic images and signals"
    assert spectra.row_noise < 1
    paths = drawn(graph(conv, {"w": weights(4, 3, 3, 3)}, {"x": (1, ["n", 3, 100, 20])}, {"y": None}))
    assert paths.name == "synthetic images and signals"
    nodes = [node("Concat", ["cache", "x"], ["next_cache"], axis=2), node("MatMul", ["next_cache", "w"], ["y"])]
    made = graph(nodes, {"w": weights(64, 4)}, {"x": (1, [1, 3, 1, 64]), "cache": (1, [1, 3, 8, 64])}, {"y": None})
    assert drawn(made).name == "synthetic signals"


def recurrent() -> onnx.ModelProto:
    """``h' = tanh(x W + h U)``, and ``h'`` times 2 as the output."""
    nodes = [
        node("MatMul", ["x", "w"], ["a"]), node("MatMul", ["state", "u"], ["b"]), node("Add", ["a", "b"], ["c"]),
        node("Tanh", ["c"], ["stateN"]), node("Add", ["stateN", "stateN"], ["y"]),
    ]  # fmt: skip
    return model(nodes, {"w": weights(6, 5), "u": weights(5, 5)}, {"x": ["n", 6], "state": ["n", 5]},
                 {"y": ["n", 5], "stateN": ["n", 5]})  # fmt: skip


def test_states_are_what_the_model_makes_of_them() -> None:
    made = recurrent()
    session, (law, *_) = quiet_session(made.SerializeToString()), drawn(made, 640).by_law
    batches = list(law)
    assert not batches[0].feeds["state"].any(), "the first step starts from zeros"
    following = session.run(["stateN"], batches[0].feeds)[0]
    np.testing.assert_array_equal(batches[1].feeds["state"], following)
    _, held_back = split(law, 0.25)
    assert everything(held_back)[0][0] == everything(law)[1][0], "batches that are skipped are made all the same"


def test_a_cache_grows_and_the_mask_covers_all_of_it() -> None:
    """``past + new = total``, as decoders of text have it."""
    nodes = [
        node("Gather", ["words", "input_ids"], ["w"]), node("Concat", ["past_keys", "w"], ["present_keys"], axis=1),
        node("Cast", ["attention_mask"], ["m"], to=1), node("Unsqueeze", ["m", "two"], ["mm"]),
        node("Mul", ["present_keys", "mm"], ["x"]), node("ReduceMean", ["x"], ["y"], axes=[1], keepdims=0),
    ]  # fmt: skip
    made = graph(
        nodes, {"words": weights(50, 8), "two": np.array([2])},
        {"input_ids": (I64, ["n", "new"]), "attention_mask": (I64, ["n", "total"]), "past_keys": (1, ["n", "past", 8])},
        {"y": ["n", 8], "present_keys": ["n", "total", 8]},
    )  # fmt: skip
    lengths = [{name: array.shape[1] for name, array in batch.feeds.items()} for batch in drawn(made, 256).by_law[0]]
    assert len({length["past_keys"] for length in lengths}) > 3
    assert all(length["past_keys"] + length["input_ids"] == length["attention_mask"] for length in lengths)


def test_positions_go_on_behind_a_cache_and_lengths_lie_within_samples() -> None:
    nodes = [
        node("Gather", ["words", "ids"], ["w"]), node("Concat", ["cache", "w"], ["new_cache"], axis=1),
        node("Gather", ["places", "position_ids"], ["p"]), node("Add", ["w", "p"], ["y"]),
        node("Cast", ["lengths"], ["z"], to=1),
    ]  # fmt: skip
    made = graph(
        nodes, {"words": weights(50, 8), "places": weights(4096, 8)},
        {"cache": (1, ["n", "past", 8]), "ids": (I64, ["n", "new"]), "position_ids": (I64, ["n", "new"]),
         "lengths": (I64, ["n"])},
        {"y": None, "new_cache": ["n", "all", 8], "z": ["n"]},
    )  # fmt: skip
    for batch in drawn(made, 256).by_law[0]:
        places, past = batch.feeds["position_ids"], batch.feeds["cache"].shape[1]
        if past > 1:  # the first cache is one step of zeros
            assert (places[0] == past + np.arange(places.shape[1])).all()
        assert batch.feeds["lengths"].max() == batch.feeds["ids"].shape[1]


@pytest.mark.parametrize(
    ("entry", "output"),
    [("h", "h_out"), ("h0", "hn"), ("past.0.key", "present.0.key"), ("state_in", "state_out"), ("mem", "mem_new")],
)
def test_names_of_states(entry: str, output: str) -> None:
    """Even where the state is the first input."""
    nodes = [node("MatMul", ["x", "w"], ["a"]), node("Add", [entry, "a"], [output]), node("Abs", [output], ["y"])]
    made = model(nodes, {"w": weights(6, 6)}, {entry: ["n", 6], "x": ["n", 6]}, {"y": ["n", 6], output: ["n", 6]})
    (first, *_) = drawn(made).by_law[0]
    assert not first.feeds[entry].any()


def test_what_goes_in_and_comes_out_in_one_shape_is_no_state() -> None:
    """A frame of sound that is cleaned, beside one that is only listened to; a wave and the share of speech in it."""
    nodes = [node("MatMul", ["input", "w"], ["output"])]
    made = model(nodes, {"w": weights(6, 1)}, {"input": ["n", 6], "rate": ["n", 1]}, {"output": ["n", 1]})
    (first, *_) = drawn(made).by_law[0]
    assert first.feeds["input"].any()
    nodes = [node("MatMul", ["mix", "w"], ["a"]), node("Add", ["a", "far"], ["clean"])]
    made = model(nodes, {"w": weights(6, 6)}, {"mix": [1, 6], "far": [1, 6]}, {"clean": [1, 6]})
    (first, *_) = drawn(made).by_law[0]
    assert first.feeds["mix"].any()
    assert first.feeds["far"].any()


def test_tables_of_integers_and_ids_that_are_shifted() -> None:
    nodes = [
        node("Add", ["ids", "shift"], ["i"]), node("DequantizeLinear", ["table", "step"], ["t"]),
        node("Gather", ["t", "i"], ["y"]),
    ]  # fmt: skip
    tensors = {"shift": np.array([0, 100]), "table": np.ones((200, 4), np.int8), "step": np.float32(0.1)}
    ids = values(drawn(graph(nodes, tensors, {"ids": (I64, ["n", 2])}, {"y": None}), 320), "ids")
    assert ids.max() == 99


def test_names_and_other_integers() -> None:
    nodes = [node("Cast", [name], [f"{name}_f"], to=1) for name in ("flags", "counts")]
    nodes += [node("Concat", ["flags_f", "counts_f"], ["y"], axis=1)]
    made = graph(nodes, {}, {"flags": (BOOL, ["n", 3]), "counts": (I64, ["n", 4])}, {"y": ["n", 7]})
    data = drawn(made)
    assert values(data, "flags").dtype == np.bool_
    assert values(data, "counts").max() > 1


def test_inputs_that_are_no_tensors_are_refused() -> None:
    made = graph([node("Identity", ["s"], ["y"])], {}, {}, {})
    made.graph.input.append(helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, ["n"]))
    made.graph.output.append(helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, ["n"]))
    with pytest.raises(CannotRun, match="input 's' is no tensor of numbers or texts"):
        drawn(made)


# ---- writing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 3, 32, 200), (4, 200, 32, 3)])
def test_writing_has_ink_of_one_brightness_on_paper_of_another(shape: tuple[int, ...]) -> None:
    axis = shape.index(3)
    law = Writing(np.dtype(np.float32), axis, None)
    pixels = law.draw(np.random.default_rng(0), shape, At())
    assert np.array_equal(pixels, law.draw(np.random.default_rng(0), shape, At()))
    assert pixels.shape == shape and pixels.min() >= 0 and pixels.max() <= 255
    for image in np.moveaxis(pixels, axis, 1):
        grey = image.mean(0)
        ink = np.abs(grey - np.median(grey)) > 60
        assert 0.03 < ink.mean() < 0.5
        across = ink.any(axis=0 if grey.shape[0] < grey.shape[1] else 1)
        assert across.mean() > 0.4, "signs from end to end"


def test_writing_has_the_scale_that_is_asked_for() -> None:
    law = Writing(np.dtype(np.float32), 1, (0.25, 0.5))
    x = law.draw(np.random.default_rng(0), (8, 3, 32, 200), At())
    assert x.mean() == pytest.approx(0.5, abs=1e-3)
    assert x.std() == pytest.approx(0.25, rel=1e-3)


@pytest.mark.parametrize(("shape", "written"), [([3, 32, 256], True), ([3, 64, 128], False), ([1, 32, 256], False)])
def test_long_images_in_colour_may_be_writing(shape: list[int], written: bool) -> None:
    made = model(
        [node("Conv", ["x", "w"], ["y"])], {"w": weights(4, shape[0], 3, 3)}, {"x": ["n", *shape]}, {"y": None}
    )
    (entry,) = inputs_of(quiet_session(made.SerializeToString()))
    laws = laws_of(entry, Hints(made), (16, *shape), 4)
    assert any(isinstance(law, Writing) for law in laws) is written
