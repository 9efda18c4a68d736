"""A session that is closed while nobody uses it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy.typing as npt
import onnxruntime

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class _Port:
    """What a session says of an input or output. The runtime's own answer would keep the session in memory."""

    name: str
    type: str
    shape: list[Any]


class Resting:
    """A session of the source, which is as large as the model. It is opened again when it has to run after a rest.

    Arguments:
        open_session: opens it.

    Raises what that raises.
    """

    def __init__(self, open_session: Callable[[], onnxruntime.InferenceSession]) -> None:
        self._open, self._lock = open_session, Lock()
        self._session: onnxruntime.InferenceSession | None = open_session()
        self._inputs = [_Port(one.name, one.type, one.shape) for one in self._session.get_inputs()]
        self._outputs = [_Port(one.name, one.type, one.shape) for one in self._session.get_outputs()]

    def get_inputs(self) -> list[_Port]:
        """As the runtime's."""
        return list(self._inputs)

    def get_outputs(self) -> list[_Port]:
        """As the runtime's."""
        return list(self._outputs)

    def run(self, names: Sequence[str] | None, feeds: Mapping[str, Array]) -> list[Any]:
        """As the runtime's."""
        with self._lock:
            session = self._session = self._session or self._open()
        return list(session.run(names, feeds))

    def rest(self) -> None:
        """Closes the session until it has to run again."""
        self._session = None
