"""What `native.quantize` promises: the integers it returns cost what it says, and no better ones are near."""

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxopt import native
from onnxopt.errors import OnnxoptError
from onnxopt.native import QuantizerOptions as Options


def weights(rows, cols, groups=None, seed=0):
    rng = np.random.default_rng(seed)
    shape = (rows, cols) if groups is None else (groups, rows, cols)
    return (rng.laplace(size=shape) * rng.uniform(0.3, 2, (*shape[:-1], 1))).astype(np.float32)


def correlated(cols, seed=0):
    """A second moment of inputs, and what makes the summed cost the output error."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(4 * cols, cols)) @ (np.eye(cols) + rng.normal(size=(cols, cols)) / np.sqrt(cols))
    h = x.T @ x / len(x)
    u = np.linalg.cholesky(np.linalg.inv(h)).T
    return h, -u / np.diag(u)[:, None], 1 / np.diag(u) ** 2


def replay(w, q, feedback, variance, step):
    """The errors, in steps, that each column had when it was quantized, and their cost."""
    x, errors = w.astype(np.float64), np.empty(w.shape)
    for i in range(w.shape[1]):
        e = x[:, i] - step * q[:, i]
        x[:, i + 1 :] += e[:, None] * feedback[i, i + 1 :]
        errors[:, i] = e / step
    return errors, (variance * (step[:, None] * errors) ** 2).sum()


shapes = st.tuples(st.integers(1, 70), st.integers(1, 40))


@given(shapes, st.integers(0, 99))
@settings(max_examples=30)
def test_free_bits_leave_errors_of_half_a_step_and_the_cost_of_a_replay(shape, seed):
    w, (_, feedback, variance) = weights(*shape, seed=seed), correlated(shape[1], seed)
    step = np.random.default_rng(seed).uniform(0.1, 1, shape[0]).astype(np.float32)
    q, bits, cost = native.quantize(w, feedback, variance, step, 0, Options(survivors=1))
    errors, expected = replay(w, q, feedback, variance, step)
    assert np.abs(errors).max() < 0.5 + 1e-3
    assert cost == pytest.approx(expected, rel=1e-3, abs=1e-9)
    assert bits > 0


@given(shapes, st.integers(0, 99))
@settings(max_examples=30)
def test_survivors_cost_what_a_replay_costs(shape, seed):
    w, (_, feedback, variance) = weights(*shape, seed=seed), correlated(shape[1], seed)
    step = np.random.default_rng(seed).uniform(0.1, 1, shape[0]).astype(np.float32)
    q, _, cost = native.quantize(w, feedback, variance, step, 0.01)
    assert cost == pytest.approx(replay(w, q, feedback, variance, step)[1], rel=1e-3, abs=1e-9)


@pytest.mark.parametrize("cols", [1, 2, 3, 4])
def test_of_few_columns_survivors_find_the_best(cols):
    w, (_, feedback, variance) = weights(200, cols), correlated(cols)
    q, _, cost = native.quantize(w, feedback, variance, 0.7, 0)
    least = np.full(len(w), np.inf)
    for up in product((0, 1), repeat=cols):  # of every sequence of roundings
        x, spent = w.astype(np.float64), 0
        for i in range(cols):
            e = x[:, i] - 0.7 * (np.floor(x[:, i] / 0.7) + up[i])
            x[:, i + 1 :] += e[:, None] * feedback[i, i + 1 :]
            spent = spent + variance[i] * e**2
        least = np.minimum(least, spent)
    assert cost <= least.sum() * (1 + 1e-4)
    assert cost == pytest.approx(replay(w, q, feedback, variance, np.full(len(w), 0.7))[1], rel=1e-4)


@pytest.mark.parametrize("cols", [20, 500])
@pytest.mark.parametrize("step", [1, 0.1])
def test_survivors_cost_less(cols, step):
    w, (_, feedback, variance) = weights(64, cols), correlated(cols)
    price = step**2 / 6 * 0.3
    total = [
        cost + price * bits
        for _, bits, cost in (native.quantize(w, feedback, variance, step, price, Options(survivors=n)) for n in (1, 8))
    ]
    assert total[1] < 0.985 * total[0]


def test_without_feedback_survivors_change_nothing():
    w = weights(50, 70)
    one, eight = (native.quantize(w, None, 1, 0.25, 0.01, Options(survivors=n)) for n in (1, 8))
    assert np.array_equal(one[0], eight[0])
    assert one[1:] == eight[1:]


def test_without_feedback_and_with_free_bits_it_rounds():
    w = weights(37, 53)
    q, _, cost = native.quantize(w, None, 1, 0.25, 0)
    assert np.array_equal(q, np.rint(w / 0.25))
    assert cost == pytest.approx(((w - 0.25 * q) ** 2).sum(), rel=1e-5)


def test_the_cost_is_the_output_error_and_feedback_lowers_it():
    w, (h, feedback, variance) = weights(64, 96), correlated(96)
    q, _, cost = native.quantize(w, feedback, variance, 0.5, 0)
    plain, _, _ = native.quantize(w, None, np.diag(h), 0.5, 0)

    def output_error(integers):
        e = w - 0.5 * integers.astype(np.float64)
        return np.einsum("oi,ij,oj->", e, h, e)

    assert cost == pytest.approx(output_error(q), rel=1e-3)
    assert cost < 0.8 * output_error(plain)


def test_dearer_bits_buy_less_until_nothing_is_left():
    w, (_, feedback, variance) = weights(64, 144), correlated(144)
    found = [native.quantize(w, feedback, variance, 0.5, price) for price in (0, 0.1, 0.3, 1)]
    assert all(a[1] > b[1] and a[2] < b[2] for a, b in pairwise(found))
    nothing, bits, cost = native.quantize(w, feedback, variance, 0.5, 1e6)
    assert not nothing.any()
    assert bits < 0.05 * w.size
    assert cost == pytest.approx(replay(w, nothing, feedback, variance, np.full(64, 0.5))[1], rel=1e-3)


@pytest.mark.parametrize("step", [1.0, 0.1, 0.002])
def test_paying_for_bits_beats_rounding(step):
    w = weights(128, 200)
    price = step**2 / 6 * 0.7
    _, bits, cost = native.quantize(w, None, 1, step, price)
    _, free_bits, free_cost = native.quantize(w, None, 1, step, 0)
    assert bits < free_bits
    assert cost + price * bits < free_cost + price * free_bits


@pytest.mark.parametrize("step", [1.5, 0.3, 0.02, 0.0005])
def test_bits_are_near_what_the_coder_takes(step):
    q, bits, _ = native.quantize(weights(256, 400), None, 1, step, step**2 / 10)
    assert bits == pytest.approx(8 * len(native.encode(q)[1]), rel=0.03)


@pytest.mark.parametrize("max_level", [0, 1, 7, 127, 40000])
def test_magnitudes_stay_within_the_bound(max_level):
    w, (_, feedback, variance) = weights(20, 30), correlated(30)
    step = 2.5 / max(max_level, 1)
    q, _, _ = native.quantize(w, feedback, variance, step, 0, Options(max_level=max_level))
    assert np.abs(q).max() == max_level
    q, _, _ = native.quantize(w, feedback, variance, step, 0, Options(max_level=max_level, survivors=1))
    assert np.abs(q).max() == max_level
    errors, _ = replay(w, q, feedback, variance, np.full(20, step, np.float32))
    assert (np.abs(errors[np.abs(q) < max_level]) < 0.5 + 1e-2).all()
    assert (errors[(q > 0) & (q == max_level)] > -0.51).all()


def test_groups_share_nothing_but_the_price_of_bits():
    groups = 5
    w = weights(3, 9, groups)
    parts = [correlated(9, seed) for seed in range(groups)]
    feedback, variance = (np.stack([part[i] for part in parts]) for i in (1, 2))
    step = np.linspace(0.1, 0.5, 3 * groups).reshape(groups, 3)
    q, _, cost = native.quantize(w, feedback, variance, step, 0)
    alone = [native.quantize(*arguments, 0) for arguments in zip(w, feedback, variance, step, strict=True)]
    assert np.array_equal(q, [a[0] for a in alone])
    assert cost == pytest.approx(sum(a[2] for a in alone))
    together = native.quantize(w, None, 1, step, 0.02)
    one_matrix = native.quantize(w.reshape(-1, 9), None, 1, step.reshape(-1), 0.02)
    assert np.array_equal(together[0].reshape(-1, 9), one_matrix[0])
    assert together[1:] == one_matrix[1:]


@pytest.mark.parametrize("shape", [(1, 1), (130, 70), (3, 50, 17)])
def test_threads_change_nothing(shape):
    w = weights(*shape[-2:], *shape[:-2])
    feedback, variance = correlated(shape[-1])[1:]
    feedback = np.broadcast_to(feedback, (*shape[:-2], *feedback.shape))
    first = native.quantize(w, feedback, variance, 0.3, 0.01, Options(threads=1))
    for threads in (2, 5, 0):
        q, bits, cost = native.quantize(w, feedback, variance, 0.3, 0.01, Options(threads=threads))
        assert np.array_equal(q, first[0])
        assert (bits, cost) == first[1:]


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 2, 3), (4, 4)])
def test_nothing_and_zeros_cost_nothing(shape):
    q, bits, cost = native.quantize(np.zeros(shape), None, 1, 1e-40, 0)
    assert q.shape == shape
    assert not q.any()
    assert cost == 0
    assert bits <= 8 * q.size


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"w": np.zeros(3)}, r"w has the shape \(3,\)"),
        ({"w": np.full((2, 3), np.nan)}, "w has values that are not finite"),
        ({"w": np.full((2, 3), "1")}, "w has the element type <U1"),
        ({"feedback": np.zeros((3, 2))}, r"feedback has the shape \(3, 2\); \(3, 3\) is expected"),
        ({"feedback": np.full((3, 3), np.inf)}, "feedback has values that are not finite"),
        ({"variance": np.ones(2)}, r"variance has the shape \(2,\)"),
        ({"variance": -1}, "variance has values that are not finite and not negative"),
        ({"step": 0}, "step has values that are not finite and positive"),
        ({"step": 1e-9}, "the step is too fine"),
        ({"price": [1, 2, 3]}, r"price has the shape \(3,\); \(2,\) is expected"),
        ({"price": np.nan}, "price has values"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {"w": np.ones((2, 3)), "feedback": None, "variance": 1, "step": 1, "price": 0} | change
    with pytest.raises(OnnxoptError, match=message):
        native.quantize(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_level": -1}, "max_level is -1"),
        ({"max_level": 1 << 23}, "max_level is 8388608"),
        ({"sweeps": 0}, "sweeps 0"),
        ({"survivors": 4}, "survivors 4"),
    ],
)
def test_bad_options_are_named(change, message):
    with pytest.raises(OnnxoptError, match=message):
        Options(**change)
