"""One model under compression: statistics once, then any number of plans, each built into a whole file and tried."""

from __future__ import annotations

import hashlib
import itertools
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from onnxopt import native, runtime
from onnxopt.build import container, execute_plan
from onnxopt.passes.math import relative_index
from onnxopt.calibration.cache import Cache
from onnxopt.calibration.collect import Chunks
from onnxopt.calibration.collect import Statistics, calibrate, one_sample
from onnxopt.graph.cleanup import clean
from onnxopt.data import Data
from onnxopt.errors import OnnxoptError, first_line
from onnxopt.results.events import Chain, Event, Histogram
from onnxopt.graph import OPSET, Graph, Neighbours, QuantParams, Site, Source, Users, channel_peaks, batchnorm_to_conv, embed, equalize, is_for_value, neighbours, normalise, raise_opset, split, step_of_value, strip, weight_macs, wrap, write_atomically
from onnxopt.encoding import Encoding
from onnxopt.spec.overrides import Overrides
from onnxopt.spec.plan import Plan, Step
from onnxopt.spec.progress import Advance, Progress
from onnxopt.search.evaluator import Comparison, Evaluator
from onnxopt.search.slope import Trial

LARGEST_INLINE = 2**31 - 2**24
"""Bytes of a container that fits into a protobuf with the outer graph; a larger one is external data."""
_STATISTICS = 1
"""Version of what the cache holds; grows when `Stats` or how it is measured changes."""
_EQUALIZED, _PIECE = 256, 8
"""Samples that channels are made alike on, and in one run."""
_GAP_BITS = 4
"""Of relative indices, as Deep Compression's tables have them."""


@dataclass(frozen=True, slots=True)
class Built:
    """A plan carried out: all that a file is made of."""

    plan: Plan
    inner: onnx.ModelProto
    packed: bytes
    """The container."""
    leaves: dict[str, Encoding]
    events: list[Event]


class Workspace:
    """A model, read and cleaned.

    Arguments:
        source: the model.
        lossless: keep every bit, so change nothing.
        prefer: what the choice of codecs favours.
        max_ram: bytes that statistics may take at a time.
        detailed: events also say what papers' tables do, which takes time: sizes by relative indices, and
            multiply-accumulates.
    """

    def __init__(
        self, source: Source, lossless: bool, prefer: str, max_ram: int, progress: Progress, detailed: bool = False
    ) -> None:
        self.source, self._prefer, self._max_ram, self.progress = source, prefer, max_ram, progress
        copy = onnx.ModelProto()
        copy.CopyFrom(source.model)
        normalise(copy)  # first, so that clean-ups see every constant
        cleaned, self.cleaned = (copy, {}) if lossless else clean(copy)
        inner, self._outside, self._tensors = split(cleaned)
        self.graph = Graph(inner)
        self.sites: list[Site] = list(self.graph.sites())
        self.statistics = Statistics(None, {}, {})
        self.data = ""
        """Digest of what the statistics were measured on."""
        self._caches: list[Cache] = []
        self._factored = execute_plan.Factored({}, frozenset(), (), (), {})
        self._unfactored: Statistics | None = None
        """Of the layers before some became chains; None where none did."""
        self._equalized: tuple[str, ...] = ()
        """Values whose channels were made alike."""
        self._convolved = False
        """Whether batch normalizations were made convolutions."""
        self._prelu_as_convs: tuple[str, ...] = ()
        """Values that convolutions make in the place of a PRelu."""
        self._rounded: dict[str, Step] = {}
        """Of values that are integers between nodes."""
        self._integers: dict[str, int] = {}
        """Weights that are integers when the model runs, and their bits at most; then their biases, of no bits."""
        self._detailed = detailed
        self._macs: dict[str, int] = {}
        """Of one sample, by weight; layers that became chains are there, too."""

    def factorise(self, steps: Mapping[str, Step]) -> None:
        """Makes chains of layers, with what is known of them; the statistics of what comes out are yet to be measured.

        Raises OnnxoptError where a step names what is not there.
        """
        self._unfactored = self.statistics
        self._factored = execute_plan.factorise(self.graph, steps, self.statistics)
        self.graph = Graph(self.graph.model)
        self.sites = list(self.graph.sites())
        self.statistics = Statistics(None, {}, {})

    def modernise(self) -> bool:
        """Brings the graph to operators that know integers by channel. Raises OnnxoptError where that cannot be.

        Returns whether layers are others now; then statistics are yet to be measured again.
        """
        paths = {site.path for site in self.sites}
        try:
            model = raise_opset(self.graph.model)
            self._convolved = batchnorm_to_conv(model) > 0
            self.graph = Graph(model)
        except Exception as error:  # whatever the converter stumbles over
            raise OnnxoptError(f"its operators cannot be brought to version {OPSET}: {first_line(error)}") from error
        self.sites = list(self.graph.sites())
        if paths != {site.path for site in self.sites}:
            raise OnnxoptError(f"brought to version {OPSET} of the operators it has other weights")
        return self._convolved

    def equalize(self, data: Data, wanted: Callable[[Neighbours], bool]) -> bool:
        """Makes the channels alike of values before depthwise layers, for good, where that is `wanted`.

        Returns whether anything was changed; then statistics are yet to be measured again.
        """
        model = self.graph.model
        found = [one.value for one in neighbours(model) if one.depthwise and wanted(one)]
        cuttable = one_sample(model, data).size == 1
        peaks = channel_peaks(model, found, Chunks(data, _PIECE if cuttable else 0).pieces(_EQUALIZED))
        self._equalized = tuple(one.value for one, _ in equalize(model, peaks))
        self.graph = Graph(model)
        self.sites = list(self.graph.sites())
        return bool(self._equalized)

    def place(self, rounded: Mapping[str, QuantParams], weights: Collection[str], biases: Collection[str], bits: int) -> None:
        """From now on plans have these values, and weights of so many bits at most, as integers; none undoes that.

        The biases become integers with the weights, finer ones than a plan would make of them.
        """
        self._rounded = {value: pair.step() for value, pair in rounded.items()}
        self._integers = {**dict.fromkeys(biases, 0), **dict.fromkeys(weights, bits)}

    def prelu_as_convs(self, values: Iterable[str]) -> None:
        """From now on plans have depthwise convolutions make these values."""
        self._prelu_as_convs = tuple(values)

    def to_plain_model(self, plan: Plan) -> bytes:
        """A plan carried out as a model that needs nothing of ours, its nodes called as in the graph.

        What was decided on rectifiers is done, too.
        """
        steps = plan.steps | self._values({value: step for value, step in plan.steps.items() if is_for_value(step)})
        execute_plan.run(self.graph, replace(plan, steps=steps), self.statistics)
        inner, leaves = self.graph.export()
        embed(inner, {name: leaf.run_time_tensor() for name, leaf in leaves.items()})
        return bytes(inner.SerializeToString())

    def calibrate(self, data: Data) -> None:
        """Measures the statistics. Raises what the runtime raises where the model does not run on the data."""
        native.return_memory()
        self.data = data.digest()
        measured = "".join(f"{path}: {step}\n" for path, step in self._factored.steps.items())
        measured += "".join(f"{value}: equalize\n" for value in self._equalized)
        measured += "convolved\n" if self._convolved else ""
        key = hashlib.sha256(f"{_STATISTICS} {self.source.sha256} {self.data} {measured}".encode()).hexdigest()[:32]
        cache = Cache(key)
        self._caches.append(cache)
        done = itertools.count(1)

        def advance(path: str) -> None:
            self.progress(f"measuring {path}", 0.4 * next(done) / max(1, 2 * len(self.sites)))

        self.statistics = calibrate(self.graph, self.sites, data, cache, self._max_ram, advance)
        if self._detailed or self._factored.chains:
            sample = one_sample(self.graph.model, data)
            with suppress(OnnxoptError):  # over 2 GB, nothing is counted
                counted = weight_macs(self.graph.model, sample.feeds)
                self._macs |= {path: count // sample.size for path, count in counted.items()}

    def fork(self, progress: Progress) -> Workspace:
        """Another of the same model, all its layers whole: chains are for good.

        It has the statistics as long as this one is open.
        """
        other = Workspace(self.source, False, self._prefer, self._max_ram, progress, self._detailed)
        other.prelu_as_convs(self._prelu_as_convs)
        other.statistics, other.data, other._macs = self._unfactored or self.statistics, self.data, dict(self._macs)
        return other

    def close(self, keep: bool) -> None:
        """Ends. Where they are to `keep`, another try finds the statistics on disk."""
        for cache in self._caches:
            cache.close(keep)

    def plan(self, slope: float, overrides: Overrides) -> Plan:
        """Every decision at one slope."""
        decided = execute_plan.steps(self.sites, slope, overrides)
        decided = execute_plan.integers(decided, self._integers)
        steps = {**self._factored.steps, **decided, **self._values(self._rounded)}
        return Plan(self.source.sha256, steps, self.data)

    def _values(self, rounded: Mapping[str, Step]) -> dict[str, Step]:
        """What is decided on values, these roundings among it."""
        every = dict.fromkeys((*rounded, *self._prelu_as_convs, *self._equalized))
        return {
            one: step_of_value(rounded.get(one), equalized=one in self._equalized, depthwise=one in self._prelu_as_convs)
            for one in every
        }

    def build(self, plan: Plan, advance: Advance) -> Built:
        """Carries a plan out; `advance` is told the share that is done. Raises OnnxoptError where it names what is not
        there.
        """
        plan = replace(plan, steps={**plan.steps, **self._factored.steps})  # with the ranks that were chosen
        done, steps = itertools.count(1), 2 * max(1, len(self.sites))  # each weight is quantized and coded

        def step(path: str) -> None:
            advance(min(1.0, next(done) / steps))

        events = execute_plan.run(self.graph, plan, self.statistics, step)
        inner, leaves = self.graph.export()
        inner = strip(inner, self.source.model)
        model = inner.SerializeToString(deterministic=True)
        packed = container.write(model, leaves, plan.to_json(), self._prefer, step)
        return Built(plan, inner, packed, leaves, events)

    def try_slope(self, slope: float, overrides: Overrides, reference: Evaluator | None, advance: Advance) -> Trial:
        """Builds the file for a slope and, with a reference, measures what it does on its data."""
        size, found = self.try_plan(self.plan(slope, overrides), reference, advance)
        if found is None:
            return Trial(slope, size, None, None)
        return Trial(slope, size, found.error, found.drop, found.uncertainty, found.likely)

    def try_plan(self, plan: Plan, reference: Evaluator | None, advance: Advance) -> tuple[int, Comparison | None]:
        """The bytes of a plan's file and, with a reference, what it does on its data."""
        built = self.build(plan, advance)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trial.onnx"
            size, _ = self.write(built, path)
            return size, None if reference is None else reference.compare(self.load(path))

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

    def coded(self, plan: Plan) -> dict[str, int]:
        """Bytes of each weight in the file of a plan."""
        return _coded(self.build(plan, lambda share: None))[0]

    def load(self, path: Path) -> onnxruntime.InferenceSession:
        """The session that a user would get. Raises OnnxoptError where the runtime refuses it."""
        try:
            return runtime.load(path)
        except Exception as error:
            raise OnnxoptError(f"{self.source.path}: compressed it does not load, nothing was written: "
                               f"{first_line(error)}") from error  # fmt: skip

    def chains(self) -> Iterator[Chain]:
        """The layers that became chains."""
        for one in self._factored.chains:
            counted = [self._macs[part] for part in one.parts if part in self._macs]
            if len(counted) < len(one.parts):
                yield one
                continue
            # The last factor gives the layer's outputs, so it meets as many vectors as the layer's weight did.
            before = counted[-1] // self.graph.values(one.parts[-1]).size * one.weights_before
            yield replace(one, macs_before=before, macs_after=sum(counted))

    def events(self, built: Built, file_size: int) -> Iterator[Event]:
        """Of weights that became others, of all that are stored with their bytes in the file, and of the rest."""
        for gone in self._factored.events:
            yield replace(gone, macs=self._macs.get(gone.path))
        sizes, codecs = _coded(built)
        named = {event.path: event for event in built.events}
        source, inner, written = Users(self.source.model), Users(self.graph.model), Users(self.graph.export()[0])
        linears = self.graph.linears()
        ranks = {part: one.ranks for one in self._factored.chains for part in one.parts}
        matrices = {site.path for site in self.sites if self._detailed and site.axis is not None}
        weights = {path for path, _ in self.graph.weights()}  # others are what a weight came to have: scales
        for path, leaf in built.leaves.items():
            users = inner.of(path)
            values = (self.graph.encoding(path) if path in self.graph.integers else leaf).values()
            rounded = {linear.output for linear in linears.get(path, ())} & self.graph.quantized.keys()
            if path in self.graph.integers:
                rounded |= {name for linear in linears.get(path, ()) for name in (linear.y, f"{linear.y}@float")}
            reason = self._factored.reasons.get(path, "")
            event = named.get(path) or Event(
                path, values.shape, users[0].op_type if users else "", "lossless", values.nbytes, 0, values.size, 0.0
            )
            yield replace(
                event, bytes_before=event.bytes_before if path in weights - self._factored.parts else 0,
                bytes_after=sizes[path], codec=codecs[path], reason=event.reason or reason,
                zeros=float(1 - np.count_nonzero(values) / values.size),
                sensitivity=event.sensitivity if self.data else None,
                histogram=Histogram.of(self.graph.values(path) if path in weights else values, values),
                sizes=relative_index.sizes(leaf, _GAP_BITS) if path in matrices else None,
                macs=self._macs.get(path), ranks=ranks.get(path, ()),
                nodes_before=source.texts(source.that_became(path, users)),
                nodes_after=written.texts(written.until(path, rounded)),
            )  # fmt: skip
        others = {*built.leaves, *self._factored.parts}
        before = sum(size for path, size in self.graph.weights() if path not in others)
        after = file_size - sum(sizes.values())
        yield Event("(graph and rest)", (), "", "", before, after, 0, 0.0, "deflate")

    def _outer(self, built: Built, location: str = "") -> bytes:
        model = wrap(self.source.model, built.inner, self._outside, self._tensors, built.packed, location)
        return bytes(model.SerializeToString(deterministic=True))


def _coded(built: Built) -> tuple[dict[str, int], dict[str, str]]:
    """Of each stored weight its bytes in the file, its scales included, and its codec."""
    sizes, codecs = {}, {}
    seen: set[int] = set()
    with native.Container(built.packed) as stored:
        for entry in stored.entries:
            if entry.hidden:
                continue
            sizes[entry.name], codecs[entry.name] = entry.coded_size, entry.codec
            if entry.auxiliary is not None and entry.auxiliary not in seen:  # equal scales are stored once
                seen.add(entry.auxiliary)
                sizes[entry.name] += stored.entries[entry.auxiliary].coded_size
    return sizes, codecs
