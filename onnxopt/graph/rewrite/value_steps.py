"""Steps for values of the main graph, which a plan names; all other steps are for weights.

    equalize     equalizes the ranges of the value's channels (`equalise.py`)
    depthwise    replaces the PRelu that makes the value by depthwise convolutions (`prelu_to_conv.py`)
    qdq{...}     rounds the value between nodes (`qdq_insert.py`)

Several of them form one step, in this order.
"""

from __future__ import annotations

from onnxopt.graph.rewrite.qdq import QuantParams
from onnxopt.spec.plan import Step

_EQUALIZE, _DEPTHWISE = "equalize", "depthwise"


def step_of_value(rounding: Step | None = None, *, equalized: bool = False, depthwise: bool = False) -> Step:
    """The step of a value; at least one argument has to say something."""
    step = rounding
    for name, wanted in ((_DEPTHWISE, depthwise), (_EQUALIZE, equalized)):
        step = Step(name, (), step) if wanted else step
    assert step is not None
    return step


def is_for_value(step: Step) -> bool:
    """Whether a plan's step is for a value, not for a weight."""
    return step.name in (_EQUALIZE, _DEPTHWISE, QuantParams.NAME)


def is_equalized(step: Step) -> bool:
    """Whether the value's channels are to be equalized."""
    return any(one.name == _EQUALIZE for one in step)


def is_depthwise(step: Step) -> bool:
    """Whether the PRelu is to become convolutions."""
    return any(one.name == _DEPTHWISE for one in step)


def rounding(step: Step) -> QuantParams | None:
    """How the value is quantized; None if it is not. Raises OnnxoptError if the step is not valid."""
    found = [one for one in step if one.name not in (_EQUALIZE, _DEPTHWISE)]
    return QuantParams.from_step(found[0]) if found else None
