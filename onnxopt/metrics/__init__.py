"""How good a model's outputs are, judged by labels or by the original's outputs.

A module in this folder that has `METRICS` adds them to what `--metric` takes: a file dropped here registers itself.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pkgutil import iter_modules

from onnxopt.data import is_hook, load_hook, name_of
from onnxopt.errors import OnnxoptError, meant
from onnxopt.metrics.base import Metric, Outputs, Score
from onnxopt.metrics.custom import of_function

_modules = [import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)]
METRICS: dict[str, Metric] = {
    metric.name: metric for module in _modules for metric in getattr(module, "METRICS", ())
}  # fmt: skip
"""Every metric by its name."""
CHOICES = f"{', '.join(METRICS)}, or package.module:function"
"""What `--metric` takes, for help texts."""


def open_metric(spec: str | Callable[..., float]) -> Metric:
    """The metric of this name, ``package.module:function``, or a function itself.

    A function is called with the outputs (a list, for each output all samples) and the labels (of all samples, or
    None) and returns a number, higher being better.

    Raises OnnxoptError where there is no such metric.
    """
    if callable(spec):
        return of_function(name_of(spec), spec)
    if is_hook(spec):
        return of_function(spec, load_hook(spec))
    if spec not in METRICS:
        raise OnnxoptError(f"no metric is called {spec!r}; there are {', '.join(METRICS)}, and functions as in "
                           f"mypackage.mydata:score{meant(spec, METRICS)}")  # fmt: skip
    return METRICS[spec]


__all__ = ["CHOICES", "METRICS", "Metric", "Outputs", "Score", "open_metric"]
