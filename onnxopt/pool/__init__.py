"""Where independent work runs: `Threads` of this process, or the workers of a `Cluster`. Nothing else knows which."""

from onnxopt.pool.base import Pool, Shared
from onnxopt.pool.threads import Threads

__all__ = ["Pool", "Shared", "Threads"]
