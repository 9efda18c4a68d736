"""What was measured on."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from pathlib import Path

import onnxruntime
import psutil

from onnxopt import native


@dataclass(frozen=True, slots=True)
class Machine:
    """Hardware and software that a figure depends on."""

    cpu: str
    cores: int
    """Physical ones, of which the runtime uses all where it is not told otherwise."""
    memory: int
    """Bytes of RAM."""
    system: str
    onnxruntime: str
    onnxopt: str
    load: float
    """Processes that wanted to run when the measurement began, a mean over a minute: others disturb it."""


def this_machine() -> Machine:
    """The machine that this runs on."""
    return Machine(
        cpu=cpu(),
        cores=psutil.cpu_count(logical=False) or psutil.cpu_count() or 1,
        memory=psutil.virtual_memory().total,
        system=f"{platform.system()} {platform.release()}",
        onnxruntime=onnxruntime.__version__,
        onnxopt=native.version(),
        load=psutil.getloadavg()[0],
    )


def cpu() -> str:
    """The processor as the system calls it, with family and model where it tells: servers' names say little."""
    try:
        info = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        info = ""
    found = dict(re.findall(r"^(model name|cpu family|model)\s*: (.*)$", info, re.MULTILINE))
    match found:
        case {"model name": name, "cpu family": family, "model": model}:
            return f"{name} (family {family}, model {model})"
    return found.get("model name") or platform.processor() or platform.machine()
