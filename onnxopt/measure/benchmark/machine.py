"""The machine of a measurement."""

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
    """Hardware and software that the results depend on."""

    cpu: str
    cores: int
    """Physical cores; the runtime uses all of them by default."""
    memory: int
    """Bytes of RAM."""
    system: str
    onnxruntime: str
    onnxopt: str
    load: float
    """Load average over the last minute when the measurement began; other processes disturb it."""


def this_machine() -> Machine:
    """This machine."""
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
    """Name of the processor, with family and model if known, as servers' names are ambiguous."""
    try:
        info = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        info = ""
    found = dict(re.findall(r"^(model name|cpu family|model)\s*: (.*)$", info, re.MULTILINE))
    match found:
        case {"model name": name, "cpu family": family, "model": model}:
            return f"{name} (family {family}, model {model})"
    return found.get("model name") or platform.processor() or platform.machine()
