"""Layer outputs in dynamic fixed point: the runtime computes what the definition says, and nothing else changes."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from builders import ALL, cnn, model, weights
from classical import Calibrated, needs_data
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper, numpy_helper
from test_fixedpoint import reference

import onnxopt
from common import realdata
from onnxopt.build.execute_plan import execute_plan
from onnxopt.calibration.collect import Statistics
from onnxopt.calibration.stats import Stats
from onnxopt.data import Hints, quiet_session, synthetic
from onnxopt.errors import OnnxoptError
from onnxopt.graph import Graph, QuantParams, normalise
from onnxopt.passes import PASSES, Skip
from onnxopt.passes.quantise.outputs import Outputs
from onnxopt.spec.overrides import Overrides
from onnxopt.spec.plan import Plan, Step

Array = np.ndarray[Any, Any]
OPSETS = (8, 10, 11, 13, 17, 21)


def embedded(graph: Graph) -> onnx.ModelProto:
    """What is exported, as a model that runs alone and that ONNX's checker has nothing to say against."""
    inner, encodings = graph.export()
    for tensor in inner.graph.initializer:
        if tensor.name in encodings:
            tensor.CopyFrom(numpy_helper.from_array(encodings[tensor.name].values(), tensor.name))
    onnx.checker.check_model(inner, full_check=True)
    return inner


def ran(made: onnx.ModelProto, optimized: bool = True, **feeds: Array) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(value) for value in session.run(None, feeds)]


def unchanged(opset: int, elem: int = TensorProto.FLOAT) -> tuple[Graph, Any]:
    """y = x times the identity, [n, 4], and the one site."""
    dtype = helper.tensor_dtype_to_np_dtype(elem)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "test",
        [helper.make_tensor_value_info("x", elem, ["n", 4])],
        [helper.make_tensor_value_info("y", elem, ["n", 4])],
        [numpy_helper.from_array(np.eye(4, dtype=dtype), "w")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    normalise(made)
    found = Graph(made)
    return found, next(iter(found.sites()))


def ranging(peak: float) -> Stats:
    """Of a layer that gives y, up to `peak`."""
    return Stats(peaks=lambda: {"y": peak})


def fixed_point(values: Array, peak: float, bits: int, opset: int) -> Array:
    """As the papers have it, in exact arithmetic; where there is neither a type nor Round, halves go up."""
    length = 1
    while Fraction(2) ** (length - 1) < Fraction(peak):
        length += 1
    while Fraction(2) ** (length - 2) >= Fraction(peak):
        length -= 1
    step, top = 2.0 ** (length - bits), 2 ** (bits - 1)
    grid = values.astype(np.float64) / step
    halves_up = opset < 10 or (opset == 10 and bits > 8)
    return np.clip(np.floor(grid + 0.5) if halves_up else np.rint(grid), -top, top - 1) * step


@given(
    values=hnp.arrays(np.float32, st.tuples(st.integers(1, 5), st.just(4)), elements=st.one_of(
        st.sampled_from([0.0, 0.5, -0.5, 1.5, -1.5, 0.09375]), st.floats(-9, 9, width=32, allow_subnormal=False),
    )),
    peak=st.floats(2**-6, 16), bits=st.integers(2, 16), opset=st.sampled_from(OPSETS),
)  # fmt: skip
@settings(deadline=None, max_examples=150)
def test_the_runtime_computes_what_the_papers_say(values: Array, peak: float, bits: int, opset: int) -> None:
    """Beyond the range that was seen they saturate."""
    graph, site = unchanged(opset)
    Outputs(bits).apply(graph, site, ranging(peak))
    (got,) = ran(embedded(graph), x=values)
    assert got.dtype == np.float32
    assert np.array_equal(got, fixed_point(values, peak, bits, opset))


@pytest.mark.parametrize("bits", [2, 8, 16])
def test_weights_and_outputs_have_the_same_grid(bits: int) -> None:
    values = weights(8, 4, seed=1)
    graph, site = unchanged(17)
    Outputs(bits).apply(graph, site, ranging(float(np.abs(values).max())))
    wanted = [float(x) for x in reference(values.ravel().tolist(), bits)]
    assert ran(embedded(graph), x=values)[0].ravel().tolist() == wanted


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("bits", [5, 8, 11])
def test_halves_and_doubles(bits: int, opset: int) -> None:
    """Are rounded as float32, and what comes out has the type that it had."""
    for elem in (TensorProto.FLOAT16, TensorProto.DOUBLE):
        graph, site = unchanged(opset, elem)
        values = (weights(16, 4) * 0.7).astype(helper.tensor_dtype_to_np_dtype(elem))
        Outputs(bits).apply(graph, site, ranging(3))
        (got,) = ran(embedded(graph), x=values)
        assert got.dtype == values.dtype
        assert np.array_equal(got, fixed_point(values.astype(np.float32), 3.0, bits, opset).astype(values.dtype))


@pytest.mark.parametrize(("opset", "types"), [(8, []), (17, [3]), (21, [3, 5])])
def test_integers_are_kept_in_the_types_there_are(opset: int, types: list[int]) -> None:
    """INT8 and INT16; what they have no room for, or the operators no type, is floats that are whole numbers."""
    found = set()
    for bits in range(2, 17):
        graph, site = unchanged(opset)
        Outputs(bits).apply(graph, site, ranging(1))
        made = embedded(graph)
        tensors = {tensor.name: tensor for tensor in made.graph.initializer}
        quantizes = [node for node in made.graph.node if node.op_type == "QuantizeLinear"]
        assert bool(quantizes) == (opset >= (10 if bits <= 8 else 21))
        found |= {tensors[node.input[2]].data_type for node in quantizes}
    assert sorted(found) == types


@given(zero=st.integers(-3, 130), low=st.integers(0, 40), more=st.integers(1, 215), bits=st.sampled_from([8, 16]))
@settings(deadline=None, max_examples=40)
def test_a_record_of_any_grid(zero: int, low: int, more: int, bits: int) -> None:
    """Signed or not, with zero anywhere."""
    graph, _ = unchanged(21)
    high, scale = (low + more) * (bits * 8 - 63), 0.3
    zero = max(zero, 0)
    graph.quantize("y", QuantParams.within(scale, zero, low, high))
    values = weights(32, 4, scale=20)
    (got,) = ran(embedded(graph), x=values)
    grid = np.clip(np.rint(values / np.float32(scale)) + zero, low, high) - zero
    np.testing.assert_allclose(got, grid * scale, rtol=1e-6)


def test_reset_forgets() -> None:
    graph, site = unchanged(17)
    before = graph.export()[0].SerializeToString(deterministic=True)
    Outputs(8).apply(graph, site, ranging(1))
    rounded = graph.export()[0].SerializeToString(deterministic=True)
    assert rounded != before
    assert graph.export()[0].SerializeToString(deterministic=True) == rounded
    graph.reset()
    assert graph.export()[0].SerializeToString(deterministic=True) == before


def test_everybody_gets_what_was_rounded() -> None:
    """Other nodes, branches and the user; names that are taken stay whose they are."""
    branch = [
        helper.make_graph(
            [helper.make_node(op, ["h"], [name])], name, [], [helper.make_tensor_value_info(name, 1, None)]
        )
        for op, name in (("Neg", "then"), ("Identity", "else"))
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Add", ["h", "h@scale"], ["plus"]),
        helper.make_node("If", ["yes"], ["chosen"], then_branch=branch[0], else_branch=branch[1]),
    ]
    tensors = {"w": np.eye(4, dtype=np.float32), "h@scale": np.float32(5), "yes": np.bool_(True)}
    made = model(nodes, tensors, {"x": ["n", 4]}, {"h": ["n", 4], "plus": ["n", 4], "chosen": ["n", 4]})
    normalise(made)
    graph = Graph(made)
    assert graph.linears()["w"][0].output == "h"
    graph.quantize("h", QuantParams.within(0.5, 0, -8, 7))
    values = weights(8, 4)
    wanted = np.clip(np.rint(values / 0.5), -8, 7) * 0.5
    h, plus, chosen = ran(embedded(graph), x=values)
    assert np.array_equal(h, wanted)
    assert np.array_equal(plus, wanted + 5)
    assert np.array_equal(chosen, -wanted)


MATMUL = helper.make_node("MatMul", ["x", "w"], ["m"])


@pytest.mark.parametrize(
    ("nodes", "output"),
    [
        ([MATMUL], "m"),
        ([MATMUL, helper.make_node("Relu", ["m"], ["r"])], "r"),
        ([MATMUL, helper.make_node("Clip", ["m", "", "six"], ["c"])], "c"),
        ([MATMUL, helper.make_node("Add", ["b", "m"], ["a"]), helper.make_node("Relu", ["a"], ["r"])], "r"),
        ([MATMUL, helper.make_node("Add", ["m", "x"], ["a"]), helper.make_node("Relu", ["a"], ["r"])], "m"),
        ([MATMUL, helper.make_node("Add", ["m", "m"], ["a"])], "m"),
        ([MATMUL, helper.make_node("Sigmoid", ["m"], ["s"]), helper.make_node("Relu", ["s"], ["r"])], "m"),
        ([MATMUL, helper.make_node("Relu", ["m"], ["r"]), helper.make_node("Neg", ["m"], ["n"])], "m"),
        ([helper.make_node("Conv", ["x", "k"], ["c"]), helper.make_node("Clip", ["c", "", "six"], ["r"])], "r"),
        ([helper.make_node("ConvTranspose", ["x", "k", "b"], ["c"]), helper.make_node("Relu", ["c"], ["r"])], "r"),
        ([helper.make_node("Gemm", ["x", "w", "b"], ["g"]), helper.make_node("Relu", ["g"], ["r"])], "r"),
    ],
)
def test_a_layer_ends_behind_its_bias_and_rectifier(nodes: list[onnx.NodeProto], output: str) -> None:
    """Where nobody reads what is before them."""
    tensors = {"w": weights(4, 4), "k": weights(4, 4, 1, 1), "b": weights(4), "six": np.float32(6)}
    made = model(nodes, tensors, {"x": ["n", 4]}, {nodes[-1].output[0]: None})  # type: ignore[dict-item]
    normalise(made)
    (path,) = Graph(made).linears().keys() & {"w", "k"}
    (linear,) = Graph(made).linears()[path]
    assert linear.output == output


def shared() -> onnx.ModelProto:
    """One weight twice: x[n, 16] -> MatMul w -> Relu -> MatMul w -> y."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "w"], ["y"]),
    ]
    return model(nodes, {"w": weights(16, 16)}, {"x": ["n", 16]}, {"y": ["n", 16]})


def test_layers_that_share_a_weight_have_a_grid_each(tmp_path: Path) -> None:
    samples = weights(64, 16, seed=1)
    measured = Calibrated(shared(), lambda: np.split(samples, 4), tmp_path)
    (site,) = measured.sites
    peaks = measured.of(site).peaks()
    h = np.maximum(samples @ measured.graph.values("w"), 0)
    assert peaks == pytest.approx({"r": h.max(), "y": np.abs(h @ measured.graph.values("w")).max()}, rel=1e-5)
    Outputs(6).apply(measured.graph, site, measured.of(site))
    assert len({how.scale for how in measured.graph.quantized.values()}) == 2
    assert len(np.unique(ran(embedded(measured.graph), x=samples)[0])) <= 2**6


def calibrated(name: str, folder: Path) -> tuple[Calibrated, list[dict[str, Array]]]:
    made = ALL[name]()
    inputs = synthetic(quiet_session(made.SerializeToString()), Hints(made), 32)
    feeds = [batch.feeds for batch in inputs]
    return Calibrated(made, lambda: iter(feeds), folder), feeds


@pytest.mark.parametrize("name", ALL)
def test_every_decision_leaves_a_valid_model(name: str, tmp_path: Path) -> None:
    """Of every layer of every small model; dearer decisions have less error."""
    found, feeds = calibrated(name, tmp_path)
    wanted = [ran(embedded(found.graph), **feed) for feed in feeds]
    for site in found.sites:
        errors = []
        decisions = list(Outputs.space(site, found.of(site)))
        assert bool(decisions) == (site.path in found.graph.linears())
        for decision in decisions:
            assert Outputs.from_step(Step.parse(str(decision.step()))) == decision
            plan, exported = Plan("", {site.path: decision.step()}), []
            for _ in range(2):
                (event,) = execute_plan(found.graph, plan, found.statistics)
                assert (event.step, event.reason, event.error) == (str(decision.step()), "", 0)
                exported.append(embedded(found.graph).SerializeToString(deterministic=True))
            assert exported[0] == exported[1]
            got = [ran(onnx.load_from_string(exported[0]), **feed) for feed in feeds]
            pairs = [(a, b) for x, y in zip(got, wanted, strict=True) for a, b in zip(x, y, strict=True)
                     if isinstance(a, np.ndarray) and a.dtype == np.float32]  # fmt: skip
            errors.append(float(np.sqrt(np.mean([np.square(a - b).mean() for a, b in pairs]))))
        assert errors == sorted(errors, reverse=True)


def test_weights_stay_what_they_are_in_the_runtime(tmp_path: Path) -> None:
    """Newer runtimes round float weights to 8 bits where they find layers between integers; see `round_outputs`."""
    nodes, tensors, value = [], {}, "x"
    for i in range(4):
        tensors[f"w{i}"], tensors[f"b{i}"] = weights(16, 16, 3, 3, seed=i, scale=0.05), weights(16, seed=i, scale=0.1)
        nodes.append(helper.make_node("Conv", [value, f"w{i}", f"b{i}"], [f"c{i}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"]))
        value = f"r{i}"
    made = model(nodes, tensors, {"x": ["n", 16, 8, 8]}, {value: ["n", 16, 8, 8]})
    samples = weights(16, 16, 8, 8, seed=9)
    found = Calibrated(made, lambda: np.split(samples, 4), tmp_path)
    for site in found.sites:
        Outputs(8).apply(found.graph, site, found.of(site))
    rounded = embedded(found.graph)
    (slow,), (fast,) = (ran(rounded, optimized, x=samples) for optimized in (False, True))
    assert np.mean(slow != fast) < 1e-3


@pytest.mark.parametrize(
    ("peaks", "reason"),
    [({}, "not measured"), ({"y": 0.0}, "zeros"), ({"y": np.inf}, "reach inf"), ({"y": np.nan}, "reach nan")],
)
def test_without_a_range_there_is_no_grid(peaks: dict[str, float], reason: str) -> None:
    graph, site = unchanged(17)
    with pytest.raises(Skip, match=reason):
        Outputs(8).apply(graph, site, Stats(peaks=lambda: peaks))
    assert not graph.quantized
    (event,) = execute_plan(graph, Plan("", {"w": Step.parse("outputs{bits=8}")}), Statistics(None, {}, {}))
    assert (event.step, event.reason) == ("lossless", "the range of the layer's outputs was not measured")


@pytest.mark.parametrize(("elem", "peak"), [(TensorProto.FLOAT, 3e38), (TensorProto.FLOAT16, 6e4)])
def test_what_the_type_cannot_hold_is_not_rounded(elem: int, peak: float) -> None:
    graph, site = unchanged(17, elem)
    with pytest.raises(Skip, match="holds no grid"):
        Outputs(8).apply(graph, site, ranging(peak))
    for least in (1e-40, peak / 4):
        Outputs(8).apply(graph, site, ranging(least))
        values = np.array([[0, least, -least, 2 * least]]).astype(helper.tensor_dtype_to_np_dtype(elem))
        assert np.isfinite(ran(embedded(graph), x=values)[0]).all()


@pytest.mark.parametrize("step", ["outputs", *(f"outputs{{bits={bits}}}" for bits in (1, 17, 8.5, '"8"'))])
def test_a_wrong_step_says_why(step: str) -> None:
    with pytest.raises(OnnxoptError, match="bits"):
        PASSES["outputs"].from_step(Step.parse(step))


RULES = """
[[rule]]
match = "*"
axes = 2
step = "prune{sigma=0.3} > codebook{k=32} > outputs{bits=8}"
"""


def test_a_plan_gives_the_same_file(tmp_path: Path) -> None:
    """With data; the report says what is computed in the layer's place."""
    source, small, again = (tmp_path / f"{name}.onnx" for name in ("m", "small", "again"))
    onnx.save(cnn(norm=True), source)
    np.save(tmp_path / "x.npy", weights(96, 3, 16, 16))
    data = str(tmp_path / "x.npy")
    done = onnxopt.optimize(source, small, data=data, overrides=Overrides.parse(RULES), allow_miss=True)
    onnxopt.apply(source, Plan.from_json(done.plan.to_json()), again, data)
    assert again.read_bytes() == small.read_bytes()
    event = next(event for event in done.events if event.path == "w2")
    assert event.step == "prune{sigma=0.3} > codebook{k=32} > outputs{bits=8}"
    assert not event.reason
    assert [node.split()[0] for node in event.nodes_before] == ["Conv"]
    assert [node.split()[0] for node in event.nodes_after] == ["Conv", "QuantizeLinear", "DequantizeLinear", "Clip"]
    assert any("@scale = " in node for node in event.nodes_after)
    onnxopt.verify(small)


def test_without_data_the_range_is_that_of_made_up_inputs(tmp_path: Path) -> None:
    source, small = tmp_path / "m.onnx", tmp_path / "small.onnx"
    onnx.save(cnn(), source)
    done = onnxopt.optimize(source, small, overrides=Overrides.parse(RULES), allow_miss=True)
    assert all("outputs" in event.step and not event.reason for event in done.events if len(event.shape) > 1)


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize(("name", "points"), [("lenet5", 0.2), ("resnet20", 1.2)])
def test_eight_bits_cost_little_on_real_data(name: str, points: float, tmp_path: Path) -> None:
    """Of the test part, through the loader, weights as they are."""
    source, small = realdata.MODELS / f"{name}.onnx", tmp_path / "small.onnx"
    rules = Overrides.parse('[[rule]]\nmatch = "*"\naxes = 2\nstep = "outputs{bits=8}"')
    data = realdata.TASKS[name].batches("train", 128)
    done = onnxopt.optimize(source, small, data=data, overrides=rules, allow_miss=True)
    assert {(event.step, event.reason) for event in done.events if len(event.shape) > 1} == {("outputs{bits=8}", "")}
    before = realdata.evaluate(name, realdata.plain_session(source), limit=1000).metric
    after = realdata.evaluate(name, realdata.registered_session(small), limit=1000).metric
    assert before - after < points
