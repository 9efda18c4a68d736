"""Random valid models through onnxopt, each from one seed, compared with stock ONNX Runtime.

    python tools/fuzz_models.py --seed 1 --count 200           # 200 models, a line for each distinct finding
    python tools/fuzz_models.py --seed 1 --count 200 --jobs 2 --json found.json --keep build/fuzz/models

Model n of a seed is that of the number ``seed * 1000000 + n``, so that runs of several seeds share no model. Each goes
through `optimize` without loss, with data, and at times in another mode; its file through `verify`, `decompress` and
both ways of loading. With `--keep`, the first model of each distinct finding is made small and written there.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fuzzing.checking import KINDS, Finding
from fuzzing.running import Summary, fuzz
from fuzzing.shrinking import shrunk_to

SEEDS = 1_000_000
"""Numbers between those of one seed and of the next."""


def numbers(seed: int, count: int) -> range:
    """The numbers of the models of a seed."""
    return range(seed * SEEDS, seed * SEEDS + count)


def as_json(summary: Summary) -> dict[str, Any]:
    """Counts, and every finding."""
    return {
        "models": summary.models,
        "seconds": round(summary.seconds, 1),
        "kinds": {kind: summary.kinds[kind] for kind in KINDS},
        "calls": dict(summary.calls.most_common()),
        "operators": dict(summary.operators.most_common()),
        "findings": [asdict(one) | {"signature": one.signature} for one in summary.findings],
    }


def text(summary: Summary) -> str:
    """Counts by kind, and a line for each distinct finding."""
    calls = ", ".join(f"{count} {mode}" for mode, count in summary.calls.most_common())
    lines = [f"{summary.models} models in {summary.seconds:.0f} s, {len(summary.operators)} operators; {calls}"]
    lines += [f"{summary.kinds[kind]:>6} {kind}" for kind in KINDS]
    for found in summary.distinct.values():
        lines.append(f"{len(found):>6} x model {found[0].seed}: {found[0].kind}, {found[0].mode}: {found[0].what}")
    return "\n".join(lines)


def main() -> int:
    """The command line; ends with 1 where anything was found."""
    parser = argparse.ArgumentParser(description="Puts random models through onnxopt, and compares.")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="which models (default: %(default)s)")
    parser.add_argument("--count", type=int, default=200, metavar="N", help="how many (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write counts and findings there")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="write a small model of each finding there")
    asked = parser.parse_args()
    summary = fuzz(numbers(asked.seed, asked.count), asked.jobs)
    print(text(summary))
    if asked.json:
        asked.json.write_text(json.dumps(as_json(summary), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if asked.keep:
        keep([found[0] for found in summary.distinct.values()], asked.keep)
    return 1 if summary.findings else 0


def keep(findings: list[Finding], folder: Path) -> None:
    """Writes a small model of each finding, and a line that names it, into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        for found in findings:
            print(shrunk_to(found, folder), flush=True)


if __name__ == "__main__":
    sys.exit(main())
