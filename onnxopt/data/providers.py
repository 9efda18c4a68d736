"""The execution providers that a command's sessions run on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import onnxruntime

from onnxopt.errors import OnnxoptError, first_line

_SUFFIX = "ExecutionProvider"
_CPU = "CPUExecutionProvider"

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _Choice:
    names: tuple[str, ...] = ()
    tell: Tell | None = None
    """Told why a session runs without a provider; None where that is an error."""


_NONE = _Choice()
_chosen: ContextVar[_Choice] = ContextVar("providers", default=_NONE)


@contextmanager
def providers(names: Iterable[str], tell: Tell | None = None) -> Iterator[None]:
    """Every `load` in this context that is given no providers uses these, the first wherever it can; so do the sessions
    that statistics, gradients and tuning run.

    Arguments:
        names: as ONNX Runtime has them, or without "ExecutionProvider", in any case; none leaves the choice to the
            runtime.
        tell: is told, once for each, the sentence that says why sessions run without a provider. Without it, that is an
            error.

    Raises OnnxoptError for a provider that the installed onnxruntime does not have.
    """
    said = set[str]()

    def once(sentence: str) -> None:
        if tell and sentence not in said:
            said.add(sentence)
            tell(sentence)

    token = _chosen.set(_Choice(tuple(map(_known, names)), once if tell else None))
    try:
        yield
    finally:
        _chosen.reset(token)


def providers_in_use() -> tuple[str, ...]:
    """The full names in this context, for another process."""
    return _chosen.get().names


def on_providers(create: Callable[[list[str]], onnxruntime.InferenceSession]) -> onnxruntime.InferenceSession:
    """A session on the providers in this context, or else on the CPU. Raises what `create` raises on the CPU, and as
    `check_used` does."""
    choice = _chosen.get()
    if choice.names in ((), (_CPU,)):
        return create([_CPU])
    try:
        session = create(list(dict.fromkeys((*choice.names, _CPU))))
    except Exception as error:  # the runtime's own types, which share no base class
        session = create([_CPU])
        went_without(f"{choice.names[0]} takes not all graphs of this model, those run on the CPU: {first_line(error)}")
        return session
    check_used(session, choice.names)
    return session


def check_used(session: onnxruntime.InferenceSession, wanted: Iterable[str]) -> None:
    """Says which of these a session lacks: ONNX Runtime then prints why, and goes on without it.

    Raises OnnxoptError instead, where the context has nobody to tell.
    """
    used = session.get_providers()
    if missing := [name for name in wanted if name not in used]:
        went_without(
            f"{missing[0]} cannot be used on this machine, ONNX Runtime fell back to {', '.join(used)}: what it "
            "printed says why"
        )


def went_without(sentence: str) -> None:
    """Says why a session runs without a provider. Raises OnnxoptError where the context has nobody to tell."""
    tell = _chosen.get().tell
    if tell is None:
        raise OnnxoptError(sentence)
    tell(sentence)


def _known(name: str) -> str:
    available = onnxruntime.get_available_providers()
    for known in available:
        if name.lower() in (known.lower(), known.removesuffix(_SUFFIX).lower()):
            return str(known)
    raise OnnxoptError(
        f"there is no execution provider {name!r} in onnxruntime {onnxruntime.__version__}, expected one of "
        f"{', '.join(one.removesuffix(_SUFFIX) for one in available)}; packages such as onnxruntime-gpu and "
        "onnxruntime-openvino have others"
    )
