"""Stands for `onnxopt`: fails for some models, kills some processes, and prints more than a pipe holds."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path


def main() -> None:
    checks, model = "--check" in sys.argv, Path(sys.argv[2])
    output = Path(sys.argv[sys.argv.index("--check" if checks else "-o") + 1])
    with Path("ran.txt").open("a") as file:
        file.write(f"{model} {'check' if checks else 'make'}\n")
    if checks:
        print(json.dumps({"current": output.read_text() == "current"}))
        sys.exit(output.read_text() != "current")
    print(json.dumps({"phase": "working", "share": 0.5}), file=sys.stderr, flush=True)
    print("a warning", file=sys.stderr)
    match model.name:
        case "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        case "first.onnx" | "second.onnx":
            time.sleep(0.5)
            with Path("ran.txt").open("a") as file:
                file.write(f"{model} made\n")
        case "slow":
            Path("slow.pid").write_text(str(os.getpid()))
            time.sleep(60)
        case "bad" | "missed":
            print(f"onnxopt: {model}: is wrong", file=sys.stderr)
            sys.exit(1 if model.name == "bad" else 3)
        case "kills_worker" if not Path("killed").exists():
            Path("killed").touch()
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(60)
        case "kills_scheduler":
            os.kill(int(Path("scheduler.pid").read_text()), signal.SIGKILL)
    output.write_text("current")
    many = ["events"] * 100_000
    print(json.dumps({"status": "met", "bytes_before": 8, "bytes_after": 7, "peak_memory": 1, "events": many}))


main()
