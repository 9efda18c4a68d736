"""Our integer models in the oldest runtime that is supported, against the newest; a table of docs/integers.md.

    python tools/oldest_runtime.py --packages build/runtimes/onnxruntime-1.17.3

The files are those that tools/table_integers.py made, decompressed; the folder is one that tests/test_runtimes.py
fetches packages into. Images are the first of the test part.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import realdata
from generated import markdown, rewrite
from table_integers import DOCUMENT, FOLDER, MODELS

import onnxopt
from onnxopt.metrics.output_error import output_error

START = "<!-- table:oldest -->"
PACKAGES = Path(__file__).resolve().parents[1] / "build" / "runtimes" / "onnxruntime-1.17.3"
IMAGES = 200
RUN = """
import sys
import numpy as np
import onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
name = session.get_inputs()[0].name
np.save(sys.argv[3], np.concatenate([session.run(None, {name: x[None]})[0] for x in np.load(sys.argv[2])]))
print(onnxruntime.__version__)
"""


def row(model: str, packages: Path) -> list[str]:
    """One model; raises what the checker raises, and where the old runtime fails."""
    task = realdata.TASKS[model]
    x = task.prepare(task.read("test").images[:IMAGES])
    with tempfile.TemporaryDirectory() as folder:
        plain, inputs, outputs = (Path(folder) / name for name in ("plain.onnx", "x.npy", "y.npy"))
        onnxopt.decompress(FOLDER / f"{model}.onnxopt.onnx", plain)
        onnx.checker.check_model(str(plain), full_check=True)
        np.save(inputs, x)
        command = [sys.executable, "-c", RUN, *map(str, (plain, inputs, outputs))]
        env = {**os.environ, "PYTHONPATH": str(packages)}
        done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
        session = onnxruntime.InferenceSession(str(plain), providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        newest = np.concatenate([session.run(None, {name: one[None]})[0] for one in x])
        oldest = np.load(outputs)
    same = int((newest.argmax(1) == oldest.argmax(1)).sum())
    return [model, done.stdout.strip(), onnxruntime.__version__, f"{same} of {len(x)}",
            f"{output_error([newest], [oldest]):.4f}"]  # fmt: skip


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Integer models in the oldest runtime; rewrites docs/integers.md.")
    parser.add_argument("--packages", type=Path, default=PACKAGES, help="a folder that has it")
    parser.add_argument("--print", action="store_true", help="print the table, leave docs/integers.md alone")
    arguments = parser.parse_args()
    rows = [row(model, arguments.packages) for model in MODELS if (FOLDER / f"{model}.onnxopt.onnx").is_file()]
    text = markdown(["model", "oldest", "newest", "the same first class", "noise/signal"], "lllrr", rows)
    if arguments.print:
        print(text)
    else:
        rewrite(DOCUMENT, text, START)
    return 0


if __name__ == "__main__":
    sys.exit(main())
