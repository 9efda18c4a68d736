"""The values of tuned weights, which lie beside a plan: an ordinary container (FORMAT.md) without a model.

A plan holds their digest. Integers and indices are entries of the weights' names, scales and tables entries
``name@scales`` and ``name@table``. In the place of the plan, JSON says how each weight is stored.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx

from onnxopt import native
from onnxopt.build import container
from onnxopt.data.stream import sha256
from onnxopt.encoding import Affine, Array, Codebook, Encoding, Raw
from onnxopt.errors import ContainerError, OnnxoptError
from onnxopt.spec.documents import parse_json
from onnxopt.spec.plan import Plan

_SCALES, _TABLE = "@scales", "@table"


def digest(values: Mapping[str, Encoding]) -> str:
    """Of all elements, scales and tables; empty without values."""
    elements = (entry.elements.tobytes() for path in sorted(values) for entry in values[path].entries())
    return sha256(*(path.encode() for path in sorted(values)), *elements) if values else ""


def packed(values: Mapping[str, Encoding]) -> bytes:
    """The container."""
    entries, forms = dict[str, Encoding](), dict[str, dict[str, int]]()
    for path, value in sorted(values.items()):
        if isinstance(value, Affine):
            entries |= {path: Raw(value.q.astype(np.int32)), f"{path}{_SCALES}": Raw(value.k)}
            forms[path] = {"axis": value.axis, "type": onnx.helper.np_dtype_to_tensor_dtype(value.dtype)}
        elif isinstance(value, Codebook):
            entries |= {path: Raw(value.index), f"{path}{_TABLE}": Raw(value.table)}
        else:
            entries[path] = Raw(value.values())
    return container.write(onnx.ModelProto().SerializeToString(), entries, json.dumps(forms))


def of(values: str | os.PathLike[str] | Mapping[str, Encoding] | None, plan: Plan) -> Mapping[str, Encoding]:
    """The values for a plan; none where it has no tuned weights.

    Arguments:
        values: those, or a file that holds them.

    Raises OnnxoptError if there are none, they cannot be read, or they are not the plan's.
    """
    if not plan.values:
        return {}
    if values is None:
        raise OnnxoptError("the plan is of tuned weights, whose values it does not hold; give those that `onnxopt "
                           "optimize --tune --plan-out` wrote beside it")  # fmt: skip
    found, where = (values, "these values") if isinstance(values, Mapping) else (read(Path(values)), str(values))
    if (own := digest(found)) != plan.values:
        raise OnnxoptError(f"{where}: the digest is {own[:12]}..., and the plan has {plan.values[:12]}...; give the "
                           "values that were written with this plan")  # fmt: skip
    return found


def read(path: Path) -> dict[str, Encoding]:
    """The values in a file. Raises OnnxoptError if it holds none."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise OnnxoptError(f"{path}: cannot be read ({error.strerror}): the plan is of tuned weights, whose values "
                           "`onnxopt optimize --tune --plan-out` writes beside it") from error  # fmt: skip
    try:
        with native.Container(data) as stored:
            return _unpacked(stored.decode(), parse_json(stored.plan))
    except (ContainerError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise OnnxoptError(f"{path}: holds no values of tuned weights ({error}); give the file that `onnxopt optimize "
                           "--tune --plan-out` wrote beside the plan") from error  # fmt: skip


def _unpacked(entries: Mapping[str, Array], forms: Mapping[str, Mapping[str, int]]) -> dict[str, Encoding]:
    found = dict[str, Encoding]()
    for path, array in entries.items():
        if path.endswith((_SCALES, _TABLE)) and path.rpartition("@")[0] in entries:
            continue
        if (form := forms.get(path)) is not None:
            k = entries[f"{path}{_SCALES}"]
            found[path] = Affine(array, k, form["axis"], onnx.helper.tensor_dtype_to_np_dtype(form["type"]))
        elif (table := entries.get(f"{path}{_TABLE}")) is not None:
            found[path] = Codebook(array, table)
        else:
            found[path] = Raw(array)
    return found
