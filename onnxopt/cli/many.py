"""Several models in one command: where they run, and what is shown of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from onnxopt.cli.app import console, progress
from onnxopt.cli.options import Showing, option
from onnxopt.errors import OnnxoptError
from onnxopt.pool import Pool, Threads
from onnxopt.pool.cluster import Cluster
from onnxopt.report.batch import print_outcomes
from onnxopt.report.json import plain
from onnxopt.studies.batch import Job, Outcome, batch, exit_code

COMMAND = ("-m", "onnxopt.cli")
"""What Python runs as `onnxopt`, wherever it is installed."""


@dataclass(frozen=True, kw_only=True)
class Clustered:
    """Option for where what is independent runs."""

    cluster: Annotated[
        str | None,
        option(metavar="ADDRESS", help="Run what is independent, such as the parts of a model, or each of several, "
                                       "where Dask decides: tcp://host:8786, or local:4 for four workers on this "
                                       "machine."),
    ] = None  # fmt: skip

    @property
    def within(self) -> AbstractContextManager[Pool]:
        """The pool for the parts of one model. Raises OnnxoptError for an address that is none."""
        return Threads() if self.cluster is None else Cluster(self.cluster)


@dataclass(frozen=True, kw_only=True)
class Parallel(Clustered):
    """Options for where the models of a command run."""

    jobs: Annotated[int, typer.Option(min=1, help="Of several models, so many at a time.")] = 1

    @property
    def pool(self) -> AbstractContextManager[Pool]:
        """The pool for whole models. Raises as `within` does."""
        return Threads(self.jobs) if self.cluster is None else Cluster(self.cluster)


@dataclass(frozen=True, kw_only=True)
class Placing(Parallel):
    """Options for the files that `optimize` writes, and where it runs."""

    context: typer.Context
    output: Annotated[
        Path | None,
        option("--output", "-o", help="The file to write, or a folder, where models keep their names."),
    ] = None  # fmt: skip
    check: Annotated[
        Path | None,
        option(metavar="OUTPUT", help="Instead of writing: say whether this output is still what the other options "
                                      "would make, without running them; exit code 1 if it is not."),
    ] = None  # fmt: skip
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Instead of writing: say what would be done to which weights, and about "
                                             "how long and how much memory it takes."),
    ] = False  # fmt: skip

    @property
    def file(self) -> Path:
        """The output. Ends the command with a usage error if none is named."""
        if self.output is None:
            raise typer.BadParameter("name the file to write, as in -o small.onnx", self.context, param_hint="--output")
        return self.output

    def options_given(self) -> tuple[str, ...]:
        """The options of the command line, as its words, without models and what belongs to this group."""
        words: list[str] = []
        for one in self.context.command.params:
            source = self.context.get_parameter_source(one.name or "")
            if source is None or source.name != "COMMANDLINE" or one.name in FOR_ALL:
                continue
            value = self.context.params[one.name or ""]
            if value is True:
                words.append(one.opts[0])
            else:
                for each in value if isinstance(value, list | tuple) else [value]:
                    words += [one.opts[0], str(each)]
        return tuple(words)


def in_folder(models: Sequence[Path], place: Path) -> bool:
    """Whether outputs go into a folder: there are several, or `place` is one."""
    return len(models) > 1 or _is_folder(place)


def outputs(models: Sequence[Path], place: Path) -> list[tuple[Path, Path]]:
    """Each model with its output. Raises OnnxoptError if two would have the same, or their folder is none."""
    if not in_folder(models, place):
        return [(models[0], place)]
    if not _is_folder(place):
        raise OnnxoptError(f"{place}: is no folder, and there are {len(models)} models; make one, and name it")
    names = [model.name for model in models]
    if twice := [name for name in names if names.count(name) > 1]:
        raise OnnxoptError(f"{place / twice[0]}: would be the output of two models; give them different names")
    return [(model, place / model.name) for model in models]


def _is_folder(place: Path) -> bool:
    try:
        return place.is_dir()
    except OSError:  # the name may be too long
        return False


FOR_ALL = frozenset(
    {"models", "output", "check", "dry_run", "jobs", "cluster", "as_json", "verbose", "log_json", "help"}
)
"""Parameters of `optimize` that say something of all models together."""


def run_all(jobs: Sequence[Job], parallel: Parallel, showing: Showing) -> None:
    """Runs all jobs and shows what became of them. Ends the command with the exit code of the worst."""
    outcomes: dict[int, Outcome] = {}
    results = sys.stdout
    with progress(showing.verbose, showing.log_json) as advance, parallel.pool as pool:
        for index, outcome in batch(COMMAND, jobs, pool, advance):
            outcomes[index] = outcome
            if showing.as_json:
                print(json.dumps(plain(outcome)), file=results, flush=True)
    found = [outcomes[index] for index in range(len(jobs))]
    if not showing.as_json:
        print_outcomes(console(), found)
    if code := exit_code(found):
        raise typer.Exit(code)
