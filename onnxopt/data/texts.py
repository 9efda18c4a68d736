"""Files of texts: lines, JSON lines, CSV and Parquet, with or without labels."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxopt.data.optional import optional
from onnxopt.data.random import Array
from onnxopt.errors import OnnxoptError, first_line

TEXT, LABEL = "text", "label"
"""Names of the columns, or fields."""
Record = tuple[str, dict[str, Any]]
"""The place of a sample in its file, for messages, and its fields."""


@dataclass(frozen=True, slots=True)
class Texts:
    """The samples of a file, in its order."""

    texts: list[str]
    """None of them is blank."""
    labels: Array | None
    """[samples], class numbers or other numbers; None where the file has no field of labels."""


def read_texts(path: Path) -> Texts:
    """Reads a file of one of the `FORMATS`.

    The texts are in the field `text` or, without one, in the only field of the first sample that holds a text and is
    not `label`. Labels that are names become their places in alphabetical order.

    Raises OnnxoptError, which names the line or row, where the file cannot be read or holds no texts, or where some
    samples lack a text or a label.
    """
    texts, labels = list[str](), list[Any]()
    field = ""
    for place, record in FORMATS[path.suffix.lower()](path):
        field = field or _text_field(path, record)
        text = record.get(field)
        if not isinstance(text, str) or not text.strip():
            found = "nothing" if text is None else "a blank text" if isinstance(text, str) else type(text).__name__
            raise OnnxoptError(f"{path}: {place} holds {found} in {field!r}, expected a text; leave such samples out")
        label = record.get(LABEL)
        if (label is None) is not (not labels) and texts:
            raise OnnxoptError(f"{path}: {place} has {'no' if label is None else 'a'} {LABEL}, unlike those before; "
                               "label all samples or none")  # fmt: skip
        texts.append(text)
        if label is not None:
            labels.append(label)
    if not texts:
        raise OnnxoptError(f"{path}: holds no texts, expected one sample or more")
    return Texts(texts, _numbered(path, labels) if labels else None)


def _text_field(path: Path, record: dict[str, Any]) -> str:
    """The field that holds the texts, by the first sample."""
    if TEXT in record:
        return TEXT
    found = [name for name, value in record.items() if name != LABEL and isinstance(value, str) and not _number(value)]
    if len(found) != 1:
        which = f"several fields that are texts ({', '.join(found)})" if found else "no field that is a text"
        raise OnnxoptError(f"{path}: has {which}; call the field of the texts {TEXT!r}")
    return found[0]


def _numbered(path: Path, labels: list[Any]) -> Array:
    """Labels as numbers. Raises OnnxoptError for anything but numbers and names."""
    wrong = next((one for one in labels if not isinstance(one, str | int | float)), None)
    if wrong is not None:
        raise OnnxoptError(f"{path}: a {LABEL} is {type(wrong).__name__}, expected numbers or names")
    if all(isinstance(one, str) and _number(one) for one in labels):
        labels = [int(one) if one.strip().removeprefix("-").isdecimal() else float(one) for one in labels]
    if any(isinstance(one, str) for one in labels):
        return np.asarray(np.unique([str(one) for one in labels], return_inverse=True)[1])
    try:
        return np.array(labels, np.float64 if any(isinstance(one, float) for one in labels) else np.int64)
    except OverflowError as error:
        raise OnnxoptError(f"{path}: a {LABEL} does not fit into 64 bits, expected numbers of classes") from error


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _decoded(path: Path) -> Iterator[str]:
    """Lines of UTF-8, with their ends."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise OnnxoptError(f"{path}: line {number} is no UTF-8 text; store the file as UTF-8") from error


def _lines(path: Path) -> Iterator[Record]:
    """A text a line; blank lines are none."""
    for number, line in enumerate(_decoded(path), 1):
        if line.strip():
            yield f"line {number}", {TEXT: line.rstrip("\r\n")}


def _json_lines(path: Path) -> Iterator[Record]:
    for number, line in enumerate(_decoded(path), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise OnnxoptError(f"{path}: line {number} is no JSON: {first_line(error)}") from error
        if not isinstance(record, dict):
            raise OnnxoptError(f'{path}: line {number} is no JSON object, expected one such as {{"{TEXT}": "..."}}')
        yield f"line {number}", record


def _comma_separated(path: Path) -> Iterator[Record]:
    reader = csv.DictReader(_decoded(path), strict=True)
    try:
        for record in reader:
            if None in record:
                raise OnnxoptError(f"{path}: line {reader.line_num} has more fields than the header, which is "
                                   f"{', '.join(reader.fieldnames or ())}; quote texts that hold commas")  # fmt: skip
            yield f"line {reader.line_num}", record
    except csv.Error as error:
        raise OnnxoptError(f"{path}: line {reader.reader.line_num} is no CSV: {error}") from error


def _parquet(path: Path) -> Iterator[Record]:
    """The columns of texts and of labels; no others are read."""
    parquet, types = (optional(f"pyarrow{part}", "to read Parquet files") for part in (".parquet", ".types"))
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            columns = [one.name for one in file.schema_arrow if _holds_texts(types, one.type) or one.name == LABEL]
            for rows in file.iter_batches(columns=columns):
                for record in rows.to_pylist():
                    number += 1
                    yield f"row {number}", record
    except Exception as error:  # the library raises various errors for a damaged file
        raise OnnxoptError(f"{path}: not a Parquet file that can be read: {first_line(error)}") from error


def _holds_texts(types: Any, kind: Any) -> bool:
    inner = kind.value_type if types.is_dictionary(kind) else kind
    return bool(types.is_string(inner) or types.is_large_string(inner) or types.is_string_view(inner))


FORMATS: dict[str, Callable[[Path], Iterator[Record]]] = {
    ".txt": _lines, ".jsonl": _json_lines, ".csv": _comma_separated, ".parquet": _parquet,
}  # fmt: skip
"""By suffix, what gives the records of a file."""
