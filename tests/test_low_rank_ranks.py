"""Ranks that passes choose, and their predictions for a decision before it is applied."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import onnx
import pytest
from builders import model, weights
from factoring import Array, convolutions, correlated, factored, graph_of, one_node, run, shapes, statistics
from hypothesis import assume, given, settings
from onnx import helper

from onnxopt.build import factorise as factorising
from onnxopt.build.factorise import factorise
from onnxopt.calibration.collect import Statistics
from onnxopt.calibration.stats import Stats
from onnxopt.errors import OnnxoptError
from onnxopt.graph import macs
from onnxopt.passes import STRUCTURAL, Skip, Structural
from onnxopt.passes.low_rank.spatial import Spatial
from onnxopt.passes.low_rank.svd import Svd
from onnxopt.passes.low_rank.tucker import Tucker
from onnxopt.passes.structural import Form
from onnxopt.results.events import Chain
from onnxopt.spec.plan import Step

LAYERS: dict[str, tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any], list[Structural]]] = {
    "conv": ("Conv", (40, 6, 7, 7), (8, 6, 3, 3), {"pads": [1, 1, 1, 1]}, [Svd(3), Tucker(3, 5), Spatial(4)]),
    "groups": ("Conv", (60, 8, 7, 7), (8, 4, 3, 3), {"group": 2}, [Svd(2), Tucker(2, 3), Spatial(3)]),
    "1x1": ("Conv", (20, 12, 5, 5), (8, 12, 1, 1), {}, [Svd(4)]),
    "gemm": ("Gemm", (600, 12), (9, 12), {"transB": 1}, [Svd(4)]),
}


def layer(name: str, bias: bool = False) -> tuple[onnx.ModelProto, Array, Stats]:
    op, x_shape, w_shape, attributes, _ = LAYERS[name]
    x = correlated(x_shape, 1)
    made = one_node(op, x, weights(*w_shape), *([weights(w_shape[0], seed=2)] if bias else []), **attributes)
    return made, x, statistics(graph_of(made), "w", x)


def with_ranks(made: onnx.ModelProto, step: str, stats: Stats | None = None) -> str:
    graph = graph_of(made)
    site = next(site for site in graph.sites() if site.path == "w")
    return str(factorising.with_ranks(graph, site, Step.parse(step), stats or Stats()))


def decision(text: str) -> Structural:
    step = Step.parse(text)
    return STRUCTURAL[step.name].from_step(step)


# ---- promises ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_the_predicted_noise_is_that_of_the_chain(name: str, bias: bool) -> None:
    """On the inputs of the statistics, without the mean, which the bias corrects."""
    made, x, stats = layer(name, bias)
    graph = graph_of(made)
    site = next(graph.sites())
    (wanted,) = (y.astype(np.float64) for y in run(made, {"x": x}))
    axes = tuple(a for a in range(wanted.ndim) if a != 1)
    signal = wanted - wanted.mean(axes, keepdims=True) if bias else wanted
    for one in LAYERS[name][-1]:
        (got,) = run(factored(made, one, stats=stats).model, {"x": x})
        noise = np.linalg.norm(got - wanted) / np.linalg.norm(signal)
        assert one.predict(graph.values("w"), site, stats) == pytest.approx(noise, rel=1e-3)


@pytest.mark.parametrize("cls", STRUCTURAL.values(), ids=STRUCTURAL)
def test_predictions_for_the_space_share_their_work(cls: type[Structural]) -> None:
    made, _, stats = layer("conv")
    graph = graph_of(made)
    site = next(graph.sites())
    promise = cls.promise(graph.values("w"), site, stats)
    assert promise is not None
    space = list(cls.space(site, stats))
    found = [promise(one) for one in space]
    assert found == [one.predict(graph.values("w"), site, stats) for one in space]
    assert found == sorted(found, reverse=True)
    assert cls.promise(graph.values("w"), site, Stats()) is None
    assert space[0].predict(graph.values("w"), site, Stats()) is None


@settings(max_examples=60)
@given(convolutions(least_rank=2))
@pytest.mark.slow
def test_weights_and_macs_are_known_before_the_chain_is_made(drawn: tuple[onnx.ModelProto, Array, int]) -> None:
    made, x, _ = drawn
    graph = graph_of(made)
    site = next(site for site in graph.sites() if site.path == "w")
    form = Form.known(site, Stats(linear=graph.linears()["w"][0]))
    assert form is not None
    assert form.elements == site.elements
    (y,) = run(made, {"x": x})
    assume(y.size)
    for one in (
        Svd(1),
        Tucker(1, 1),
        Spatial(1),
        *(cls(*(2,) * n) for cls, n in ((Svd, 1), (Tucker, 2), (Spatial, 1))),
    ):
        if all(rank <= most for rank, most in zip(one.ranks, one.most(form), strict=True)):
            chain = factored(made, one)
            assert one.weights(form) == sum(map(prod, shapes(chain).values()))
            assert one.macs(form, x.shape, y.shape) == sum(macs(chain.model, {"x": x}).values())


@pytest.mark.parametrize("index", [0, 1])
def test_macs_of_matrix_products(index: int) -> None:
    x, w = (weights(4, 5, 9), weights(4, 9, 7)) if index else (weights(4, 9, 5), weights(4, 7, 9))
    made = one_node("MatMul", x, w, index=index)
    graph = graph_of(made)
    form = Form.known(next(graph.sites()), Stats(linear=graph.linears()["w"][0]))
    assert form is not None
    (y,) = run(made, {"x": x})
    assert Svd(3).macs(form, x.shape, y.shape) == sum(macs(factored(made, Svd(3)).model, {"x": x}).values())


# ---- by variational Bayes ------------------------------------------------------------------------------------------


def of_ranks(inputs: int, outputs: int, groups: int = 1) -> Array:
    """Of each group 24 x 20 x 3 x 3, a kernel of these ranks in a little noise."""
    rng = np.random.default_rng(inputs + outputs)
    made = []
    for _ in range(groups):
        core = rng.normal(size=(outputs, inputs, 9))
        a, b = (np.linalg.qr(rng.normal(size=(n, rank)))[0] for n, rank in ((20, inputs), (24, outputs)))
        made.append(np.einsum("tq,qrp,sr->tsp", b, core, a) + 0.02 * rng.normal(size=(24, 20, 9)))
    return np.concatenate(made).reshape(-1, 20, 3, 3).astype(np.float32)


def conv_of(w: Array, groups: int = 1) -> onnx.ModelProto:
    return one_node("Conv", weights(1, groups * w.shape[1], 9, 9), w, group=groups)


def test_variational_bayes_finds_the_ranks() -> None:
    w = of_ranks(4, 7)
    assert with_ranks(conv_of(w), "tucker") == "tucker{in=4,out=7}"
    assert with_ranks(conv_of(w), "svd") == "svd{rank=7}"
    rows = np.linalg.matrix_rank(w.transpose(1, 2, 0, 3).reshape(60, 72).astype(np.float64), tol=1)
    assert with_ranks(conv_of(w), "spatial") == f"spatial{{rank={rows}}}"


def test_weakened_ranks_go_a_part_of_the_way_to_those_of_variational_bayes() -> None:
    w = of_ranks(4, 7)  # of 20 and 24
    assert with_ranks(conv_of(w), "tucker{vbmf=1.0}") == "tucker{in=4,out=7}"
    assert with_ranks(conv_of(w), "tucker{vbmf=0.75}") == "tucker{in=8,out=11}"
    assert with_ranks(conv_of(w), "svd{vbmf=0.5}") == "svd{rank=16}"
    low = weights(30, 4) @ weights(4, 40, seed=1) + weights(30, 40, seed=2, scale=0.01)
    assert with_ranks(conv_of(low[:, :, None, None]), "tucker{vbmf=0.75}") == "svd{rank=10}"


def test_groups_get_the_largest_rank_of_any() -> None:
    w = np.concatenate([of_ranks(3, 8), of_ranks(6, 5)])
    assert with_ranks(conv_of(w, 2), "tucker") == "tucker{in=6,out=8}"


def test_tucker_leaves_matrices_to_svd() -> None:
    low = weights(30, 4) @ weights(4, 40, seed=1) + weights(30, 40, seed=2, scale=0.01)
    assert with_ranks(conv_of(low[:, :, None, None]), "tucker") == "svd{rank=4}"
    assert with_ranks(one_node("MatMul", weights(2, 30), low), "tucker{energy=0.999}") == "svd{rank=4}"
    nodes = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("Gemm", ["f", "w"], ["y"])]
    flat = of_ranks(4, 7).reshape(24, 180).T
    assert with_ranks(model(nodes, {"w": flat}, {"x": ["n", 20, 3, 3]}, {"y": None}), "tucker") == "tucker{in=4,out=7}"


# ---- by energy, by tolerance ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("energy", [0.5, 0.7, 0.8])
def test_energy_is_kept_by_the_smallest_rank(energy: float, known: bool) -> None:
    made, x, stats = layer("gemm")
    step = with_ranks(made, f"svd{{energy={energy}}}", stats if known else None)
    w = graph_of(made).values("w").astype(np.float64)
    power = np.square(np.linalg.svd(w @ x.T if known else w, compute_uv=False))
    kept = np.cumsum(power) / power.sum()
    assert step == f"svd{{rank={1 + np.argmax(kept >= energy)}}}"


@pytest.mark.parametrize("gain", [1.0, 0.01])
@pytest.mark.parametrize("name", ["svd", "tucker", "spatial"])
def test_the_tolerance_is_kept_by_the_smallest_ranks(name: str, gain: float) -> None:
    """The gain says what becomes of a layer's noise in the model's outputs."""
    made, _, stats = layer("conv")
    stats = replace(stats, gain=gain / stats.signal)
    values, site = graph_of(made).values("w"), next(graph_of(made).sites())
    tolerance = 0.3 * gain**0.5
    found = decision(with_ranks(made, f"{name}{{tolerance={tolerance}}}", stats))
    promised = found.predict(values, site, stats)
    assert promised is not None
    assert promised * gain**0.5 <= tolerance
    smaller = type(found)(*(max(1, rank - 1) for rank in found.ranks)).predict(values, site, stats)
    assert smaller is not None
    assert smaller * gain**0.5 > tolerance


def test_larger_tolerances_take_no_more_weights() -> None:
    made, _, stats = layer("conv")
    stats = replace(stats, gain=1 / stats.signal)
    form = Form.known(next(graph_of(made).sites()), stats)
    assert form is not None
    for name in ("svd", "tucker", "spatial"):
        sizes = [
            decision(with_ranks(made, f"{name}{{tolerance={t}}}", stats)).weights(form)
            for t in (0.3, 0.4, 0.5, 0.7, 1.0)
        ]
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[-1] < sizes[0]


# ---- layers that stay ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        ("svd", "takes all of it for noise"),
        ("tucker", "takes all of it for noise"),
        ("svd{energy=0.99}", r"svd{rank=24} would have 4896 weights, and it has 4320"),
        ("tucker{energy=0.99}", r"tucker{in=20,out=24} would have 5296 weights, and it has 4320"),
        ("spatial{energy=0.999}", r"spatial{rank=57} would have 7524 weights, and it has 4320"),
        ("svd{tolerance=0.1}", "was not measured; give --data, or more --max-ram"),
    ],
)
def test_what_would_not_be_smaller_is_left_with_a_reason(step: str, reason: str) -> None:
    made = conv_of(np.random.default_rng(0).normal(size=(24, 20, 3, 3)).astype(np.float32))
    with pytest.raises(Skip, match=reason):
        with_ranks(made, step)


def test_depthwise_convolutions_have_no_ranks() -> None:
    made = one_node("Conv", weights(1, 16, 9, 9), weights(16, 1, 3, 3), group=16)
    with pytest.raises(Skip, match=r"tucker{in=1,out=1} would have 176 weights, and it has 144"):
        with_ranks(made, "tucker")


def test_matrices_have_no_rows_and_columns() -> None:
    with pytest.raises(Skip, match="two or more dimensions"):
        with_ranks(one_node("MatMul", weights(1, 8), weights(8, 8)), "spatial{energy=0.5}")


# ---- in a plan -----------------------------------------------------------------------------------------------------


def test_the_executed_step_has_ranks() -> None:
    """So that a plan repeats it, whatever ranks would be chosen then."""
    graph = graph_of(conv_of(of_ranks(4, 7)))
    done = factorise(graph, {"w": Step.parse("tucker")}, Statistics(None, {}, {}))
    assert {path: str(step) for path, step in done.steps.items()} == {"w": "tucker{in=4,out=7}"}
    assert done.events[0].step == "tucker{in=4,out=7}"
    assert done.parts == {"w@in", "w@core", "w@out"}
    (chain,) = done.chains
    assert chain == Chain("w", "tucker{in=4,out=7}", (4, 7), ("w@in", "w@core", "w@out"), 4320, 80 + 252 + 168)
    assert chain.smaller == 4320 / 500
    assert chain.less_work is None


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("svd{rank=3,energy=0.5}", "only one of them"),
        ("tucker{energy=0.5,tolerance=0.5}", "only one of them"),
        ("tucker{in=3}", "all ranks, or none"),
        ("svd{energy=0}", "energy is 0, expected a number above 0 and up to 1"),
        ("spatial{tolerance=1.5}", "tolerance is 1.5"),
        ("svd{energy=true}", "energy is True"),
        ("svd{energy=nan}", "energy=nan"),
        ("svd{bits=3}", "svd takes energy, rank, tolerance, vbmf, not bits"),
    ],
)
def test_a_wrong_step_says_why(step: str, message: str) -> None:
    with pytest.raises(OnnxoptError, match=message):
        decision(step)


@pytest.mark.parametrize("text", ["svd", "tucker{energy=0.9}", "spatial{vbmf=0.5}", "tucker{in=3,out=4}"])
def test_step_text_gives_the_decision_back(text: str) -> None:
    assert str(decision(text).step()) == text
