"""The batch command: models and their requests in a TOML file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from onnxopt.cli.app import app
from onnxopt.cli.groups import command
from onnxopt.cli.many import FOR_ALL, Parallel, run_all
from onnxopt.cli.options import Memory, Showing, argument, count
from onnxopt.errors import OnnxoptError
from onnxopt.files import read_text
from onnxopt.spec.documents import parse_toml
from onnxopt.studies.batch import Job

File = Annotated[Path, argument(metavar="JOBS.toml", help="A [[job]] for each model: model, output, and options of "
                                "optimize, as in max-drop = 0.5; those in [defaults] hold for all.")]  # fmt: skip
_DEFAULTS, _JOB = "defaults", "job"


@command
def batch(jobs_file: File, parallel: Parallel, showing: Showing) -> None:
    """Compress many models, each by its own request. Outputs that are current are kept."""
    text = read_text(jobs_file)
    try:
        jobs = list(_jobs(parse_toml(text)))
    except ValueError as error:
        raise OnnxoptError(f"{jobs_file}: is no TOML: {error}") from error
    except OnnxoptError as error:
        raise OnnxoptError(f"{jobs_file}: {error}") from error
    run_all(jobs, parallel, showing)


def _jobs(document: Mapping[str, Any]) -> Iterator[Job]:
    """The jobs of a file. Raises OnnxoptError if it contradicts itself, or names no option of `optimize`."""
    jobs, defaults = document.get(_JOB), document.get(_DEFAULTS, {})
    tables: list[Any] = [defaults, *jobs] if isinstance(jobs, list) else [None]
    if document.keys() - {_JOB, _DEFAULTS} or not all(isinstance(table, dict) for table in tables):
        raise OnnxoptError("expected a [[job]] for each model, and nothing besides but [defaults]")
    outputs: dict[Path, int] = {}
    for number, job in enumerate(tables[1:], 1):
        words = {**tables[0], **job}
        model, output = words.pop("model", None), words.pop("output", None)
        if not isinstance(model, str) or not isinstance(output, str):
            raise OnnxoptError(f'job {number}: expected the paths model and output, as in model = "resnet.onnx"')
        place = Path(output) / Path(model).name if Path(output).is_dir() else Path(output)
        if (other := outputs.setdefault(place, number)) != number:
            raise OnnxoptError(f"job {number}: writes {place}, and so does job {other}; name another output")
        options = (word for name, value in words.items() for word in _words(f"job {number}", name, value))
        memory = count(f"job {number}: max-ram", str(words.get("max-ram", Memory.max_ram)))
        yield Job(Path(model), place, tuple(options), memory=0 if words.get("lossless") else memory)


def _words(job: str, name: str, value: Any) -> Iterator[str]:
    """An option as words of the command line. Raises OnnxoptError if there is none of this name and kind."""
    known = {text.removeprefix("--"): one for one in _options() for text in one.opts if text.startswith("--")}
    if name not in known:
        raise OnnxoptError(f"{job}: there is no option {name!r}; there is {', '.join(sorted(known))}")
    option = known[name]
    if option.is_flag:
        if not isinstance(value, bool):
            raise OnnxoptError(f"{job}: {name} is {value!r}, expected true or false")
        yield from [f"--{name}"] * value
        return
    for one in value if isinstance(value, list) and option.multiple else [value]:
        if isinstance(one, bool) or not isinstance(one, str | int | float):
            raise OnnxoptError(f"{job}: {name} is {one!r}, expected a text or a number")
        yield f"--{name}={one}"


def _options() -> Iterator[Any]:
    """The options of `optimize` that a job may have."""
    group: Any = typer.main.get_command(app)
    for one in group.commands["optimize"].params:
        if one.param_type_name == "option" and not one.hidden and one.name not in FOR_ALL:
            yield one
