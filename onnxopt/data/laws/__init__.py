"""Laws of synthetic inputs: how the values of one input are drawn. A module for each kind of input.

Nobody knows which inputs a model will see, so an input has several laws where it can, and what is promised holds for
each of them.
"""

from onnxopt.data.laws.base import Array, At, Law
from onnxopt.data.laws.codes import Codes, Lengths, codes_near
from onnxopt.data.laws.leaves import Leaves, dead_leaves
from onnxopt.data.laws.signals import SHAPES, Signal
from onnxopt.data.laws.texts import Texts
from onnxopt.data.laws.tokens import Mask, Positions, Tokens
from onnxopt.data.laws.writing import Writing

__all__ = [
    "SHAPES",
    "Array",
    "At",
    "Codes",
    "Law",
    "Leaves",
    "Lengths",
    "Mask",
    "Positions",
    "Signal",
    "Texts",
    "Tokens",
    "Writing",
    "codes_near",
    "dead_leaves",
]
