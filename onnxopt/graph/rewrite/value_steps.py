"""Steps for values of the main graph, which a plan names; all other steps are for weights.

    equalize     equalizes the ranges of the value's channels (`equalise.py`)
    depthwise    replaces the PRelu that makes the value by depthwise convolutions (`prelu_to_conv.py`)
    smooth{...}  divides the value's channels by scales, for the products that read it (`smooth.py`)
    dynamic      rounds the value by its own range in each run, for the products that read it (`dynamic_int8.py`)
    qdq{...}     rounds the value between nodes (`qdq_insert.py`)

Several of them form one step, in this order.
"""

from __future__ import annotations

from onnxopt.errors import OnnxoptError
from onnxopt.graph.rewrite.qdq import QuantParams
from onnxopt.spec.plan import Step

_EQUALIZE, _DEPTHWISE, _SMOOTH, _DYNAMIC = "equalize", "depthwise", "smooth", "dynamic"
_OTHERS = (_EQUALIZE, _DEPTHWISE, _SMOOTH, _DYNAMIC)
"""Steps that are no rounding with given parameters."""


def step_of_value(
    rounding: Step | None = None, *, equalized: bool = False, depthwise: bool = False, smoothed: int | None = None,
    dynamic: bool = False,
) -> Step:  # fmt: skip
    """The step of a value; at least one argument has to say something.

    Arguments:
        smoothed: channels that go apart; None if the value is not smoothed.
    """
    step = Step(_DYNAMIC, (), rounding) if dynamic else rounding
    if smoothed is not None:
        step = Step(_SMOOTH, (("apart", smoothed),) if smoothed else (), step)
    for name, wanted in ((_DEPTHWISE, depthwise), (_EQUALIZE, equalized)):
        step = Step(name, (), step) if wanted else step
    assert step is not None
    return step


def is_for_value(step: Step) -> bool:
    """Whether a plan's step is for a value, not for a weight."""
    return step.name in _OTHERS or step.name == QuantParams.NAME


def is_equalized(step: Step) -> bool:
    """Whether the value's channels are to be equalized."""
    return any(one.name == _EQUALIZE for one in step)


def is_depthwise(step: Step) -> bool:
    """Whether the PRelu is to become convolutions."""
    return any(one.name == _DEPTHWISE for one in step)


def channels_apart(step: Step) -> int | None:
    """Channels that go apart when the value is smoothed for the products that read it; None if it is not smoothed.

    Raises OnnxoptError if the step is not valid.
    """
    for one in step:
        if one.name == _SMOOTH:
            given = dict(one.args)
            apart = given.pop("apart", 0)
            if given or isinstance(apart, bool) or not isinstance(apart, int) or apart < 0:
                raise OnnxoptError(f"step {step}: expected smooth, or smooth{{apart=...}} with a number of channels")
            return apart
    return None


def is_dynamic(step: Step) -> bool:
    """Whether the products that read the value are to round it by its own range in each run."""
    return any(one.name == _DYNAMIC for one in step)


def rounding(step: Step) -> QuantParams | None:
    """How the value is quantized; None if it is not. Raises OnnxoptError if the step is not valid."""
    found = [one for one in step if one.name not in _OTHERS]
    return QuantParams.from_step(found[0]) if found else None
