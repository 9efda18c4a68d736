"""What strategies did, as records: the terminal and the page show any strategy from these alone.

A record has

    name, title    the strategy's
    about          what it looked at, in one or two sentences
    kept, reason   whether the file has what it proposed, and why not
    time           the whole model with it against without: ratio, low, high, significant; None where not measured
    columns        key, heading and explanation of each column; the first one names the rows
    rows           values by key, `accepted` (whether the file has it) and `reason` (why not)

A value is a number, a text, None, or a pair of before and after. A column without any value is not shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

Record = Mapping[str, Any]

_SAVES = {"size": "bytes", "speed": "time on this machine", "balanced": "bytes and time on this machine"}


def strategy_records(result: Mapping[str, Any]) -> list[Record]:
    """Of a result, which docs/result.md describes: its strategies in the order in which they were tried."""
    adapters = {"rectifiers": _prelu, "integers": _int8, "blocks": _weight_only, "factoring": _low_rank}
    return [adapt(result[key]) for key, adapt in adapters.items() if result.get(key)]


def filled_columns(record: Record) -> list[tuple[str, str, str]]:
    """The columns in which some row has a value."""
    return [column for column in record["columns"] if any(row[column[0]] is not None for row in record["rows"])]


def _prelu(found: Mapping[str, Any]) -> Record:
    what = "run as depthwise convolutions" if found["kept"] else "stay"
    return _record("prelu", "PRelu as convolutions", f"{found['nodes']} PRelu {what}.", found, (), [])


def _int8(found: Mapping[str, Any]) -> Record:
    counts = Counter(one["op"] for one in found["layers"] if one["integers"])
    running = ", ".join(f"{count} {op}" for op, count in counts.most_common())
    where = "where that saves time on this machine" if found["goal"] else "wherever it is possible"
    about = f"nodes run in INT8 {where}, with {found['type']} activations, for kernels of {found['target']}."
    columns = (
        ("path", "Node", "The node, with the activation function behind it"),
        ("op", "Operator", "Its type"),
        ("ms", "ms", "In the whole model: as float, in INT8"),
        ("noise", "Noise", "Over signal in the model's outputs, when this node's output alone is rounded"),
        ("method", "Range", "How the range of its output was chosen"),
    )
    rows = [{"path": one["path"], "op": one["op"], "ms": _pair(one["ms_floats"], one["ms_integers"]),
             "noise": one["noise"], "method": one["method"], "accepted": one["integers"],
             "reason": "" if one["integers"] else "stays float"} for one in found["layers"]]  # fmt: skip
    return _record("int8", "INT8", f"{about} In INT8: {running}." if running else about, found, columns, rows)


def _weight_only(found: Mapping[str, Any]) -> Record:
    about = "weights of large matrix products keep 4 or 8 bits at run time where that saves time on this machine."
    columns = (
        ("path", "Weight", "Of the matrix product"),
        ("step", "Step", "The fastest"),
        ("ms", "ms", "Of the layer alone, before and after"),
        ("noise", "Noise", "Over signal in the model's outputs that the quantized weight makes"),
    )
    rows = [{"path": one["path"], "step": one["step"], "ms": _pair(one["ms_before"], one["ms_after"]),
             "noise": one["noise"], "accepted": one["accepted"], "reason": ""} for one in found["layers"]]  # fmt: skip
    return _record("weight_only", "Weight-only quantization", about, found, columns, rows)


def _low_rank(found: Mapping[str, Any]) -> Record:
    about = f"layers are replaced by thinner ones where that saves {_SAVES[found['goal']]}."
    if found["chained"]:
        about += f" Without, the file has {found['plain']['size']} bytes; with them, {found['chained']['size']}."
    columns = (
        ("path", "Layer", "Its weight"),
        ("step", "Step", "The factorisation that was taken, or that came nearest to paying"),
        ("ms", "ms", "Of the layer alone, before and after"),
        ("bytes", "Bytes", "Coded, before and after; expected ones where it was rejected"),
        ("weights", "Weights", "Elements, before and after"),
        ("macs", "MACs", "Multiply-accumulates of a run, before and after"),
        ("noise", "Noise", "Over signal in the model's outputs, before quantization"),
    )
    rows = [{"path": one["path"], "step": one["step"], "ms": _pair(one["ms_before"], one["ms_after"]),
             "bytes": _pair(int(one["bytes_before"]), int(one["bytes_after"])),
             "weights": _pair(one["weights_before"], one["weights_after"]),
             "macs": _pair(one["macs_before"], one["macs_after"]), "noise": one["noise"],
             "accepted": one["accepted"], "reason": one["reason"]} for one in found["layers"]]  # fmt: skip
    return _record("low_rank", "Low-rank factorisation", about, found, columns, rows)


def _pair(before: Any, after: Any) -> tuple[Any, Any] | None:
    return None if before is None and after is None else (before, after)


def _record(
    name: str, title: str, about: str, found: Mapping[str, Any], columns: Any, rows: list[dict[str, Any]]
) -> Record:
    return {"name": name, "title": title, "about": about, "kept": found["kept"], "reason": found["reason"],
            "time": found["time"], "columns": columns, "rows": rows}  # fmt: skip
