"""`onnxopt optimize --for speed` against ONNX Runtime's own static quantization; the tables of docs/integers.md.

    python tools/table_integers.py                                        # two hours; nothing else may run
    python tools/table_integers.py --only lenet5 --print
    python tools/table_integers.py --parts baseline                       # needs no quiet machine
    python tools/table_integers.py --only resnet20 --parts ours time --again

Files and what was measured of them are kept in build/integers/, and only what is not known is done, so that the work
can be cut into pieces; `--again` does parts anew. Tables have what is known.

Images to calibrate and search on are training images, accuracy is that of the whole test part in stock ONNX Runtime
(ours with the registered library), and times are those of one sample on two threads, all files of a model in turns.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import realdata
from generated import machine, markdown, rewrite
from kernels import Kernels, kernels
from static_int8 import METHODS, int8

import onnxopt
from onnxopt import Contract, OnnxoptError
from onnxopt.graph.onnx_file import write_atomically
from onnxopt.measure.benchmark import SpeedRatio
from onnxopt.measure.benchmark.latency import latency, log_ratios, paired, take_turns
from onnxopt.measure.benchmark.worker import workers

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "integers.md"
FOLDER = Path(__file__).resolve().parents[1] / "build" / "integers"
TABLES = ("integers", "claims", "methods")
MODELS = (
    "resnet20",
    "resnet56",
    "resnet50v2_imagenette",
    "squeezenet1.1",
    "mobilenet_v1_0.25",
    "mobilenet_v2",
    "lenet5",
    "mobilefacenet",
)
PARTS = ("baseline", "ours", "time")
IMAGES = 16384
"""Of the training part, at most."""
THREADS = 2
SECONDS = 120.0
"""For the times of one model, at most."""

SMALL_LOSS = 0.2
"""Points that the baseline may lose without any claim about ours."""
DEPTHWISE, DEPTHWISE_LOSS = "mobilenet_v1_0.25", 1.0
"""The model that 8 bits hurt most, and points that ours may lose on it."""
FAST = 1.8
"""Times faster than float: what ours must be where the baseline is."""


# ---- what is measured ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class File:
    """What is known of a file without a clock."""

    size: int
    metric: float
    """Percent, on the test part: top-1, of faces the pairs told right."""
    kernels: Kernels


@dataclass(frozen=True, slots=True)
class Times:
    """Of a model's files, from one run."""

    ms: float
    """Of one run in float."""
    baseline: SpeedRatio
    """Against float."""
    ours: SpeedRatio | None = None
    """Against float."""
    versus: SpeedRatio | None = None
    """Ours against the baseline."""


@dataclass(frozen=True, slots=True)
class Row:
    """A model."""

    model: str
    source: File
    baselines: dict[str, File]
    """By calibration method."""
    ours: File | None = None
    times: Times | None = None

    @property
    def method(self) -> str:
        """Of the baseline that others are compared with: the one that does best on the test part, which favours it."""
        return max(self.baselines, key=lambda method: self.baselines[method].metric)

    @property
    def baseline(self) -> File:
        """The best one."""
        return self.baselines[self.method]

    def lost(self, file: File) -> float:
        """Points of the metric, without the dust of subtraction."""
        return round(self.source.metric - file.metric, 6)


class Store:
    """What was measured of files, kept in a JSON file by their content, so that other files are measured anew."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}

    def get(self, what: str, files: Iterable[Path]) -> Any:
        """What is known, or None."""
        return self._known.get(self._key(what, files))

    def put(self, what: str, files: Iterable[Path], value: Any) -> None:
        """Keeps something that JSON can hold."""
        self._known[self._key(what, files)] = value
        with write_atomically(self._path) as temporary:
            temporary.write_text(json.dumps(self._known, indent=1))

    @staticmethod
    def _key(what: str, files: Iterable[Path]) -> str:
        digests = [hashlib.sha256(file.read_bytes()).hexdigest()[:16] for file in files]
        return " ".join([what, *digests, f"onnxruntime {onnxruntime.__version__}"])


def inspect(model: str, path: Path) -> File:
    """All of `File`."""
    metric = realdata.evaluate(model, realdata.registered_session(path)).metric
    return File(path.stat().st_size, metric, kernels(path))


def race(model: str, files: Sequence[Path]) -> Times:
    """Times of the source, the baseline and, where there is a third file, ours; all in one run."""
    task = realdata.TASKS[model]
    images = task.read("test").images[:8]
    entry = realdata.plain_session(files[0]).get_inputs()[0].name
    feeds = [{entry: task.prepare(images[i : i + 1])} for i in range(len(images))]
    turns = [(file, feeds) for file in files]
    times = take_turns(lambda process: workers(turns, THREADS, process), SECONDS)

    def pair(one: int, other: int) -> SpeedRatio:
        return paired(str(files[one].name), str(files[other].name), log_ratios(times[one], times[other]))

    both = (pair(2, 0), pair(2, 1)) if len(files) > 2 else (None, None)
    return Times(latency(times[0]).mean_ms, pair(1, 0), *both)


def training(model: str, labelled: bool = False) -> Callable[[], Iterator[Any]]:
    """What both calibrate on. Of ImageNet there are 300 photographs, so those of Imagenette are taken, too."""
    task = realdata.TASKS[model]
    if task.read is not realdata.imagenet:
        return task.batches("train", IMAGES, labelled)
    parts = [realdata.imagenet("train").images, realdata.imagenette("train").images]
    images = np.random.default_rng(0).permutation(np.concatenate(parts))

    def start() -> Iterator[Any]:
        for i in range(0, len(images), 32):
            yield task.prepare(images[i : i + 32])

    return start


def optimize(model: str, baseline: int, output: Path) -> None:
    """`onnxopt optimize --for speed`, as a user would ask for it.

    With labels the contract is a drop of half a point of top-1, on training images that nothing is calibrated on. Of
    ImageNet there are 300 of these, and a quarter of them cannot tell a drop of a point; for faces there are neither
    training images nor labels, but photographs: there half of the `baseline`'s bytes are asked for.
    """
    task = realdata.TASKS[model]
    labelled = task.stand_in is None and task.read is not realdata.imagenet
    contract = Contract(max_drop=0.5) if labelled else Contract(target_size=baseline // 2)
    data = training(model, labelled)
    onnxopt.optimize(realdata.path_of(model), output, contract, data, max_ram=2**31, goal="speed")


# ---- a model, part by part -----------------------------------------------------------------------------------------


class Work:
    """A model's files and what is known of them.

    Arguments:
        model: a key of `realdata.TASKS`.
        folder: where files and results are kept.
    """

    def __init__(self, model: str, folder: Path = FOLDER) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.model, self.source = model, realdata.path_of(model)
        self.baselines = {method: folder / f"{model}.{method.lower()}.onnx" for method in METHODS}
        self.ours = folder / f"{model}.onnxopt.onnx"
        self._store = Store(folder / f"{model}.json")

    def do(self, part: str, again: bool) -> None:
        """One of PARTS, as far as it is not done; or all of it again."""
        if part == "time":
            self._time(again)
            return
        if part == "ours":
            row = self.row()
            if row is None:
                raise OnnxoptError("there is no baseline yet to be half as large as; run --parts baseline")
            self._make(self.ours, partial(optimize, self.model, row.baseline.size, self.ours), again)
            return
        self._inspect(self.source)
        data = training(self.model)
        for method, path in self.baselines.items():
            self._make(path, partial(int8, self.source, path, data, method), again)

    def row(self) -> Row | None:
        """What is known; None before there is a baseline."""
        source = self._file(self.source)
        found = {method: file for method, path in self.baselines.items() if (file := self._file(path))}
        if source is None or not found:
            return None
        row = Row(self.model, source, found, self._file(self.ours))
        known = self._store.get("times", self._racers(row))
        if known is None:
            return row
        pairs = {name: SpeedRatio(**pair) for name, pair in known.items() if isinstance(pair, dict)}
        return Row(self.model, source, found, row.ours, Times(known["ms"], **pairs))

    def _make(self, path: Path, make: Callable[[], object], again: bool) -> None:
        if again or not path.is_file():
            print(f"{path.name}: is being made", file=sys.stderr, flush=True)
            path.unlink(missing_ok=True)
            make()
        self._inspect(path)

    def _inspect(self, path: Path) -> None:
        if self._store.get("file", [path]) is None:
            found = inspect(self.model, path)
            print(f"{path.name}: {found}", file=sys.stderr, flush=True)
            self._store.put("file", [path], asdict(found))

    def _file(self, path: Path) -> File | None:
        known = self._store.get("file", [path]) if path.is_file() else None
        return None if known is None else File(**known | {"kernels": Kernels(**known["kernels"])})

    def _racers(self, row: Row) -> list[Path]:
        return [self.source, self.baselines[row.method]] + [self.ours] * (row.ours is not None)

    def _time(self, again: bool) -> None:
        row = self.row()
        if row is not None and (again or row.times is None):
            found = race(self.model, self._racers(row))
            print(f"{self.model}: {found}", file=sys.stderr, flush=True)
            self._store.put("times", self._racers(row), asdict(found))


# ---- the document --------------------------------------------------------------------------------------------------


def ratio(pair: SpeedRatio | None) -> str:
    """With its interval."""
    return "" if pair is None else f"{pair.ratio:.2f} ({pair.low:.2f} to {pair.high:.2f})"


def main_table(rows: Sequence[Row]) -> str:
    """A line a file."""
    lines = []
    for row in rows:
        times = row.times
        ms = f"{times.ms:.3f}" if times else ""
        variants: list[tuple[str, File, str, str]] = [("float", row.source, "", "")]
        variants.append((f"`quantize_static`, {row.method}", row.baseline, ratio(times.baseline) if times else "", ""))
        if row.ours is not None:
            against = (ratio(times.ours), ratio(times.versus)) if times else ("", "")
            variants.append(("`onnxopt`", row.ours, *against))
        for name, file, slower, versus in variants:
            first = file is row.source
            lost = "" if first else f"{row.lost(file):.2f}"
            layers = "" if first else f"{file.kernels.integer} of {file.kernels.layers}"
            lines.append([
                row.model if first else "", name, f"{file.metric:.2f}", lost, f"{file.size / 1e3:,.0f}", layers,
                "" if first else str(file.kernels.dequantized), ms if first else "", slower, versus,
            ])  # fmt: skip
    columns = ["model", "variant", "top-1 or pairs %", "lost", "kB", "integer layers", "dequantized", "ms"]
    columns += ["time over float's", "over `quantize_static`'s"]
    return markdown(columns, "llrrrrrrrr", lines) + f"\n\nONNX Runtime {onnxruntime.__version__} on {machine()}."


@dataclass(frozen=True, slots=True)
class Claim:
    """What was set out to be reached, on single models."""

    text: str
    holds: Callable[[Row], bool | None]
    """None where it says nothing of a model, or is not known."""


def _no_slower(row: Row) -> bool | None:
    pair = row.times.versus if row.times else None
    return None if pair is None else pair.ratio <= 1 or not pair.significant


def _faster(row: Row) -> bool | None:
    pair = row.times.versus if row.times else None
    return None if pair is None else pair.ratio < 1 and pair.significant


def _half_the_loss(row: Row) -> bool | None:
    lost = row.lost(row.baseline)
    return None if row.ours is None or lost <= SMALL_LOSS else row.lost(row.ours) <= lost / 2


def _half_the_size(row: Row) -> bool | None:
    return None if row.ours is None else row.ours.size <= row.baseline.size / 2


def _depthwise(row: Row) -> bool | None:
    return None if row.ours is None or row.model != DEPTHWISE else row.lost(row.ours) <= DEPTHWISE_LOSS


def _fast(row: Row) -> bool | None:
    times = row.times
    return (
        None if times is None or times.ours is None or times.baseline.ratio * FAST > 1 else times.ours.ratio * FAST <= 1
    )


CLAIMS = (
    Claim("no slower than `quantize_static` (beyond doubt, at the 1 % level)", _no_slower),
    Claim("faster than `quantize_static` (likewise)", _faster),
    Claim(f"at most half of its loss, where that is more than {SMALL_LOSS:g} points", _half_the_loss),
    Claim("at most half of its file", _half_the_size),
    Claim(f"at least {FAST:g} times faster than float, where `quantize_static` is", _fast),
    Claim(f"at most {DEPTHWISE_LOSS:g} point lost on {DEPTHWISE}", _depthwise),
)


def claims_table(rows: Sequence[Row]) -> str:
    """Where each claim holds."""
    lines = []
    for claim in CLAIMS:
        said = [(row.model, claim.holds(row)) for row in rows]
        yes, no = (", ".join(model for model, holds in said if holds is answer) or "none" for answer in (True, False))
        lines.append([claim.text, yes, no])
    return markdown(["`onnxopt` is, or has", "holds on", "does not hold on"], "lll", lines)


def methods_table(rows: Sequence[Row]) -> str:
    """The metric by the baseline's calibration."""
    lines = []
    for row in rows:
        found = [f"{row.baselines[method].metric:.2f}" if method in row.baselines else "" for method in METHODS]
        lines.append([row.model, f"{row.source.metric:.2f}", *found])
    return markdown(["model", "float", *METHODS], "l" + "r" * (1 + len(METHODS)), lines)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Integer models against the runtime's own, and docs/integers.md.")
    parser.add_argument("--only", nargs="+", choices=MODELS, default=MODELS, metavar="MODEL", help="these models")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS, help="these parts; none: what is known")
    parser.add_argument("--again", action="store_true", help="those parts even where they were done before")
    parser.add_argument("--print", action="store_true", help="print the tables, leave docs/integers.md alone")
    arguments = parser.parse_args()
    failed = False
    for model in arguments.only:
        work = Work(model)
        for part in arguments.parts:
            try:
                work.do(part, arguments.again)
            except OnnxoptError as error:
                failed = True
                print(f"{model}, {part}: {error}", file=sys.stderr)
    shown = arguments.only if arguments.print else MODELS
    rows = [row for model in shown if (row := Work(model).row())]
    for name, make in zip(TABLES, (main_table, claims_table, methods_table), strict=True):
        if arguments.print:
            print(f"{make(rows)}\n")
        else:
            rewrite(DOCUMENT, make(rows), f"<!-- table:{name} -->")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
