"""Matrix products with 4-bit and 8-bit weights: the stock runtime computes what the stored numbers say."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from builders import branches, cnn, mlp, model, weights
from classical import one_weight
from onnx import TensorProto, helper, numpy_helper

import onnxopt
from onnxopt import native
from onnxopt.build import container
from onnxopt.calibration.stats import Moments, Stats, cholesky_feedback
from onnxopt.encoding import Blockwise, step_of
from onnxopt.errors import OnnxoptError
from onnxopt.graph import Graph, Site, embed, normalise
from onnxopt.measure.clock import OrtClock
from onnxopt.passes import Skip
from onnxopt.passes.quantise.nbits import NBits
from onnxopt.passes.quantise.prune import Prune
from onnxopt.spec.overrides import Overrides
from onnxopt.spec.plan import Step
from onnxopt.strategies.layer_candidates import weight_only_options

Array = np.ndarray[Any, Any]


def opened(made: onnx.ModelProto) -> tuple[Graph, dict[str, Site]]:
    normalise(made)
    graph = Graph(made)
    return graph, {site.path: site for site in graph.sites()}


def ran(graph: Graph, **feeds: Array) -> Array:
    """What the exported model gives, its weights through the container, in the stock runtime."""
    inner, encodings = graph.export()
    with native.Container(container.write(inner.SerializeToString(), encodings, "{}")) as stored:
        embed(inner, stored.decode())
    onnx.checker.check_model(inner, full_check=True)
    session = onnxruntime.InferenceSession(inner.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feeds)[0])


def kernels(graph: Graph) -> list[str]:
    return [node.op_type for node in graph.export()[0].graph.node]


def exact(*shape: int, seed: int = 0) -> Array:
    """Inputs that the kernel's own rounding to 8 bits encodings as they are."""
    return np.random.default_rng(seed).integers(-1, 2, shape).astype(np.float32)


def dequantized(weight: Any) -> Array:
    """[outputs, inputs], element by element as the operator's page has it."""
    assert isinstance(weight, Blockwise)
    codes, scales = weight.run_time_tensor(), np.asarray(weight.scales(1.0).values())
    outputs, blocks, _ = codes.shape
    w = np.zeros((outputs, blocks * weight.block))
    for o, i in itertools.product(range(outputs), range(blocks * weight.block)):
        block, at = divmod(i, weight.block)
        code = codes[o, block, at] if weight.bits == 8 else codes[o, block, at // 2] >> 4 * (at % 2) & 15
        w[o, i] = (int(code) - 2 ** (weight.bits - 1)) * float(scales[o * blocks + block])
    return w[:, : weight.q.shape[1]]


@pytest.mark.parametrize("shape", [(3, 70), (2, 3, 70), (70,)], ids=str)
@pytest.mark.parametrize("block", [16, 64])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_product_of_any_rank_is_that_of_the_stored_integers(bits: int, block: int, shape: tuple[int, ...]) -> None:
    """70 inputs are no multiple of a block."""
    made = model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weights(70, 9)},
                 {"x": shape}, {"y": [*shape[:-1], 9]})  # fmt: skip
    graph, sites = opened(made)
    NBits(bits, block).apply(graph, sites["w"], Stats())
    assert kernels(graph) == ["MatMulNBits"]
    w, x = dequantized(graph.encoding("w")), exact(*shape)
    assert np.array_equal(w.T.astype(np.float32), graph.encoding("w").values())
    np.testing.assert_allclose(ran(graph, x=x), x @ w.T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bias", [None, (6,), (1, 6), (), (4, 6)], ids=str)
@pytest.mark.parametrize(
    ("alpha", "beta", "transposed"), [(1.0, 1.0, 1), (0.5, 1.0, 0), (-2.0, 0.25, 1), (1.0, 0.0, 0)]
)
def test_gemm_keeps_its_factors_and_its_bias(
    alpha: float, beta: float, transposed: int, bias: tuple[int, ...] | None
) -> None:
    given = {} if bias is None else {"c": np.asarray(weights(24, seed=1)[: int(np.prod(bias))].reshape(bias))}
    node = helper.make_node("Gemm", ["x", "w", *given], ["y"], alpha=alpha, beta=beta, transB=transposed)
    w = weights(6, 64) if transposed else weights(64, 6)
    graph, sites = opened(model([node], {"w": w, **given}, {"x": [4, 64]}, {"y": [4, 6]}))
    NBits(4).apply(graph, sites["w"], Stats())
    assert kernels(graph)[0] == "MatMulNBits"
    x, c = exact(4, 64), given.get("c", 0.0)
    wanted = alpha * x @ dequantized(graph.encoding("w")).T + beta * c
    np.testing.assert_allclose(ran(graph, x=x), wanted, rtol=1e-4, atol=1e-4)


def test_what_the_kernel_rounds_is_small() -> None:
    graph, sites = opened(mlp())
    for path in ("fc1", "fc2"):
        NBits(8).apply(graph, sites[path], Stats())
    x = np.random.default_rng(0).standard_normal((5, 64)).astype(np.float32)
    wanted = np.maximum(x @ graph.encoding("fc1").values(), 0) @ graph.encoding("fc2").values().T + graph.values("b2")
    assert np.abs(ran(graph, x=x) - wanted).max() < 0.02 * np.abs(wanted).max()


@pytest.mark.parametrize("bits", [4, 8])
def test_rounding_is_at_most_half_a_step_that_is_nearly_as_fine_as_can_be(bits: int) -> None:
    w = weights(32, 20)
    graph, site = one_weight(w)
    NBits(bits).apply(graph, site, Stats())
    weight = graph.encoding("w")
    assert isinstance(weight, Blockwise)
    step, error = step_of(weight.k)[:, 0], np.abs(w - weight.values())
    saturated = np.abs(weight.q.T) > 2 ** (bits - 1) - 2
    assert (error <= step / 2 * 1.0001)[~saturated].all()
    assert (step <= np.abs(w).max(0) / (2 ** (bits - 1) - 1) * 2**0.5).all()


def correlated(inputs: int, seed: int = 0) -> tuple[Moments, Array]:
    """Moments of inputs that have much in common, and some that they were not measured on."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((6 * inputs, inputs // 4)) @ rng.standard_normal((inputs // 4, inputs))
    x = (x + 0.3 * rng.standard_normal(x.shape)).astype(np.float32)
    seen, held = x[: 5 * inputs], x[5 * inputs :]
    second = (seen.T.astype(np.float64) @ seen / len(seen))[None]
    power = np.diagonal(second, axis1=1, axis2=2).astype(np.float32)
    feedback, variance = cholesky_feedback(second.copy(), 0.01)
    return Moments(np.zeros((1, inputs)), power, feedback, variance, held[None]), held


@pytest.mark.parametrize("inputs", [64, 90])
@pytest.mark.parametrize("bits", [4, 8])
def test_errors_are_passed_on_where_that_helps(bits: int, inputs: int) -> None:
    """From block to block, too; inputs whose moments say nothing true of them get the nearest integers."""
    w = weights(inputs, 24)
    graph, site = one_weight(w)
    moments, held = correlated(inputs)

    def noise(known: Moments | None) -> float:
        graph.reset()
        NBits(bits, 16).apply(graph, site, Stats(linear=graph.linears()["w"][0], moments=known))
        return float(np.square(held @ (graph.encoding("w").values() - w)).sum())

    assert noise(moments) < 0.7 * noise(None)
    other = correlated(inputs, seed=1)[0]
    misled = Moments(moments.mean, moments.power, other.feedback, other.variance, moments.held_back)
    plain = Moments(moments.mean, moments.power, None, moments.variance, moments.held_back)
    assert noise(misled) <= noise(plain)


def one_node(node: onnx.NodeProto, **tensors: Array) -> onnx.ModelProto:
    return model([node], tensors, {"x": ["n", 64]}, {"y": ["n", "m"]})


def shared() -> onnx.ModelProto:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("MatMul", ["h", "w"], ["y"])]
    return model(nodes, {"w": weights(64, 64)}, {"x": ["n", 64]}, {"y": ["n", 64]})


def half() -> onnx.ModelProto:
    made = one_node(helper.make_node("MatMul", ["x", "w"], ["y"]), w=weights(64, 32).astype(np.float16))
    for value in (*made.graph.input, *made.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    return made


@pytest.mark.parametrize(
    ("made", "path", "reason"),
    [
        (cnn(), "w1", "input 1 of Conv"),
        (cnn(), "b1", "input 2 of Conv"),
        (branches(), None, "inside a branch"),
        (one_node(helper.make_node("Gemm", ["x", "w"], ["y"], transA=1), w=weights(64, 32)), "w", "transposes"),
        (one_node(helper.make_node("MatMul", ["w", "x"], ["y"]), w=weights(32, 64)), "w", "input 0 of MatMul"),
        (one_node(helper.make_node("MatMul", ["x", "w"], ["y"]), w=weights(2, 64, 32)), "w", "no matrix"),
        (one_node(helper.make_node("MatMul", ["x", "w"], ["y"]), w=weights(24, 32)), "w", "24 inputs, fewer than a"),
        (shared(), "w", "others use the weight"),
        (half(), "w", "float32"),
    ],
)  # fmt: skip
def test_what_it_is_not_for_is_left_with_a_reason(made: onnx.ModelProto, path: str | None, reason: str) -> None:
    graph, sites = opened(made)
    site = sites[path] if path else next(iter(sites.values()))
    with pytest.raises(Skip, match=f"stays in floats: .*{reason}"):
        NBits().apply(graph, site, Stats())
    assert not graph.encodings


@pytest.mark.parametrize("step", ["nbits{bits=3}", "nbits{block=48}", "nbits{block=512}", "nbits{rank=2}"])
def test_arguments_that_no_kernel_has_are_refused(step: str) -> None:
    with pytest.raises(OnnxoptError, match=r"expected|takes"):
        NBits.from_step(Step.parse(step))


@pytest.mark.parametrize("transposed", [0, 1])
def test_pruned_before_or_after_zeros_stay_zeros(transposed: int) -> None:
    w = weights(64, 64)
    node = helper.make_node("Gemm", ["x", "w"], ["y"], transB=transposed)
    graph, sites = opened(model([node], {"w": w}, {"x": ["n", 64]}, {"y": ["n", 64]}))
    prune, block = Prune(keep=0.5), NBits(8)
    for order in ((prune, block), (block, prune)):
        graph.reset()
        for one in order:
            one.apply(graph, sites["w"], Stats())
        got = graph.encoding("w").values()
        assert kernels(graph) == ["MatMulNBits"]
        assert np.count_nonzero(got) <= 0.51 * w.size  # of equal ones all stay
        kept = got != 0
        assert np.abs(w)[~kept].max() <= np.abs(w)[kept].min() * 1.2


def test_names_that_are_taken_are_left_alone() -> None:
    nodes = [
        helper.make_node("Gemm", ["x", "w", "w@scales"], ["y@product"]),
        helper.make_node("Relu", ["y@product"], ["y"]),
        helper.make_node("Gemm", ["y", "v", "w@scales"], ["z"]),
    ]
    tensors = {"w": weights(64, 64), "v": weights(64, 64, seed=1), "w@scales": weights(64, seed=2)}
    graph, sites = opened(model(nodes, tensors, {"x": ["n", 64]}, {"z": ["n", 64]}))
    for path in ("w", "v"):
        NBits(8).apply(graph, sites[path], Stats())
    x, c = exact(3, 64), tensors["w@scales"]
    h = np.maximum(x @ dequantized(graph.encoding("w")).T + c, 0)
    wanted = h @ dequantized(graph.encoding("v")).T + c
    assert np.abs(ran(graph, x=x) - wanted).max() < 0.02 * np.abs(wanted).max()
    graph.reset()
    assert kernels(graph) == ["Gemm", "Relu", "Gemm"]


def test_a_layer_is_timed_with_integers_and_without() -> None:
    """The models that the clock is given compute what the layer does."""
    graph, sites = opened(mlp())
    linear = graph.linears()["fc2"][0]
    moments = correlated(128)[0]
    seen: list[list[Array]] = []

    class Clock(OrtClock):
        def time_many(self, models: Sequence[bytes], feeds: Mapping[str, Array]) -> list[float]:
            sessions = [onnxruntime.InferenceSession(made, providers=["CPUExecutionProvider"]) for made in models]
            seen.append([session.run(None, dict(feeds))[0] for session in sessions])
            return [5.0, 1.0, 2.0, 3.0, 4.0]

    clock = Clock()

    sample = {"x": np.zeros((5, 64), np.float32)}
    found = weight_only_options(graph, sites["fc2"], Stats(0.5, linear, moments, 2.0), sample, clock)
    assert [(str(one.step), one.ms_before, one.ms) for one in found] == [
        ("nbits{block=128}", 5, 1), ("nbits", 5, 2), ("nbits{bits=8,block=128}", 5, 3), ("nbits{bits=8}", 5, 4),
    ]  # fmt: skip
    noises = [one.noise or 0.0 for one in found]
    assert 1e-3 < min(noises[:2]) < max(noises[:2]) < 0.1
    assert 0 < max(noises[2:]) < min(noises[:2]) / 50
    ((whole, *made),) = seen
    assert whole.shape == (5, 10)
    errors = [np.abs(y - whole).max() / np.abs(whole).max() for y in made]
    assert max(errors) < 0.5
    assert max(errors[2:]) < 0.05
    assert not graph.encodings
    with pytest.raises(Skip, match="no matrix product is known"):
        weight_only_options(graph, sites["fc2"], Stats(), sample, clock)


def test_optimize_takes_the_step_and_decompress_gives_a_plain_model(tmp_path: Path) -> None:
    """With the bytes of all that is stored in the report."""
    path, small, plain = (tmp_path / name for name in ("m.onnx", "small.onnx", "plain.onnx"))
    onnx.save(mlp(), path)
    rules = Overrides.parse('[[rule]]\nmatch = "fc*"\nstep = "nbits{bits=4,block=32}"\n')
    result = onnxopt.optimize(path, small, onnxopt.Contract(error=0.5), overrides=rules)
    events = {event.path: event for event in result.events}
    assert events["fc1"].bytes_before == 64 * 128 * 4
    assert events["fc1"].bytes_after < 64 * 128 / 2
    assert events["fc1@scales"].bytes_before == 0
    assert sum(event.bytes_after for event in result.events) == small.stat().st_size
    assert onnxopt.verify(small).identical_outputs
    made = onnxopt.decompress(small, plain)
    assert [node.op_type for node in made.graph.node] == ["MatMulNBits", "Relu", "MatMulNBits", "Add"]
    assert {t.name: numpy_helper.to_array(t).dtype for t in made.graph.initializer}["fc1"] == np.uint8
    x = weights(2, 64)
    wanted = onnxruntime.InferenceSession(str(plain)).run(None, {"x": x})[0]
    assert np.array_equal(onnxopt.load(small).run(None, {"x": x})[0], wanted)
