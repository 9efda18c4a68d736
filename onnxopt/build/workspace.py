"""A model under compression: read and cleaned once, then calibrated, given other forms, and built at any slope.

A `Workspace` is frozen: `calibrated`, `with_steps` and `ready_for_int8` return a new one. Measurements are made on
first use, so methods can be called in any order.
"""

from __future__ import annotations

import hashlib
import itertools
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import inf
from pathlib import Path
from types import TracebackType

import onnx
from threadpoolctl import threadpool_limits

from onnxopt import runtime
from onnxopt.build import container
from onnxopt.build.built import Built
from onnxopt.build.decisions import INT32, candidates, in_eight_bits, quantizing_steps, with_int8
from onnxopt.build.execute_plan import execute_plan
from onnxopt.build.forms import Form
from onnxopt.build.observing import compare_observed
from onnxopt.build.running import Running, identity
from onnxopt.calibration.budget import Budget
from onnxopt.calibration.cache import Cache
from onnxopt.calibration.chunks import one_sample
from onnxopt.calibration.collect import Statistics, calibrate
from onnxopt.data import ROW_NOISE, Data
from onnxopt.encoding import Encoding
from onnxopt.errors import OnnxoptError, Unsound, first_line
from onnxopt.files import reading, write_atomically, writing
from onnxopt.graph import (
    LARGEST_INLINE,
    Graph,
    Neighbours,
    Site,
    Source,
    around,
    embed,
    strip,
    weight_macs,
    wrap,
)
from onnxopt.request import Request
from onnxopt.runtime.archive import decompress
from onnxopt.search.evaluator import Comparison, Evaluator
from onnxopt.search.slope import Candidate
from onnxopt.spec.effort import Effort
from onnxopt.spec.overrides import Overrides
from onnxopt.spec.plan import Plan, Step
from onnxopt.spec.progress import Advance, Progress

_STATISTICS = 4
"""Version of the cache contents. Increase it when `Stats` or its measurement changes."""
_ANY_GRID = Step.parse("fixedpoint{bits=7} > integers")  # for timing, where weight values do not matter


@dataclass(slots=True)
class _Shared:
    """State that all workspaces of one model share."""

    caches: dict[str, Cache] = field(default_factory=dict)
    """Statistics caches, by key."""
    latest: Workspace | None = None
    """The workspace whose structural steps were applied last. The same steps are often requested again."""
    coded: container.Known = field(default_factory=container.Known)
    """What earlier containers of this model hold as it is."""
    built: tuple[Graph, Built] | None = None
    """What a fast run tried last, and of which graph, so as not to build it again. It is as large as the model."""
    blas: threadpool_limits | None = None
    """Within the workspace's context, BLAS and LAPACK use one thread, as their sums depend on the number of threads.
    Weights are treated side by side instead."""


@dataclass(frozen=True, eq=False)
class Workspace:
    """A model in one form. As a context manager, it deletes the statistics of all forms on exit, but keeps them on
    error."""

    source: Source
    request: Request
    progress: Progress
    graph: Graph
    """Working copy: executing a plan resets it first."""
    cleaned: Mapping[str, int]
    """Nodes that each clean-up removed or changed."""
    outside: tuple[list[onnx.NodeProto], list[onnx.TensorProto]]
    """Nodes that stay outside the compressed one because they use sequences or maps, and their tensors."""
    data: Data | None = None
    """Data for statistics; None if there are no statistics."""
    digest: str = ""
    """Digest of that data."""
    form: Form = field(default_factory=Form)
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Clean-ups that are not applied, because the model would not compute the same, and why."""
    tuned: Mapping[str, Encoding] = field(default_factory=dict, repr=False)
    """Values of tuned weights, by path."""
    stands_for: int = 0  # see `Budget.stands_for`
    _origin: Workspace | None = field(default=None, repr=False)
    """The workspace without structural steps; None if this one has none."""
    _measured: Workspace | None = field(default=None, repr=False)
    """A workspace with the same layers, whose statistics apply here; None if this one has its own."""
    _shared: _Shared = field(default_factory=_Shared, repr=False)

    # ---- other forms -----------------------------------------------------------------------------------------------

    def calibrated(self, data: Data, stands_for: int = 0) -> Workspace:
        """This workspace with statistics on this data, which are measured on first use; see `Budget.stands_for`.

        A bound on the size of the file goes before a bound on the noise of single rows (`Data.row_noise`).
        """
        if self._size_counts:
            data = replace(data, row_noise=inf)
        origin = None if self._origin is None else self._origin.calibrated(data)
        known = replace(self, data=data, digest=data.digest(), stands_for=stands_for)
        return replace(known, _measured=None, _origin=origin)

    def with_steps(self, steps: Mapping[str, Step]) -> Workspace:
        """The same model with further structural steps. Only changed layers are measured again.

        Arguments:
            steps: by weight path, a factorisation of its layer; or `integers{bits=8}`, which keeps the weight INT8 at
                run time with at most that many bits (32 for its bias); or a quantizing step for every slope. By value
                name, `equalize`, `depthwise` or `qdq{...}`.

        Raises OnnxoptError if a step names a missing weight or value, or needs operators that the model cannot have.
        """
        wanted = self.form.merged(steps)
        if wanted.layers == self.form.layers:
            return replace(self, form=wanted, _measured=self._measured or self)
        latest = self._shared.latest
        if latest is not None and latest.digest == self.digest and wanted.layers == latest.form.layers:
            form = wanted.with_layers_of(latest.form)
            return replace(latest, form=form, progress=self.progress, _measured=latest._measured or latest)
        return self._carried_out(wanted, lambda one: one.value in wanted.equalised)

    def ready_for_int8(self, wanted: Callable[[Neighbours], bool]) -> Workspace:
        """This workspace with per-channel scales, and with channels before depthwise layers equalised where `wanted`.

        Raises OnnxoptError if the opset cannot be raised.
        """
        return self._carried_out(replace(self.form, raised=True), wanted)

    def telling(self, progress: Progress) -> Workspace:
        """This workspace with another progress callback."""
        return replace(self, progress=progress, _measured=self._measured or self)

    def with_tuned(self, values: Mapping[str, Encoding]) -> Workspace:
        """This workspace with tuned weights, by path, for plans whose steps end in `tuned`."""
        return replace(self, tuned=values, _measured=self._measured or self)

    def sharing(self, other: Workspace) -> Workspace:
        """This workspace, which need not code again what another one's containers hold."""
        return replace(self, _shared=replace(self._shared, coded=other._shared.coded))

    @property
    def origin(self) -> Workspace:
        """The same model without structural steps."""
        return self._origin or self

    def _carried_out(self, form: Form, wanted: Callable[[Neighbours], bool]) -> Workspace:
        """The origin with the structural steps of a form applied, in an order that does not depend on the requests."""
        origin, model = self._origin or self, onnx.ModelProto()
        model.CopyFrom(origin.graph.model)
        graph, form = form.carried_out(
            Graph(model, moves=self.graph.moves), origin.data, lambda: origin.statistics, wanted
        )
        measured = None if form.changes_layers else origin
        made = replace(self, graph=graph, form=form, _origin=origin, _measured=measured)
        self._shared.latest = made
        return made

    # ---- measurements ------------------------------------------------------------------------------------------------

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """The weights that passes may change, in graph order."""
        return tuple(self.graph.sites())

    @cached_property
    def statistics(self) -> Statistics:
        """Statistics of every weight; empty without data. Raises the runtime's error if the model does not run on the
        data."""
        if self._measured is not None:
            return self._measured.statistics
        if self.data is None:
            return Statistics(None, {}, {}, inf if self._size_counts else ROW_NOISE)
        self.source.rest(trims=True)
        text = f"{_STATISTICS} {self.source.sha256} {self.digest} {self.form.key}{''.join(self.left_out)}"
        text += " fast" * self.request.fast + f" of {self.stands_for}" * bool(self.stands_for)
        key = hashlib.sha256(text.encode()).hexdigest()[:32]
        if key not in self._shared.caches:
            self._shared.caches[key] = Cache(key)
        told: Callable[[str, float], None] = lambda what, share: self.progress(what, 0.4 * share)  # noqa: E731
        return calibrate(self.graph.measured, self.sites, self.data, self._shared.caches[key], self.budget, told)

    @property
    def budget(self) -> Budget:
        """What statistics may take."""
        one = self.request
        corrects = one.corrects and not self.graph.grids
        return Budget(one.max_ram, Effort(one.effort), corrects, one.pool, self.stands_for)

    @property
    def _size_counts(self) -> bool:
        """Whether the contract bounds the size of the file."""
        return self.request.contract.size(self.source.size) is not None

    def measure(self) -> None:
        """Measures the statistics now, to find out whether that works. Raises as `statistics` does."""
        _ = self.statistics

    @cached_property
    def macs(self) -> dict[str, int]:
        """Multiply-accumulates of one sample by weight, factorised layers included. Counted only if they are shown."""
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
        """The path of the source file."""
        return str(self.source.path)

    @property
    def bytes_before(self) -> int:
        """Size of the source file, external data included."""
        return self.source.size

    def candidates(self) -> list[Candidate]:
        """The candidates of the search, before any trial."""
        return candidates(self.graph, self.sites, self.statistics)

    # ---- plans and files -------------------------------------------------------------------------------------------

    def steps_at(self, slope: float, overrides: Overrides) -> dict[str, Step]:
        """The quantizing step of every weight, by path."""
        decided = quantizing_steps(self.sites, slope, overrides)
        return decided | {path: step for path, step in self.form.fixed.items() if path in decided}

    def plan(self, slope: float, overrides: Overrides) -> Plan:
        """Every decision at one slope."""
        decided = with_int8(self.steps_at(slope, overrides), self.form.int8)
        steps = {**self.form.factored.steps, **decided, **self.form.values}
        return Plan(self.source.sha256, steps, self.digest, Effort(self.request.effort))

    def in_eight_bits(self, plan: Plan) -> Plan:
        """The same plan with 8 bits for each element of the matrices that the slope decides on."""
        return replace(plan, steps=in_eight_bits(self.sites, plan.steps))

    def build(self, plan: Plan, advance: Advance = lambda share: None) -> Built:
        """Executes a plan and reports progress to `advance`.

        Raises OnnxoptError if the plan names a pass or a weight that does not exist.
        """
        plan = replace(plan, steps={**plan.steps, **self.form.factored.steps})  # with the chosen ranks
        if (tried := self._shared.built) and tried[0] is self.graph and tried[1].plan == plan:
            return tried[1]
        self._shared.built = tried = None
        done, steps = itertools.count(1), 2 * max(1, len(self.sites))  # each weight is quantized and coded

        def step(path: str) -> None:
            advance(min(1.0, next(done) / steps))
            self.source.rest()
            self.graph.set_aside(path, self.source.shelf)

        events = execute_plan(self.graph, plan, self.statistics, step, self.tuned, self.request.pool)
        exported, encodings = self.graph.export()
        grids = {path: self.graph.encoding(path) for path in self.graph.integers}
        inner = strip(exported, self.source.model)
        model = inner.SerializeToString(deterministic=True)
        known = self._shared.coded
        if self.source.shelf is not None:
            known.spool = self.source.shelf.spool
        packed = container.packed(model, encodings, plan.to_json(), self.request.decode, step, known)
        return Built(plan, inner, packed, encodings, events, exported, grids, frozenset(self.graph.quantized))

    def try_plan(
        self, plan: Plan, evaluator: Evaluator | None, advance: Advance = lambda share: None
    ) -> tuple[int, Comparison | None]:
        """Size of a plan's file in bytes and, with an evaluator, its comparison with the original.

        The file is loaded as users load it; where hidden values are observed, its decompressed form is.
        """
        built = self.build(plan, advance)
        if self.request.fast:
            self._shared.built = self.graph, built
        self.source.rest(trims=True)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trial.onnx"
            size, unchanged = self._put(built, path)  # nothing forces it to the disk
            if evaluator is None:
                return size, None
            if not evaluator.hidden:
                return size, evaluator.compare_file(identity(path), self._loaded(path), self.request.pool)
            plain = self.source.model if unchanged else decompress(path)
            return size, compare_observed(evaluator, plain, self.source.path, self.request.pool)

    def write(self, built: Built, output: Path, check: Callable[[Path], None] | None = None) -> tuple[int, bool]:
        """Writes the file, and a separate data file if it is over 1 GiB.

        Returns the total size, and whether the file is a copy of the source, which happens if compression does not make
        it smaller. `check` runs on the file before it is moved into place; if it raises, no file is left.
        """
        with write_atomically(output) as temporary:
            if name := built.data_name(output):
                with writing({"the output's data": output.with_name(name)}):
                    reading(self.source.files)
            written = self._put(built, temporary)
            if check:
                check(temporary)
            return written

    def _put(self, built: Built, path: Path) -> tuple[int, bool]:
        """`write`, straight to a path that is nobody's yet."""
        name = built.data_name(path)
        outer = wrap(self.source.model, built.inner, *self.outside, b"", name)
        before, after = around(outer, built.packed.size)
        size = len(before) + built.packed.size + len(after)
        if not name and size >= self.source.size and len(copy := self.source.copy()) <= size:
            return path.write_bytes(copy), True
        with path.open("wb") as file:
            inside = () if name else built.packed.pieces()
            file.writelines(itertools.chain([before], inside, [after]))
        if name:
            with path.with_name(name).open("wb") as file:
                file.writelines(built.packed.pieces())
        return size, False

    def _loaded(self, path: Path) -> Running:
        """The session that a user would get. Raises Unsound if the runtime rejects the file."""
        try:
            return Running(self.source.path, runtime.load_to_compare(path, packs=self.source.shelf is None), path)
        except OnnxoptError:
            raise
        except Exception as error:
            raise Unsound(self.source.path, f"it does not load: {first_line(error)}") from error

    def to_plain_model(self) -> bytes:
        """The model in this form as plain ONNX, for timing. Only what the form itself quantizes is quantized.

        The grid of INT8 weights ignores their values. Nodes keep their names.
        """
        return bytes(self.plain().SerializeToString())

    def write_plain(self, path: Path) -> None:
        """Writes the plain model to a file, with external data if it is over 2 GB."""
        model = self.plain()
        onnx.save(model, path, save_as_external_data=model.ByteSize() >= LARGEST_INLINE)

    def plain(self) -> onnx.ModelProto:
        """The plain model as a message. It lacks what stays outside the compressed node."""
        int8 = {path: _ANY_GRID for path, bits in self.form.int8.items() if bits != INT32}
        quantized = {**self.form.fixed, **int8}
        statistics = self.statistics if quantized else Statistics(None, {}, {})
        execute_plan(self.graph, Plan(self.source.sha256, {**quantized, **self.form.values}), statistics)
        inner, encodings = self.graph.export()
        embed(inner, {name: one.run_time_tensor() for name, one in encodings.items()})
        self.graph.reset()
        return inner

    # ---- statistics on disk ----------------------------------------------------------------------------------------

    @property
    def measured_forms(self) -> frozenset[str]:
        """Keys of all forms of this model with cached statistics."""
        return frozenset(self._shared.caches)

    def forget_since(self, before: frozenset[str]) -> None:
        """Deletes the statistics of forms that are not in `before`, an earlier value of `measured_forms`."""
        for key in self._shared.caches.keys() - before:
            self._shared.caches.pop(key).close(keep=False)
        self._shared.latest = None

    def __enter__(self) -> Workspace:
        self._shared.blas = threadpool_limits(1, "blas")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Deletes the statistics, but keeps them on disk after an error, for another attempt."""
        for cache in self._shared.caches.values():
            cache.close(keep=error is not None)
        self._shared.caches.clear()
        self._shared.latest = self._shared.built = None
        if self._shared.blas is not None:
            self._shared.blas.restore_original_limits()
