"""Runs the fuzz target of the native reader, and records the run in onnxopt/native/fuzz/runs.json.

    python tools/fuzz_reader.py --seconds 600           # `make fuzz` builds the target and calls this

docs/reliability.md sums the records up. An interrupted run counts as far as it came.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from common.pages import ROOT

FUZZ = ROOT / "onnxopt" / "native" / "fuzz"
RECORDS = FUZZ / "runs.json"
BUILD = ROOT / "build" / "fuzz"
_INTERRUPTED = 72
"""libFuzzer's exit code of a run that was stopped."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the target."""

    executions: int
    seconds: int
    longest: int
    """Bytes of an input, at most."""
    edges: int
    """That the corpus covers at the end."""
    memory: int
    """MB, at most."""
    findings: int
    """Crashes, hangs, and inputs that need too much memory."""


def parse(log: Iterable[str], longest: int, code: int) -> Run:
    """The record of a run, from what libFuzzer printed. Raises ValueError where its statistics are missing."""
    executions = seconds = edges = memory = None
    for line in log:
        if found := re.search(r"\bcov: (\d+)", line):
            edges = int(found[1])
        if found := re.match(r"stat::number_of_executed_units: +(\d+)", line):
            executions = int(found[1])
        if found := re.match(r"stat::average_exec_per_sec: +(\d+)", line):
            seconds = int(found[1])
        if found := re.match(r"stat::peak_rss_mb: +(\d+)", line):
            memory = int(found[1])
    if executions is None or seconds is None or edges is None or memory is None:
        raise ValueError("the target ended without its statistics")
    return Run(
        executions, round(executions / max(seconds, 1)), longest, edges, memory, int(code not in (0, _INTERRUPTED))
    )


def records() -> list[Run]:
    """All runs, the earliest first."""
    return [Run(**one) for one in json.loads(RECORDS.read_text(encoding="utf-8"))] if RECORDS.is_file() else []


def record(run: Run) -> None:
    """Adds a run."""
    lines = ",\n".join(f" {json.dumps(asdict(one))}" for one in (*records(), run))
    RECORDS.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def run(seconds: int, longest: int) -> Run:
    """Runs the target, and shows what it prints. Raises ValueError as `parse`."""
    corpus = BUILD / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    command: Sequence[str | Path] = [
        BUILD / "fuzz_reader", f"-max_total_time={seconds}", f"-max_len={longest}", "-print_final_stats=1",
        f"-artifact_prefix={BUILD}/", corpus, FUZZ / "corpus",
    ]  # fmt: skip
    lines = []
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace") as target:
        assert target.stderr is not None
        for line in target.stderr:
            print(line, end="", file=sys.stderr)
            lines.append(line)
    return parse(lines, longest, target.returncode)


def main() -> int:
    """The command line; ends with 1 where something was found."""
    parser = argparse.ArgumentParser(description="Fuzzes the native reader of containers.")
    parser.add_argument("--seconds", type=int, default=600, metavar="N", help="how long (default: %(default)s)")
    parser.add_argument(
        "--longest", type=int, default=65536, metavar="N", help="bytes of an input (default: %(default)s)"
    )
    asked = parser.parse_args()
    done = run(asked.seconds, asked.longest)
    record(done)
    print(f"{done.executions:,} executions in {done.seconds} s, {done.edges:,} edges, {done.findings} findings")
    return 1 if done.findings else 0


if __name__ == "__main__":
    sys.exit(main())
