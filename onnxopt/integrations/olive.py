"""A pass of Olive, for configurations of its workflows (docs/pipelines.md): it needs the package olive-ai."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from olive.model import ONNXModelHandler
from olive.model.utils import resolve_onnx_path
from olive.passes import Pass
from olive.passes.pass_config import PassConfigParam

from onnxopt import api

OPTIONS: dict[str, tuple[type, str]] = {
    "data": (str, "Path of inputs similar to those in use, or module:function, as --data takes it."),
    "evaluation": (str, "The same for the final check, as --eval takes it."),
    "max_drop": (float, "Largest drop of the metric."),
    "metric": (str, "What may drop, as --metric takes it."),
    "error": (float, "Largest noise over signal in the outputs."),
    "target_ratio": (float, "How many times smaller the file has to be."),
    "effort": (str, "What is spent on statistics and on the search, as --effort takes it."),
    "goal": (str, "What strategies may change the form of layers for, as --for takes it."),
}
"""By name, the type and the meaning of each option, which is a keyword of `onnxopt.optimize`."""


class OnnxOptPass(Pass):
    """Compresses an ONNX model to the smallest file that meets a contract.

    Sessions that run the file need onnxopt's library, so it is the last pass of a workflow.
    """

    @classmethod
    def _default_config(cls, accelerator_spec: Any) -> dict[str, PassConfigParam]:
        """The options. Those that are left out are as for `onnxopt.optimize`."""
        return {
            name: PassConfigParam(type_=kind, default_value=None, description=text)
            for name, (kind, text) in OPTIONS.items()
        }

    def _run_for_config(self, model: ONNXModelHandler, config: Any, output_model_path: str) -> ONNXModelHandler:
        """Writes the file. Raises OnnxoptError if the contract cannot be met, or as `onnxopt.optimize` does."""
        output = resolve_onnx_path(output_model_path, Path(model.model_path).name)
        given = {name: getattr(config, name) for name in OPTIONS}
        api.optimize(model.model_path, output, **{name: value for name, value in given.items() if value is not None})
        return ONNXModelHandler(output)
