"""Compares a finished file with the source, loaded in every way in which users load it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import onnxruntime

from onnxopt import runtime
from onnxopt.build.running import Running, identity
from onnxopt.data import CannotRun, Hints, Resting, quiet_session, synthetic
from onnxopt.errors import Missed, OnnxoptError, Unsound, first_line
from onnxopt.graph import Source
from onnxopt.results.result import Check
from onnxopt.search.evaluator import Evaluator
from onnxopt.search.identity import first_difference, interface_fault
from onnxopt.search.original import Original
from onnxopt.search.worst_law import evaluator_of
from onnxopt.spec.contract import Contract

_CHECKED = 4
"""Synthetic inputs for checking a file that no search measured."""
_CLOSE = 1.25
"""Factor by which noise over signal may be larger on the data of the check than on those of the search."""
_LUCK = 2.0
"""Factor by which a lossless file may differ more from the source than the source does from one run to the next."""


def source_session(source: Source, exact: bool = False) -> onnxruntime.InferenceSession | Resting:
    """Stock ONNX Runtime's session of the source, which rests with it. Raises OnnxoptError if it does not load it.

    Arguments:
        exact: whether every bit of its outputs counts. Else it uses weights in place that are set aside.
    """
    if source.shelf is None:
        return _session_of(source, exact)
    session = Resting(partial(_session_of, source, exact))
    source.sessions.add(session)
    return session


def _session_of(source: Source, exact: bool) -> onnxruntime.InferenceSession:
    path = source.path
    try:
        if exact:
            return quiet_session(str(path), packs=source.shelf is None)
        return quiet_session(str(path) if source.shelf is None else source.model.SerializeToString())
    except Exception as error:  # the runtime's own types, which share no base class
        raise OnnxoptError(f"{path}: ONNX Runtime does not load the original model, so it would not load a compressed "
                           f"one: {first_line(error)}; nothing was written") from error  # fmt: skip


@dataclass
class Checking:
    """Checks one file; `found`, `reason` and `met` are the results."""

    source: Source
    original: Original | None
    """The original model and its data; if None, a few synthetic inputs are used."""
    contract: Contract | None
    met: bool
    """Whether the contract is met so far."""
    allow_miss: bool
    lossless: bool
    """Whether the outputs have to be equal bit for bit."""
    reason: str = ""
    """Why outputs cannot be compared; empty if they can, or if that is not known yet."""
    found: Check | None = field(default=None, init=False)

    @cached_property
    def evaluator(self) -> Evaluator | None:
        """The source and its outputs; None if it runs on no inputs, of which `reason` gives the cause."""
        try:
            return None if self.reason else self._opened[1]
        except CannotRun as error:
            self.reason = str(error)
            return None

    def __call__(self, path: Path) -> None:
        """Checks the file.

        Raises Unsound if it does not load, does not run, has another interface, or is lossless and differs in a bit;
        Missed if it misses the contract; OnnxoptError if the source does not load.
        """
        first: list[Any] = []
        _ = self._session, self.evaluator  # the source first: if it does not load, that is the reason
        self._rest()
        for how, session in self._sessions(path):
            if fault := interface_fault(self._session, session):
                raise Unsound(self.source.path, f"{how}, {fault}")
            running, name = Running(self.source.path, session), ""
            if self.evaluator is not None and first:
                name = self._disagreement(running, first, self.evaluator)
            elif self.evaluator is not None:
                self._measure(path, how, running, self.evaluator)
                first = running.run(self.evaluator.names, self.evaluator.feeds)
            if name:
                raise Unsound(self.source.path, f"{how}, output {name!r} is not the same as in ONNX Runtime with the "
                                                "library registered")  # fmt: skip
            del session, running  # before the next one: each is as large as the model
            self._rest()

    def _rest(self) -> None:
        """Gives back what the next session would stand beside."""
        self.source.rest(trims=True)

    def _sessions(self, path: Path) -> Iterator[tuple[str, onnxruntime.InferenceSession]]:
        try:
            yield from runtime.sessions(path, packs=self.source.shelf is None)
        except (OnnxoptError, MemoryError):
            raise
        except Exception as error:  # the runtime's own types
            raise Unsound(self.source.path, f"it does not load: {first_line(error)}") from error

    @cached_property
    def _session(self) -> onnxruntime.InferenceSession | Resting:
        return source_session(self.source, self.lossless) if self.original is None else self.original.session

    @cached_property
    def _opened(self) -> tuple[str, Evaluator]:
        """The data's name, and an evaluator of the original on it. Raises CannotRun if the original does not run."""
        if self.original is not None:
            return self._on_data(self.original)
        try:
            session = self._session
            if self.source.shelf is not None:  # inputs that are tried on it are longer than those of the check
                self._rest()
                session = source_session(self.source)
            data = synthetic(session, Hints(self.source.model), _CHECKED)
            self._rest()
            return data.name, evaluator_of(self._session, data)
        except MemoryError:
            raise
        except Exception as error:  # CannotRun, or any runtime error on the user's model
            raise CannotRun(first_line(error)) from error

    def _on_data(self, original: Original) -> tuple[str, Evaluator]:
        try:
            return original.parts.check.name, original.check
        except (OnnxoptError, MemoryError):
            raise
        except Exception as error:  # the runtime's own types
            name = original.parts.check.name
            raise OnnxoptError(f"{self.source.path}: does not run on {name}: {first_line(error)}") from error

    def _measure(self, path: Path, how: str, running: Running, evaluator: Evaluator) -> None:
        found = evaluator.compare_file(identity(path), running)
        promise = self.contract.promise if self.contract else None
        self.found = Check(self._opened[0], found)
        name = evaluator.difference(running) if self.lossless else ""
        if name and (found.error or 0.0) > _LUCK * self._own_error(evaluator):
            raise Unsound(self.source.path, f"{how}, output {name!r} is not equal bit for bit")
        noise = self.contract.error if self.contract else None
        within = noise is None or (found.difference or 0.0) <= _CLOSE * noise
        self.met = self.met and within and not (promise and promise.failed(found))
        if not self.met and not self.allow_miss:
            what, bound = f"noise over signal is {found.difference or 0.0:.3g}", "--error"
            if found.drop is not None:
                what = f"it drops by {found.drop:.3g}, from {found.before:.4g} to {found.after:.4g}"
                bound = "--max-drop"
            raise Missed(
                f"{self.source.path}: {self.contract} is missed on {self._opened[0]}: {what}, at {path.stat().st_size} "
                f"bytes; nothing was written (--allow-miss writes it; a smaller {bound} or more --data is more careful)"
            )

    def _own_error(self, evaluator: Evaluator) -> float:
        """Noise over signal between runs of the source: -1 if they give the same bits, as they do unless it draws
        random numbers."""
        others = self._session, source_session(self.source, exact=True)
        found = (Running(self.source.path, other) for other in others)
        return max((evaluator.compare(one).error or 0.0 for one in found if evaluator.difference(one)), default=-1.0)

    @staticmethod
    def _disagreement(running: Running, wanted: Sequence[Any], evaluator: Evaluator) -> str:
        """Name of an output of the first batch that is not as wanted; empty if there is none, or if outputs differ from
        one run to the next."""
        names, feeds = evaluator.names, evaluator.feeds
        got = running.run(names, feeds)
        name = first_difference(names, wanted, got)
        return name if name and not first_difference(names, got, running.run(names, feeds)) else ""
