"""Latency, throughput, memory and energy of models, measured in fresh interleaved processes, with intervals."""

from onnxopt.measure.benchmark.latency import Latency, SpeedRatio
from onnxopt.measure.benchmark.machine import Machine
from onnxopt.measure.benchmark.profile import OpTime, time_by_node
from onnxopt.measure.benchmark.quick import milliseconds
from onnxopt.measure.benchmark.ratio import time_ratio, time_ratios
from onnxopt.measure.benchmark.run import Benchmark, Measured, Throughput, benchmark
from onnxopt.measure.benchmark.worker import LOADED

__all__ = [
    "LOADED",
    "Benchmark",
    "Latency",
    "Machine",
    "Measured",
    "OpTime",
    "SpeedRatio",
    "Throughput",
    "benchmark",
    "milliseconds",
    "time_by_node",
    "time_ratio",
    "time_ratios",
]
