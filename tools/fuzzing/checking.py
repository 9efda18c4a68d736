"""Puts one model through onnxopt as its users do, and says what is wrong with the results."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

import onnxopt
from fuzzing.comparing import compare, interface_differs
from fuzzing.growing import Array, session_options, stock
from fuzzing.models import Case
from onnxopt.errors import Missed, OnnxoptError
from onnxopt.spec.recipes import Recipe

KINDS = ("crash", "difference", "silent difference", "interface", "refused", "larger", "killed", "slow")
"""Of findings; the last two are for `running`: the process died, or the model took more than its time."""
LIMITS = {
    "two different constants are called": "Two different constants of one name: their sizes decide which of them ONNX "
    "Runtime takes.",
}
"""Refusals that are documented: a pattern of the sentence, and the reason."""
ROUNDING = (
    "Initializers that are inputs as well become constants. ONNX Runtime may multiply constants by another kernel, so "
    "without loss outputs may differ by rounding."
)
"""A difference that is documented, and why."""
RECIPES = ("deep-compression", "microbrain-lowrank", "uniform-ecsq")
FAR, LEAST = 3.0, 0.05
"""An output error may be so many times the announced one, plus so much: both are of the same feeds."""
ELSEWHERE = 0.5
"""Noise over signal that may be where the announced error is of other inputs, or none is announced. The same share of
labels may differ without a word, as integers that count or round something are all labels; a larger one is no finding
where the result says it."""


_WEIGHTS = "source.data"
_ROUNDING = 1e-5
"""Noise over signal that another order of sums makes."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong."""

    seed: int
    kind: str
    mode: str
    what: str
    """A sentence: what was found."""

    @property
    def signature(self) -> str:
        """Equal for findings that look like one cause."""
        text = re.sub(r"/[^\s'\"]*\.onnx|'[^']*'|\([^)]*\)|\"[^\"]*\"|\[[^\]]*\]|[-+]?\d[\d.e+-]*", "#", self.what)
        return f"{self.kind}, {self.mode}: {text[:160]}"


class _Stop(Exception):
    """A step failed; its finding is noted, and what would follow makes no sense."""


def modes(seed: int, feeds: Sequence[Mapping[str, Array]]) -> dict[str, dict[str, Any]]:
    """What the model of a seed is put through: options of `optimize` by name; without loss, and one way with."""
    rng = np.random.default_rng((seed, 99))

    def data() -> Iterator[dict[str, Array]]:
        return (dict(one) for one in feeds)

    ratio = onnxopt.Contract(target_ratio=float(rng.choice([1.5, 3.0])))
    on = {"data": data, "evaluation": data}  # the check is on these very feeds, so what it says must hold for them
    lossy: dict[str, tuple[float, dict[str, Any]]] = {
        "data": (0.35, on),
        "default": (0.1, {}),
        "ratio": (0.1, {**on, "contract": ratio}),
        "activations": (0.1, {**on, "activations": 8, "allow_miss": True}),
        "size": (0.1, {**on, "goal": "size"}),
        "recipe": (0.15, {**on, "recipe": Recipe.open(str(rng.choice(RECIPES)))}),
        "smallest": (0.1, {**on, "decode": "smallest", "contract": onnxopt.Contract(error=0.1)}),
    }
    name = str(rng.choice(list(lossy), p=[share for share, _ in lossy.values()]))
    return {"lossless": {"lossless": True}, name: lossy[name][1]}


def check(case: Case, folder: Path, wanted: Mapping[str, dict[str, Any]] | None = None) -> list[Finding]:
    """All findings of a model. `folder` is for its files.

    Arguments:
        wanted: modes; by default, those of the case's seed.
    """
    source = save(case, folder)
    original = stock(str(source))
    outputs = [original.run(None, dict(feeds)) for feeds in case.feeds]
    found: list[Finding] = []
    for mode, options in (wanted or modes(case.seed, case.feeds)).items():
        found += _Mode(case, source, original, outputs, mode).run(options)
    return found


def save(case: Case, folder: Path) -> Path:
    """Writes the source model, with a file of weights where the case asks for one and stock ONNX Runtime takes it."""
    source = folder / "source.onnx"
    if case.external:
        copy = onnx.ModelProto()
        copy.CopyFrom(case.model)
        onnx.save(copy, source, save_as_external_data=True, location=_WEIGHTS, size_threshold=64)
        try:
            stock(str(source)).run(None, dict(case.feeds[0]))
            return source
        except Exception:  # it infers no shapes from constants in another file
            (folder / _WEIGHTS).unlink()
    onnx.save(case.model, source)
    return source


class _Mode:
    """One call of `optimize`, and what is done with its file."""

    def __init__(
        self, case: Case, source: Path, original: onnxruntime.InferenceSession, outputs: list[Any], mode: str
    ) -> None:
        self._case, self._source, self._original, self._outputs, self._mode = case, source, original, outputs, mode
        self._found: list[Finding] = []

    def run(self, options: Mapping[str, Any]) -> list[Finding]:
        """The findings."""
        output = self._source.with_name("output.onnx")
        try:
            with self._step("optimize"):
                result = onnxopt.optimize(self._source, output, **options)
            self._result(result, output, exact="lossless" in options)
        except _Stop:
            pass
        finally:
            output.unlink(missing_ok=True)
        return self._found

    def _result(self, result: onnxopt.Result, output: Path, exact: bool) -> None:
        size = self._source.stat().st_size + sum(p.stat().st_size for p in self._source.parent.glob(_WEIGHTS))
        if output.stat().st_size > size:
            self._note("larger", f"{output.stat().st_size} bytes of {size}")
        if result.unchanged:
            return
        with self._step("decompress"):
            plain = onnxopt.decompress(output)
        with self._step("verify"):
            onnxopt.verify(output)
        registered = session_options()
        onnxopt.register(registered)
        ways: dict[str, Callable[[], onnxruntime.InferenceSession]] = {
            "registered": lambda: onnxruntime.InferenceSession(
                str(output), registered, providers=["CPUExecutionProvider"]
            ),
            "load": lambda: onnxopt.load(output, session_options()),
            "decompressed": lambda: stock(plain.SerializeToString()),
        }
        first: list[Any] | None = None
        for way, start in ways.items():
            with self._step(way):
                session = start()
                got = [session.run(None, dict(feeds)) for feeds in self._case.feeds]
            if differs := interface_differs(self._original, session, self._outputs[0]):
                self._note("interface", f"{way}: {differs}")
            if exact or first is None:
                self._judge(way, result, got, exact)
            elif what := compare(first, got).what:
                self._note("difference", f"{way}: {what} differs from that of the registered library")
            first = first or got

    @property
    def _overridable(self) -> bool:
        """Whether initializers of the source are inputs as well, and not just by the rules of old models."""
        graph = self._case.model.graph
        inputs = {value.name for value in graph.input}
        return self._case.model.ir_version > 3 and any(tensor.name in inputs for tensor in graph.initializer)

    def _judge(self, way: str, result: onnxopt.Result, got: list[Any], exact: bool) -> None:
        found = compare(self._outputs, got)
        if exact:
            rounded = self._overridable and not found.broken and found.error < _ROUNDING
            if found.what and not rounded:
                self._note("difference", f"{way}: {found.what} differs by {found.error:.2g} without loss")
            return
        announced, same = (result.check.found.error, result.check.found.agreement) if result.check else (None, None)
        if announced == float("inf"):
            return  # the result says that outputs have other shapes, as those of another branch may
        if found.broken:
            self._note("silent difference", f"{way}: {found.broken}")
        rows = result.check.found.rows if result.check else None
        if found.resized and (announced is None or (rows is not None and rows < 1)):
            return  # no row has one to be compared with, and the result says so
        if announced is None and self._mode in ("ratio", "recipe"):
            return  # nothing was promised, and nothing said
        these = announced is not None and self._mode != "default"
        most = FAR * (announced or 0) + LEAST if these else ELSEWHERE
        said = "not measured" if announced is None else f"{announced:.2g}"
        if found.error > most:
            self._note("silent difference", f"{way}: noise {found.error:.2g}, announced was {said}")
        elif found.disagreement > max(0.5, most, 1 + LEAST - (1.0 if same is None else same)):
            self._note("silent difference", f"{way}: labels: {found.disagreement:.2g} differ, announced was {said}")

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        try:
            yield
        except Missed as error:
            if self._mode in ("lossless", "data", "default"):
                self._note("refused", str(error))
            raise _Stop from error
        except OnnxoptError as error:
            if not any(re.search(pattern, str(error)) for pattern in LIMITS):
                self._note("refused", f"{name}: {error}")
            raise _Stop from error
        except Exception as error:
            where = [frame for frame in traceback.extract_tb(error.__traceback__) if "onnxopt" in frame.filename]
            at = f" at {Path(where[-1].filename).name}:{where[-1].lineno}" if where else ""
            text = str(error).splitlines()[0] if str(error) else ""
            self._note("crash", f"{name}: {type(error).__name__}: {text}{at}")
            raise _Stop from error

    def _note(self, kind: str, what: str) -> None:
        self._found.append(Finding(self._case.seed, kind, self._mode, what.replace(str(self._source.parent) + "/", "")))
