"""Builds the backward model of a forward model, of which one run has shown shapes and constants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from onnxopt.graph.autodiff import algebra, elementwise, fused, movement, windows  # noqa: F401 - they register their rules
from onnxopt.graph.autodiff.tape import FLOATS, RULES, Forward, Node, NoGradient, Tape, Var
from onnxopt.graph.normalise import subgraphs

CHANCE = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli")
"""Operators that give something else in every run."""
_SHAPES = ("Shape", "Size")
"""Operators to which elements do not matter."""


def nodes_of(model: onnx.ModelProto) -> list[Node]:
    """The main graph's nodes, in order."""
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)
    return [Node(proto, opset) for proto in model.graph.node]


def reads(node: Node) -> set[str]:
    """Every value that a node reads, through its subgraphs too."""
    inner = {n for g in node.subgraphs for s in subgraphs(g) for i in s.node for n in i.input}
    inner |= {o.name for g in node.subgraphs for o in g.output}
    return (inner | set(node.inputs)) - {""}


def constants(nodes: Sequence[Node], weights: set[str]) -> set[str]:
    """Values that are the same for all inputs of one shape: weights, shapes, and what is computed from them."""
    known = set(weights)
    for node in nodes:
        if node.op in _SHAPES or (node.op not in CHANCE and reads(node) <= known):
            known.update(node.outputs)
    return known - {""}


@dataclass(frozen=True, slots=True)
class Backward:
    """Inputs and outputs of a backward model."""

    cotangents: list[str]
    """Values whose cotangents are inputs, named by `cotangent`."""
    fetched: list[str]
    """Values of the forward model that are inputs."""
    weights: list[str]
    """Weights whose gradients are outputs, named by `gradient`."""
    unsupported: dict[str, str]
    """By weight, the reason why it has no gradient."""


def cotangent(name: str) -> str:
    """The backward model's input for the cotangent of a value."""
    return f"cotangent of {name}"


def gradient(name: str) -> str:
    """The backward model's output for the gradient of a weight."""
    return f"gradient of {name}"


def differentiate(
    nodes: Sequence[Node], forward: Forward, starts: Sequence[str], weights: Sequence[str]
) -> tuple[bytes, Backward]:
    """The backward model from `starts` to `weights`."""
    active = _descendants(nodes, set(weights))
    tape = Tape(forward)
    grads: dict[str, list[Var]] = {}
    for name in starts:
        grads[name] = [tape.input(cotangent(name), forward.shapes[name])]
    reasons: dict[str, str] = {}
    for node in reversed(nodes):
        sources = reads(node) & active
        if not sources:
            continue
        node.tape, node.grads = tape, [_total(grads, name) for name in node.outputs]
        blocked = next((reasons[name] for name in node.outputs if name in reasons), None)
        why, passed = None, set[str]()
        if any(grad is not None for grad in (node.grads if node.op == "Split" else node.grads[:1])):
            try:
                why = _pass(node, grads, sources, passed)
            except NoGradient as error:
                why = f"the gradient cannot pass {node.op} {node.name!r}: {error}"
        elif any(grad is not None for grad in node.grads):
            why = f"the gradient cannot pass {node.op} {node.name!r} from any but its first output"
        for name in sources if blocked else sources - passed:
            if blocked or why:
                reasons.setdefault(name, blocked or why or "")
    outputs, unsupported = {}, {}
    for name in weights:
        grad = _total(grads, name)
        if grad is None or name in reasons:  # of some paths only, a gradient says too little
            unsupported[name] = reasons.get(name, "no output depends on it by a path that has a gradient")
        else:
            outputs[gradient(name)] = grad
    model, inputs = tape.model(outputs)
    taken = [name for name in starts if cotangent(name) in inputs]
    fetched = [name for name in inputs if name in forward.shapes]
    return model, Backward(taken, fetched, [name for name in weights if name not in unsupported], unsupported)


def _pass(node: Node, grads: dict[str, list[Var]], sources: set[str], passed: set[str]) -> str | None:
    """Passes the gradient from a node's outputs to those of its inputs that are in `sources`.

    Returns the reason if a float input gets none. Raises NoGradient.
    """
    if node.op not in RULES:
        raise NoGradient("there is no rule for this operator")
    shapes = node.tape.forward.shapes
    if any(0 in shapes.get(name, ()) for name in (*sources, *node.outputs)):
        raise NoGradient("a value has no elements")  # for which the runtime's kernels need not be made
    node.wanted = sources
    for index, grad in RULES[node.op](node):
        name = node.inputs[index]
        if name in sources:
            grads.setdefault(name, []).append(grad)
            passed.add(name)
    left = [i for i, name in enumerate(node.inputs) if name in sources - passed and _is_float(node, name)]
    return f"the gradient cannot pass {node.op} {node.name!r} to its input {left[0]}" if left else None


def _is_float(node: Node, name: str) -> bool:
    return node.tape.forward.types.get(name) in FLOATS


def _total(grads: dict[str, list[Var]], name: str) -> Var | None:
    parts = grads.get(name)
    if not parts:
        return None
    if len(parts) > 1:
        grads[name] = [_sum(parts)]
    return grads[name][0]


def _sum(parts: Sequence[Var]) -> Var:
    """The sum. What is added to zeros, as rows that were gathered are, is added to the others instead: of a table of
    words, zeros are as large as many layers."""
    tape = parts[0].tape
    added = [tape.added[part.name] for part in parts if part.name in tape.added]
    whole = [part for part in parts if part.name not in tape.added]
    if not whole:
        return parts[0].apply("Sum", *parts[1:])
    total = whole[0].apply("Sum", *whole[1:]) if whole[1:] else whole[0]
    for indices, grad, axis in added:
        total = total.apply("ScatterElements", indices, grad, axis=axis, reduction="add")
    return total


def _descendants(nodes: Sequence[Node], values: set[str]) -> set[str]:
    """`values` and all that is computed from their elements."""
    found = set(values)
    for node in nodes:
        if node.op not in _SHAPES and reads(node) & found:
            found.update(node.outputs)
    return found - {""}
