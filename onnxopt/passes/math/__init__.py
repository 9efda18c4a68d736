"""Numerical methods: low-rank factors and ranks, all in float64; clustering; relative indices."""

from onnxopt.passes.math.factors import root, spatial, svd, tucker, unfold
from onnxopt.passes.math.ranks import Spectrum, energy_rank, evbmf, spectrum, tail

__all__ = ["Spectrum", "energy_rank", "evbmf", "root", "spatial", "spectrum", "svd", "tail", "tucker", "unfold"]
