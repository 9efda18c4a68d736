"""The execution providers that a command's sessions run on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import onnxruntime

from onnxopt.errors import OnnxoptError, meant

_SUFFIX = "ExecutionProvider"

_chosen: ContextVar[tuple[str, ...]] = ContextVar("providers", default=())


@contextmanager
def providers(names: Iterable[str]) -> Iterator[None]:
    """Every `load` in this context that is given no providers uses these, the first wherever it can.

    Arguments:
        names: as ONNX Runtime has them, or without "ExecutionProvider", in any case; none leaves the choice to the
            runtime.

    Raises OnnxoptError for a provider that the installed onnxruntime does not have.
    """
    token = _chosen.set(tuple(map(_known, names)))
    try:
        yield
    finally:
        _chosen.reset(token)


def providers_in_use() -> tuple[str, ...]:
    """The full names in this context, for another process."""
    return _chosen.get()


def check_used(session: onnxruntime.InferenceSession, wanted: Iterable[str]) -> None:
    """Raises OnnxoptError if a session lacks one of these: ONNX Runtime then prints why, and goes on without it."""
    used = session.get_providers()
    if missing := [name for name in wanted if name not in used]:
        raise OnnxoptError(
            f"{missing[0]} cannot be used on this machine, ONNX Runtime fell back to {', '.join(used)}: what it "
            "printed says why"
        )


def _known(name: str) -> str:
    available = onnxruntime.get_available_providers()
    short = [one.removesuffix(_SUFFIX) for one in available]
    for known in available:
        if name.lower() in (known.lower(), known.removesuffix(_SUFFIX).lower()):
            return str(known)
    raise OnnxoptError(
        f"there is no execution provider {name!r} in onnxruntime {onnxruntime.__version__}, expected one of "
        f"{', '.join(short)}; packages such as onnxruntime-gpu and onnxruntime-openvino have others"
        f"{meant(name.removesuffix(_SUFFIX).upper(), short)}"
    )
