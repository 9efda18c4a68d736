"""Proposals of nodes that hold graphs: If, Loop and Scan, with weights inside and names that shadow; and functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from fuzzing.growing import LOCAL, Growth, Value, value_info
from fuzzing.layers import embedding, gemm, matmul, prelu, recurrent, with_weight
from fuzzing.operators import binary, decision, gelu, part, reduction, reshaped, scores, typed, unary

DEEPEST = 2
_INSIDE = (matmul, matmul, gemm, with_weight, with_weight, unary, binary, gelu, scores, reduction, reshaped, part,
           typed, prelu, embedding, recurrent, decision)  # fmt: skip


def branch(g: Growth) -> None:
    """If: the condition is constant or computed, both branches may name their weights alike."""
    x = g.pick(lambda v: v.is_float and v.array.ndim >= 1 and v.array.size > 0)
    if x is None or g.depth >= DEEPEST:
        return
    condition = _condition(g, x)
    bodies = [_body(g, [x], []) for _ in range(2)]
    if condition is None or None in bodies:
        return
    ready = [body for body in bodies if body is not None]
    first, second = (_one(body, [x]) for body in ready)
    if first is None or second is None or first.array.dtype != second.array.dtype:
        return
    if g.chance(0.5):
        renamed = _share_names(*ready)
        second = Value(renamed.get(second.name, second.name), second.array)
    g.add("If", [condition], then_branch=_graph(ready[0], [first]), else_branch=_graph(ready[1], [second]))


def loop(g: Growth) -> None:
    """Loop: a state of constant shape goes round one to three times; values of each turn may be stacked."""
    x = g.pick(lambda v: v.is_float and v.array.ndim >= 1 and v.array.size > 0)
    if x is None or g.depth >= DEEPEST:
        return
    turn, go = Value(g.name("turn"), np.array(0, np.int64)), Value(g.name("go"), np.array(True))
    state = Value(g.name("state"), x.array)
    body = _body(g, [x], [turn, go, state])
    if body is None:
        return
    after = _of(body, lambda v: v.array.shape == x.array.shape and v.array.dtype == x.array.dtype)
    if after is None:
        after = body.add("Identity", [state.name])
    still = body.add("Identity", [go.name])
    stacked = _of(body, lambda v: v.array.size > 0) if g.chance(0.5) else None
    if after is None or still is None:
        return
    outputs = [still, after, *([stacked] if stacked else [])]
    g.add("Loop", [g.tensor(np.array(g.between(1, 3), np.int64)), g.tensor(np.array(True)), x.name], len(outputs) - 1,
          body=_graph(body, outputs))  # fmt: skip


def scan(g: Growth) -> None:
    """Scan over the first axis of a value, with or without a state."""
    x = g.pick(lambda v: v.is_float and v.array.ndim >= 2 and v.array.size > 0)
    if x is None or g.depth >= DEEPEST or g.shared.opset < 9:
        return
    piece = Value(g.name("piece"), x.array[0])
    total = Value(g.name("total"), np.zeros_like(x.array[0]))
    start = g.tensor(total.array)
    body = _body(g, [], [total, piece])
    if body is None:
        return
    total_after = body.add("Add", [total.name, piece.name])
    out = _of(body, lambda v: v.array.size > 0)
    if total_after is None or out is None or out is total_after:
        return
    g.add("Scan", [start, x.name], 2, body=_graph(body, [total_after, out]), num_scan_inputs=1)


def function(g: Growth) -> None:
    """A call of a function of the model's own, new or known, with weights as Constant nodes in it."""
    x = g.pick(lambda v: v.is_float and v.array.ndim >= 1 and v.array.size > 0)
    if x is None or g.depth or g.shared.opset < 12 or g.shared.ir < 8:
        return
    known = [f.name for f in g.shared.functions]
    if known and g.chance(0.4):
        g.add(g.one_of(known), [x.name], domain=LOCAL)
        return
    inside = Growth(g.shared, [], -1)
    given = Value(g.name("given"), x.array)
    inside.values.append(given)
    _grow(inside, g.between(1, 3))
    out = _one(inside, [])
    if out is None or not inside.own:
        return
    name = g.one_of(("Layer", "Блок", "Relu", f"f{len(known)}"))
    if name in known:
        return
    made = helper.make_function(LOCAL, name, [given.name], [out.name], inside.nodes,
                                [helper.make_opsetid("", g.shared.opset)])  # fmt: skip
    g.shared.functions.append(made)
    if g.add(name, [x.name], domain=LOCAL) is None:
        g.shared.functions.remove(made)


def _condition(g: Growth, x: Value) -> str | None:
    if g.chance(0.2):
        return g.tensor(np.array(g.chance(0.5)))
    total = g.add("ReduceMean", [x.name], keepdims=0)
    if total is None:
        return None
    found = g.add("Greater", [total.name, g.tensor(np.array(0, x.array.dtype))])
    return None if found is None else found.name


def _body(g: Growth, outside: Sequence[Value], inputs: Sequence[Value]) -> Growth | None:
    """A graph that reads its inputs, some values of `g` and, at times, weights of `g`."""
    visible = [*outside, *(v for v in g.values if g.chance(0.3))]
    body = Growth(g.shared, [*visible, *inputs], g.depth + 1)
    body.inputs = list(inputs)
    if g.chance(0.4):
        seen = [tensor.name for tensor in g.initializers]
        body.weights = [one for one in g.weights if one.name in seen]
        body.values += body.weights
    _grow(body, g.between(1, 3))
    return body if body.own else None


def _grow(body: Growth, nodes: int) -> None:
    proposals: tuple[Any, ...] = (*_INSIDE, branch, loop) if body.depth > 0 else _INSIDE
    for _ in range(4 * nodes):
        if len(body.own) >= nodes:
            break
        body.one_of(proposals)(body)


def _of(body: Growth, wanted: Any) -> Value | None:
    found = [value for value in body.own if wanted(value)]
    return body.one_of(found) if found else None


def _one(body: Growth, outside: Sequence[Value]) -> Value | None:
    """A value that the body makes, mostly floats; at times a weight of its own, which it returns as it is."""
    if outside and body.weights and body.chance(0.1):
        own = [w for w in body.weights if any(t.name == w.name for t in body.initializers)]
        if own:
            return Value(own[0].name, own[0].array)
    return _of(body, lambda v: v.is_float) or _of(body, lambda v: True)


def _graph(body: Growth, outputs: Sequence[Value]) -> onnx.GraphProto:
    inputs = [value_info(v.name, v.array, v.array.shape) for v in body.inputs]
    declared = [value_info(v.name, v.array, None) for v in outputs]
    return helper.make_graph(body.nodes, "body", inputs, declared, body.initializers)


def _share_names(first: Growth, second: Growth) -> dict[str, str]:
    """Gives the weights of the second body the names of those of the first, in order; returns what was renamed."""
    pairs = {b.name: a.name for a, b in zip(first.initializers, second.initializers, strict=False)}
    for tensor in second.initializers:
        tensor.name = pairs.get(tensor.name, tensor.name)
    _rename(second.nodes, pairs)
    return pairs


def _rename(nodes: Iterable[onnx.NodeProto], names: Mapping[str, str]) -> None:
    for node in nodes:
        for index, name in enumerate(node.input):
            node.input[index] = names.get(name, name)
        for attribute in node.attribute:
            _rename(attribute.g.node, names)


SCOPES = (branch, loop, scan, function)
