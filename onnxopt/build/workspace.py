"""One model under compression: read and cleaned once, then calibrated, given other forms, and built at any slope.

A `Workspace` is frozen: `calibrated`, `with_steps` and `ready_for_int8` give another one. What it measures, it measures
when that is first asked for, so no method depends on another having been called before it.
"""

from __future__ import annotations

import hashlib
import itertools
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import TracebackType

import onnx
import onnxruntime

from onnxopt import native, runtime
from onnxopt.build import container
from onnxopt.build.decisions import INT32, candidates, quantizing_steps, with_int8
from onnxopt.build.execute_plan import execute_plan
from onnxopt.build.factorise import Factored, factorise
from onnxopt.build.forms import Form, equalise, raise_operators
from onnxopt.calibration.cache import Cache
from onnxopt.calibration.chunks import one_sample
from onnxopt.calibration.collect import Statistics, calibrate
from onnxopt.data import Data
from onnxopt.encoding import Encoding
from onnxopt.errors import OnnxoptError, first_line
from onnxopt.graph import (
    Graph,
    Neighbours,
    Site,
    Source,
    embed,
    normalise,
    split,
    strip,
    weight_macs,
    wrap,
    write_atomically,
)
from onnxopt.graph.cleanup import clean
from onnxopt.request import Request
from onnxopt.results.events import Event
from onnxopt.search.evaluator import Comparison, Evaluator
from onnxopt.search.slope import Candidate
from onnxopt.spec.overrides import Overrides
from onnxopt.spec.plan import Plan, Step
from onnxopt.spec.progress import Advance, Progress

LARGEST_INLINE = 2**31 - 2**24
"""Bytes of a container that fits into a protobuf with the outer graph; a larger one is external data."""
_STATISTICS = 1
"""Version of what the cache holds; grows when `Stats` or how it is measured changes."""
_ANY_GRID = Step.parse("fixedpoint{bits=7} > integers")
"""Of weights whose values do not matter, as only time is measured."""


@dataclass(frozen=True, slots=True)
class Built:
    """A plan carried out: all that a file is made of."""

    plan: Plan
    inner: onnx.ModelProto
    packed: bytes
    """The container."""
    encodings: dict[str, Encoding]
    events: list[Event]
    exported: onnx.ModelProto
    """The inner model before its nodes lost their names."""
    grids: dict[str, Encoding]
    """By the path of a weight that stays INT8 at run time, its integers with their scales."""
    rounded: frozenset[str]
    """Layer outputs that the model rounds as it runs."""


@dataclass(slots=True)
class _Shared:
    """What all workspaces of one model use together."""

    caches: dict[str, Cache] = field(default_factory=dict)
    """Of statistics, by their key."""
    latest: Workspace | None = None
    """The one whose structural steps were carried out last: the same are often asked for again."""


@dataclass(frozen=True, eq=False)
class Workspace:
    """A model in one form. As a context manager it ends with the statistics of all forms deleted, or kept on error."""

    source: Source
    request: Request
    progress: Progress
    graph: Graph
    """Scratch: carrying a plan out resets it first."""
    cleaned: Mapping[str, int]
    """Nodes that each clean-up removed or changed."""
    outside: tuple[list[onnx.NodeProto], list[onnx.TensorProto]]
    """Nodes that stay around the compressed one, as they work on sequences or maps, and their tensors."""
    data: Data | None = None
    """What statistics are measured on; None: there are none."""
    digest: str = ""
    """Of that data."""
    form: Form = field(default_factory=Form)
    _origin: Workspace | None = field(default=None, repr=False)
    """The same without structural steps; None where this is that."""
    _measured: Workspace | None = field(default=None, repr=False)
    """One with the same layers, whose statistics hold here; None where this has its own."""
    _shared: _Shared = field(default_factory=_Shared, repr=False)

    # ---- other forms -----------------------------------------------------------------------------------------------

    def calibrated(self, data: Data) -> Workspace:
        """The same with statistics of this data, which are measured on first use."""
        origin = None if self._origin is None else self._origin.calibrated(data)
        return replace(self, data=data, digest=data.digest(), _measured=None, _origin=origin)

    def with_steps(self, steps: Mapping[str, Step]) -> Workspace:
        """The same model with further structural steps; layers are measured again only where they changed.

        Arguments:
            steps: by the path of a weight, a pass that factorises its layer; or `integers{bits=8}`, which keeps the
                weight INT8 at run time, with so many bits at most (32 for its bias); or a quantizing step that it has
                at every slope. By the name of a value, `equalize`, `depthwise` or `qdq{...}`.

        Raises OnnxoptError where a step names what is not there, or needs operators that the model cannot have.
        """
        wanted = self.form.merged(steps)
        if wanted.layers == self.form.layers:
            return replace(self, form=wanted, _measured=self._measured or self)
        latest = self._shared.latest
        if latest is not None and wanted.layers == latest.form.layers:
            form = wanted.with_layers_of(latest.form)
            return replace(latest, form=form, progress=self.progress, _measured=latest._measured or latest)
        return self._carried_out(wanted, lambda one: one.value in wanted.equalised)

    def ready_for_int8(self, wanted: Callable[[Neighbours], bool]) -> Workspace:
        """The same with operators that know scales by channel, and channels equalised before depthwise layers where
        that is `wanted`.

        Raises OnnxoptError where the operators cannot be brought to that version.
        """
        return self._carried_out(replace(self.form, raised=True), wanted)

    def telling(self, progress: Progress) -> Workspace:
        """The same, but that somebody else is told what it does."""
        return replace(self, progress=progress, _measured=self._measured or self)

    def _carried_out(self, form: Form, wanted: Callable[[Neighbours], bool]) -> Workspace:
        """The origin with the structural steps of a form, in one order whatever order they were asked for in."""
        origin, model = self._origin or self, onnx.ModelProto()
        model.CopyFrom(origin.graph.model)
        graph, factored, convolved, equalised = Graph(model), Factored(), False, tuple[str, ...]()
        if form.chains:
            factored = factorise(graph, form.chains, origin.statistics)
        if form.needs_opset:
            graph, convolved = raise_operators(graph)
            if origin.data is not None:
                equalised = equalise(graph.model, origin.data, wanted)
        form = replace(form, factored=factored, raised=form.needs_opset, convolved=convolved, equalised=equalised)
        same = not (form.chains or convolved or equalised)
        made = replace(self, graph=Graph(graph.model), form=form, _origin=origin, _measured=origin if same else None)
        self._shared.latest = made
        return made

    # ---- what is known of it ---------------------------------------------------------------------------------------

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """The weights that passes may act on, in graph order."""
        return tuple(self.graph.sites())

    @cached_property
    def statistics(self) -> Statistics:
        """Of every weight; of none where there is no data. Raises what the runtime raises where the model does not run
        on it."""
        if self._measured is not None:
            return self._measured.statistics
        if self.data is None:
            return Statistics(None, {}, {})
        native.return_memory()
        text = f"{_STATISTICS} {self.source.sha256} {self.digest} {self.form.key}"
        key = hashlib.sha256(text.encode()).hexdigest()[:32]
        if key not in self._shared.caches:
            self._shared.caches[key] = Cache(key)
        done = itertools.count(1)

        def advance(path: str) -> None:
            self.progress(f"measuring {path}", 0.4 * next(done) / max(1, 2 * len(self.sites)))

        cache = self._shared.caches[key]
        return calibrate(self.graph, self.sites, self.data, cache, self.request.max_ram, advance)

    def measure(self) -> None:
        """Measures the statistics now, to learn whether that can be done; raises as `statistics` does."""
        _ = self.statistics

    @cached_property
    def macs(self) -> dict[str, int]:
        """Multiply-accumulates of one sample by weight, layers that were factorised included; counted only where
        somebody shows them."""
        if self._measured is not None:
            return self._measured.macs
        counted = dict[str, int]() if self._origin is None else dict(self._origin.macs)
        if self.data is not None and (self.request.detailed or self.form.factored.chains):
            sample = one_sample(self.graph.model, self.data)
            with suppress(OnnxoptError):  # over 2 GB, nothing is counted
                found = weight_macs(self.graph.model, sample.feeds)
                counted |= {path: count // sample.size for path, count in found.items()}
        return counted

    @property
    def name(self) -> str:
        """The source file."""
        return str(self.source.path)

    @property
    def bytes_before(self) -> int:
        """Of the source file with its external data."""
        return self.source.size

    def candidates(self) -> list[Candidate]:
        """What a search weighs before it tries anything."""
        return candidates(self.graph, self.sites, self.statistics)

    # ---- plans and files -------------------------------------------------------------------------------------------

    def steps_at(self, slope: float, overrides: Overrides) -> dict[str, Step]:
        """The quantizing step of every weight, by path."""
        decided = quantizing_steps(self.sites, slope, overrides)
        return decided | {path: step for path, step in self.form.fixed.items() if path in decided}

    def plan(self, slope: float, overrides: Overrides) -> Plan:
        """Every decision at one slope."""
        decided = with_int8(self.steps_at(slope, overrides), self.form.int8)
        return Plan(self.source.sha256, {**self.form.factored.steps, **decided, **self.form.values}, self.digest)

    def build(self, plan: Plan, advance: Advance = lambda share: None) -> Built:
        """Carries a plan out; `advance` is told the share that is done.

        Raises OnnxoptError where the plan names what is not there.
        """
        plan = replace(plan, steps={**plan.steps, **self.form.factored.steps})  # with the ranks that were chosen
        done, steps = itertools.count(1), 2 * max(1, len(self.sites))  # each weight is quantized and coded

        def step(path: str) -> None:
            advance(min(1.0, next(done) / steps))

        events = execute_plan(self.graph, plan, self.statistics, step)
        exported, encodings = self.graph.export()
        grids = {path: self.graph.encoding(path) for path in self.graph.integers}
        inner = strip(exported, self.source.model)
        model = inner.SerializeToString(deterministic=True)
        packed = container.write(model, encodings, plan.to_json(), self.request.decode, step)
        return Built(plan, inner, packed, encodings, events, exported, grids, frozenset(self.graph.quantized))

    def try_plan(
        self, plan: Plan, evaluator: Evaluator | None, advance: Advance = lambda share: None
    ) -> tuple[int, Comparison | None]:
        """The bytes of a plan's file and, with an evaluator, what it does on its data, loaded as a user would."""
        built = self.build(plan, advance)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trial.onnx"
            size, _ = self.write(built, path)
            return size, None if evaluator is None else evaluator.compare(self.load(path))

    def write(self, built: Built, output: Path, check: Callable[[Path], None] | None = None) -> tuple[int, bool]:
        """Writes the file, and beside it its data where that is over 2 GB.

        Returns the bytes of both, and whether they are a copy of the source, which is what is written where the file
        would be no smaller. `check` sees the file before it takes its place; what it raises leaves nothing behind.
        """
        with ExitStack() as files:
            temporary = files.enter_context(write_atomically(output))
            if len(built.packed) > LARGEST_INLINE:
                data = files.enter_context(write_atomically(output.with_name(f"{output.name}.data")))
                data.write_bytes(built.packed)
                temporary.write_bytes(self._outer(built, data.name))
                if check:
                    check(temporary)
                temporary.write_bytes(self._outer(built, f"{output.name}.data"))
                return temporary.stat().st_size + len(built.packed), False
            compressed = self._outer(built)
            unchanged = len(compressed) >= self.source.size
            temporary.write_bytes(self.source.copy() if unchanged else compressed)
            if check:
                check(temporary)
            return temporary.stat().st_size, unchanged

    def load(self, path: Path) -> onnxruntime.InferenceSession:
        """The session that a user would get. Raises OnnxoptError where the runtime refuses it."""
        try:
            return runtime.load(path)
        except Exception as error:
            raise OnnxoptError(f"{self.source.path}: compressed it does not load, nothing was written: "
                               f"{first_line(error)}") from error  # fmt: skip

    def to_plain_model(self) -> bytes:
        """The model in this form as plain ONNX, not quantized but for what the form says: what is timed.

        INT8 weights get a grid that ignores their values. Nodes keep their names.
        """
        return bytes(self._plain().SerializeToString())

    def write_plain(self, path: Path) -> None:
        """The same as a file, with external data where it is over 2 GB."""
        model = self._plain()
        onnx.save(model, path, save_as_external_data=model.ByteSize() >= LARGEST_INLINE)

    def _plain(self) -> onnx.ModelProto:
        int8 = {path: _ANY_GRID for path, bits in self.form.int8.items() if bits != INT32}
        quantized = {**self.form.fixed, **int8}
        statistics = self.statistics if quantized else Statistics(None, {}, {})
        execute_plan(self.graph, Plan(self.source.sha256, {**quantized, **self.form.values}), statistics)
        inner, encodings = self.graph.export()
        embed(inner, {name: one.run_time_tensor() for name, one in encodings.items()})
        self.graph.reset()
        return inner

    def _outer(self, built: Built, location: str = "") -> bytes:
        model = wrap(self.source.model, built.inner, *self.outside, built.packed, location)
        return bytes(model.SerializeToString(deterministic=True))

    # ---- statistics on disk ----------------------------------------------------------------------------------------

    @property
    def measured_forms(self) -> frozenset[str]:
        """Keys of the forms of this model whose statistics are kept."""
        return frozenset(self._shared.caches)

    def forget_since(self, before: frozenset[str]) -> None:
        """Deletes the statistics of forms that were not among `measured_forms` then: nobody needs them any more."""
        for key in self._shared.caches.keys() - before:
            self._shared.caches.pop(key).close(keep=False)
        self._shared.latest = None

    def __enter__(self) -> Workspace:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Where something went wrong, another try finds the statistics on disk."""
        for cache in self._shared.caches.values():
            cache.close(keep=error is not None)
        self._shared.caches.clear()
        self._shared.latest = None


def prepare(source: Source, request: Request) -> Workspace:
    """The model, brought to one shape for all exporters and cleaned, ready to be compressed."""
    copy = onnx.ModelProto()
    copy.CopyFrom(source.model)
    normalise(copy)  # first, so that clean-ups see every constant
    cleaned, changed = (copy, {}) if request.lossless else clean(copy)
    inner, nodes, tensors = split(cleaned)
    return Workspace(source, request, request.progress, Graph(inner), changed, (nodes, tensors))
