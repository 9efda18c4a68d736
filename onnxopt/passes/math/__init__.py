"""Low-rank factors of weights and how many of them to keep: numbers only, all in float64."""

from onnxopt.passes.math.factors import root, spatial, svd, tucker, unfold
from onnxopt.passes.math.ranks import Spectrum, energy_rank, evbmf, spectrum, tail

__all__ = ["Spectrum", "energy_rank", "evbmf", "root", "spatial", "spectrum", "svd", "tail", "tucker", "unfold"]
