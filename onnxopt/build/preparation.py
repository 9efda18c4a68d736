"""From a source to a workspace: normalised and cleaned, and compared with the source before any weight changes."""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import onnx
import onnxruntime

from onnxopt.build.observing import compare_observed, observing_session
from onnxopt.build.running import Running
from onnxopt.build.workspace import Workspace
from onnxopt.calibration.chunks import first_samples
from onnxopt.data import Data, Pending, quiet_session
from onnxopt.errors import OnnxoptError, Unsound, first_line
from onnxopt.graph import (
    LARGEST_INLINE,
    Graph,
    Source,
    fix_initializers,
    hoist,
    join,
    normalise,
    of_unsure_shape,
    split,
    tie,
    wrap,
)
from onnxopt.graph.cleanup import clean
from onnxopt.request import Request
from onnxopt.search.evaluator import Evaluator
from onnxopt.search.original import Original

_ROUNDING, _ROUNDING_HALF = 1e-3, 1e-2
"""Noise over signal that rounding may cause in the outputs; the second if the model computes in 16 bits."""
_SAMPLES = 4
"""Samples that show whether a form of the model computes the same."""
_HALF = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)


def prepare(source: Source, request: Request, cleanups: Collection[str] | None = None) -> Workspace:
    """The model, normalised across exporters and cleaned, ready for compression.

    Arguments:
        cleanups: the clean-ups that may run; by default all, and none for a lossless file.

    Raises Unsound if the model cannot be brought into this form.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(source.model)
    try:
        normalise(copy)  # first, so that clean-ups see every constant
        cleaned, changed, failed = (copy, {}, {}) if request.lossless else clean(copy, cleanups)
        hoist(cleaned, deep=not request.lossless)
        tie(cleaned)  # last, as a weight that two norms follow could not take up either
        inner, nodes, tensors = split(cleaned)
        unsure = of_unsure_shape(inner)
        for value in inner.graph.output:  # the loader relies on declared shapes, where stock warns
            if value.name in unsure:
                value.type.tensor_type.ClearField("shape")
        if source.shelf is not None:
            inner = source.shelf.taken(inner)  # with what clean-ups have changed
        graph = Graph(inner, not request.lossless, request.moves_integers)
    except MemoryError:
        raise
    except Exception as error:  # nothing that the runtime can run is refused
        raise Unsound(source.path, f"it cannot be rewritten: {_said(error)}") from error
    return Workspace(source, request, request.progress, graph, changed, (nodes, tensors), left_out=failed)


@dataclass(frozen=True)
class Reference:
    """The source and its outputs on some inputs. Says how another form of the model differs from it."""

    source: Source
    original: Original
    data: Data
    """A few samples."""

    @classmethod
    def of(cls, work: Workspace, original: Original) -> Reference:
        """The reference on a few samples of the calibration data; on a batch if the source takes no part of one.

        Raises what the runtime raises if the source runs on neither.
        """
        data = original.parts.calibration
        try:
            few = first_samples(work.graph.model, data, _SAMPLES)
            pending = Pending(few.size, lambda: few)
            found = cls(work.source, original, replace(data, pending=lambda: iter([pending])))
            _ = found.evaluator
        except MemoryError:
            raise
        except Exception:  # the runtime's own types
            found = cls(work.source, original, data.take(1))
            _ = found.evaluator
        return found

    @cached_property
    def evaluator(self) -> Evaluator:
        """The source's outputs. Raises what the runtime raises if the source does not run on the data."""
        return Evaluator(self.original.observing, self.data, None, self.original.observed)

    @cached_property
    def _fixed(self) -> Evaluator | None:
        """The same of the source with all its initializers constant; None if they are, or if that does not run. Other
        kernels multiply by constants, which may round inputs to 8 bits."""
        fixed = onnx.ModelProto()
        fixed.CopyFrom(self.source.model)
        if not fix_initializers(fixed) or fixed.ByteSize() >= LARGEST_INLINE:
            return None
        observed = self.original.observed
        try:
            session = observing_session(replace(self.source, model=fixed), observed)
            return Evaluator(session, self.data, None, observed)
        except MemoryError:
            raise
        except Exception:  # the runtime's own types
            return None

    @cached_property
    def _rounding(self) -> float:
        half = any(tensor.data_type in _HALF for tensor in self.source.model.graph.initializer)
        return _ROUNDING_HALF if half else _ROUNDING

    def require_repeatable(self) -> None:
        """Raises Unsound if the outputs of the source change from one run to the next, as random numbers do."""
        error = self.evaluator.compare(Running(self.source.path, self.original.session)).error or 0.0
        if error > self._rounding:
            reason = (
                f"the source's own outputs change by {error:.2g} of their size from one run to the next, so the effect "
                "of quantization cannot be measured"
            )
            raise Unsound(self.source.path, reason)

    def fault(self, work: Workspace) -> str:
        """Why the model of a workspace, before quantization, is not the source's; empty if only rounding differs."""
        reason = self._fault(work, self.evaluator)
        return self._fault(work, self._fixed) if reason and self._fixed is not None else reason

    def _fault(self, work: Workspace, evaluator: Evaluator) -> str:
        self.source.rest()  # the evaluator has its outputs
        try:
            model = _whole(work)
            if evaluator.hidden and model.ByteSize() < LARGEST_INLINE:
                error = compare_observed(evaluator, model, self.source.path).error
            else:
                error = evaluator.compare(Running(self.source.path, _session(model))).error
            if error is None:  # nothing could be measured
                name = evaluator.difference(Running(self.source.path, _session(model)))
                return f"output {name!r} differs" if name else ""
        except MemoryError:
            raise
        except Unsound as fault:
            return fault.reason
        except Exception as failure:  # the runtime's own types
            return f"it does not load: {first_line(failure)}"
        if error <= self._rounding:
            return ""
        return f"outputs differ by {error:.2g} of their size, more than rounding explains"


def sound(work: Workspace, reference: Reference) -> Workspace:
    """The workspace, without the clean-ups with which the model does not compute what the source computes.

    Raises Unsound if it does not even without any, or if the source computes something else at each run.
    """
    reference.require_repeatable()
    reason = reference.fault(work)
    if not reason:
        return work
    changed = [name for name, count in work.cleaned.items() if count]
    best = prepare(work.source, work.request, ()) if changed else work
    if changed:
        reason = reference.fault(best)
    if reason:
        raise Unsound(work.source.path, reason)
    kept: list[str] = []
    left_out = dict(work.left_out)
    for name in changed:
        made = prepare(work.source, work.request, (*kept, name))
        if reason := reference.fault(made):
            left_out[name] = reason
        else:
            best = made
            kept.append(name)
    return replace(work, graph=best.graph, cleaned=best.cleaned, outside=best.outside, left_out=left_out)


def _whole(work: Workspace) -> onnx.ModelProto:
    """The model of a workspace, with the nodes that stay outside."""
    model = work.plain()
    if [value.name for value in model.graph.output] != [value.name for value in work.source.model.graph.output]:
        model = join(wrap(work.source.model, model, *work.outside, b""), model)
    return model


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """The model in stock ONNX Runtime."""
    if model.ByteSize() < LARGEST_INLINE:
        return quiet_session(model.SerializeToString())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plain.onnx"
        onnx.save(model, path, save_as_external_data=True)
        return quiet_session(str(path))


def _said(error: Exception) -> str:
    """The error in one line, with its class if it is not meant for users."""
    return str(error) if isinstance(error, OnnxoptError) else f"{type(error).__name__}: {first_line(error)}"
