"""Writes the attack files: each is valid but for one lie, every checksum right, so that the check meant refuses it.

`python tests/attacks/make_attacks.py` writes them beside itself, the same bytes every time. Nothing of onnxopt is used:
FORMAT.md is all that this knows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from building import outer_model, payload
from cases_codecs import codecs
from cases_containers import headers, metadata, tables
from cases_models import models, outer
from cases_version2 import version2

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Attack:
    """A file, why it is hostile, and a part of what is said about it."""

    name: str
    content: bytes = field(repr=False)
    reason: str
    message: str


def attacks() -> Iterator[Attack]:
    """Every attack; containers come inside an outer model."""
    for name, box, reason, message in (*headers(), *metadata(), *tables(), *codecs(), *version2(), *models()):
        yield Attack(f"{name}.onnx", outer_model(payload(box.build())), reason, message)
    for name, content, reason, message in outer():
        yield Attack(f"{name}.onnx", content, reason, message)


if __name__ == "__main__":
    for attack in attacks():
        (HERE / attack.name).write_bytes(attack.content)
