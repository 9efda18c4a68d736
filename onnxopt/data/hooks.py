"""The user's functions, named as ``package.module:function`` and found as ``python -m`` finds modules."""

from __future__ import annotations

import importlib
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from onnxopt.errors import OnnxoptError, first_line
from onnxopt.files import reading

_HERE = Path(__file__).parents[1]
_HOOK = re.compile(r"[^\W\d][\w.]*:[^\W\d][\w.]*")


def is_hook(spec: str) -> bool:
    """Whether a text has the form ``package.module:function``."""
    return _HOOK.fullmatch(spec) is not None


def load_hook(spec: str) -> Callable[..., Any]:
    """The function that ``package.module:function`` names; the current folder is importable.

    Raises OnnxoptError if there is none, importing it fails, or an open `writing` block would overwrite its file.
    """
    module, _, attribute = spec.partition(":")
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)  # last: an installed package wins over a folder of the same name
    with blamed(spec):
        found: Any = importlib.import_module(module)
        if file := getattr(found, "__file__", None):
            reading([Path(file)])
        for name in attribute.split("."):
            found = getattr(found, name)
    if not callable(found):
        raise OnnxoptError(f"{spec}: is a {type(found).__name__}, expected a function")
    return found  # type: ignore[no-any-return]


@contextmanager
def blamed(hook: str) -> Iterator[None]:
    """Turns what a user's function raises, `sys.exit` included, into one OnnxoptError that says where it was raised."""
    try:
        yield
    except (OnnxoptError, KeyboardInterrupt):
        raise
    except BaseException as error:
        causes = [error, *([error.__cause__] if error.__cause__ else [])]  # StopIteration in a generator is a cause
        frames = [frame for one in causes for frame in traceback.extract_tb(one.__traceback__)]
        own = [
            frame
            for frame in frames
            if not Path(frame.filename).is_relative_to(_HERE)
            and not re.search("<frozen|importlib|site-packages", frame.filename)
        ]
        where = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
        raise OnnxoptError(f"{hook}: {type(error).__name__}: {first_line(error)}{where}") from error


def name_of(hook: object) -> str:
    """The name, for reports, of a function that was given as an object."""
    module, name = getattr(hook, "__module__", None), getattr(hook, "__qualname__", None)
    return f"{module}:{name}" if module and name else type(hook).__name__
