"""The scales of values that are rounded at run time (`qdq`), as numbers that are trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx

from onnxopt.encoding import Encoding, Raw
from onnxopt.graph import QdqSupport, QuantParams, fused_ops, is_for_value, rounding, with_trained_rounding
from onnxopt.graph.rewrite import round_outputs
from onnxopt.graph.rewrite.qdq import STANDARD_TYPES
from onnxopt.spec.plan import Plan, Step
from onnxopt.tuning.kinds import Scale


@dataclass(frozen=True, slots=True)
class Ranges:
    """Values in 8 bits, by the paths of their scales. Zero points stay.

    A value that is only moved has the scale of where it comes from.
    """

    values: Mapping[str, tuple[str, ...]]
    """By path."""
    limited: frozenset[str]
    """Paths of scales that do not grow: saturation does what a Clip would do, which the runtime then drops."""

    @staticmethod
    def of(model: onnx.ModelProto, steps: Mapping[str, Step]) -> Ranges:
        """Those of a plan's steps."""
        origins = {
            op.output: op.inputs[0] for op in fused_ops(model) if op.kind is QdqSupport.PASSTHROUGH and op.inputs
        }
        found: dict[str, tuple[str, ...]] = {}
        for value, params in _params(steps).items():
            if params.type in STANDARD_TYPES:
                path = f"{_origin(value, origins)}@range"
                found[path] = (*found.get(path, ()), value)
        clipped = {node.output[0] for node in model.graph.node if node.op_type == "Clip"}
        return Ranges(found, frozenset(path for path, values in found.items() if clipped.intersection(values)))

    def rounded(self, model: onnx.ModelProto, steps: Mapping[str, Step]) -> onnx.ModelProto:
        """The model that rounds the values of a plan, those in 8 bits by scales that are initializers of these paths.

        No Clip follows the latter: the runtime rounds no weights behind a scale that it does not know.
        """
        params, scales = _params(steps), {value: path for path, values in self.values.items() for value in values}
        round_outputs.insert(model, {value: one for value, one in params.items() if value not in scales})
        return with_trained_rounding(model, {value: params[value] for value in scales}, scales) if scales else model

    def stored(self, steps: Mapping[str, Step]) -> dict[str, Encoding]:
        """The scales of a plan, by path."""
        params = _params(steps)
        return {path: Raw(np.asarray(params[values[0]].scale, np.float32)) for path, values in self.values.items()}

    def weight(self, path: str, stored: Encoding) -> Scale:
        """The scale that starts so."""
        return Scale(path, stored.values(), path not in self.limited)

    def planned(self, plan: Plan, found: Mapping[str, Encoding]) -> Plan:
        """The plan with those scales that are among the `found` ones, by path."""
        scales = {value: float(found[path].values()) for path in self.values.keys() & found.keys()
                  for value in self.values[path]}  # fmt: skip
        steps = {value: _scaled(step, scales[value]) if value in scales else step for value, step in plan.steps.items()}
        return replace(plan, steps=steps)


def _params(steps: Mapping[str, Step]) -> dict[str, QuantParams]:
    known = {value: rounding(step) for value, step in steps.items() if is_for_value(step)}
    return {value: one for value, one in known.items() if one is not None}


def _origin(value: str, origins: Mapping[str, str]) -> str:
    while value in origins:
        value = origins[value]
    return value


def _scaled(step: Step, scale: float) -> Step:
    if step.name == QuantParams.NAME:
        return replace(QuantParams.from_step(step), scale=scale).step()
    assert step.then is not None
    return Step(step.name, step.args, _scaled(step.then, scale))
