"""How fast and how large models are when they run: measured in fresh processes that take turns, with intervals."""

from onnxopt.benchmark.latency import Latency, Paired
from onnxopt.benchmark.machine import Machine
from onnxopt.benchmark.profile import OpTime, time_by_node
from onnxopt.benchmark.quick import milliseconds
from onnxopt.benchmark.ratio import time_ratio, time_ratios
from onnxopt.benchmark.run import Benchmark, Measured, Throughput, benchmark

__all__ = [
    "Benchmark",
    "Latency",
    "Machine",
    "Measured",
    "OpTime",
    "Paired",
    "Throughput",
    "benchmark",
    "milliseconds",
    "time_by_node",
    "time_ratio",
    "time_ratios",
]
