"""Low-rank factors of a weight that minimize the error in the layer's outputs.

The error of the outputs ``y = W x`` has the power ``|(W - W') L|^2``, where ``L L^T = H = E[x x^T]`` is the second
moment of the inputs. If H is not known, L is the identity and the error of the weights themselves is minimized.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import linalg

Floats = npt.NDArray[np.float64]

_SWEEPS = 3
"""Of higher-order orthogonal iteration. In trained kernels (ResNet-32, LeNet-5) they change the error of the outputs by
at most 2 %, seven more by 1 %; with second moments by 0.9 % and 0.1 %."""


def root(feedback: npt.NDArray[np.float32], variance: npt.NDArray[np.float32]) -> Floats:
    """``L[inputs, inputs]`` with ``L L^T = H``, from the factor of ``H^-1`` of error feedback.

    That factor is ``H^-1 = U^T U`` with ``U = diag(variance)^(-1/2) (I - feedback)``, so ``L = U^-1``.

    Arguments:
        feedback: [inputs, inputs], strictly upper.
        variance: [inputs], above 0.
    """
    unit = np.eye(len(variance)) - feedback
    inverse, _ = linalg.lapack.dtrtri(unit, unitdiag=1, overwrite_c=1)
    return np.asarray(inverse * np.sqrt(variance, dtype=np.float64))


def svd(w: Floats, rank: int, root: Floats | None = None) -> tuple[Floats, Floats]:
    """Factors ``U[outputs, rank]`` and ``V[rank, inputs]`` of ``W[outputs, inputs]``, of equal norms.

    The best ``U V`` truncates the singular values of ``W L = P S Q^T`` and multiplies by ``L^-1``: U is the leading
    part of P and ``V = S Q^T L^-1 = U^T W``. This projects the layer's outputs on their principal components.
    """
    u = _leading(w if root is None else w @ root, rank)
    v = u.T @ w
    norm = np.sqrt(np.linalg.norm(v, axis=1))
    norm[norm == 0] = 1
    return u * norm, v / norm[:, None]


def tucker(kernel: Floats, rank_in: int, rank_out: int, root: Floats | None = None) -> tuple[Floats, Floats, Floats]:
    """Tucker-2 of ``K[outputs, inputs, taps]`` (Kim et al. 2016, eq. 3 to 5), factors in the order of computation.

    Returns ``A[rank_in, inputs]``, ``C[rank_out, rank_in, taps]`` and ``B[outputs, rank_out]``; K is ``B C A`` along
    outputs and inputs. Higher-order orthogonal iteration refines the higher-order SVD. Given a root L of the second
    moment (inputs x taps), A is computed on inputs that are whitened by their second moment summed over taps; C and B
    are then optimal for this A.
    """
    outputs, inputs, taps = kernel.shape
    whitened, white = _whiten(kernel, root)
    k = whitened.reshape(inputs, outputs, taps)
    a = _leading(whitened, rank_in)
    for _ in range(_SWEEPS):
        b = _leading(np.einsum("sr,stp->trp", a, k, optimize=True).reshape(outputs, -1), rank_out)
        a = _leading(np.einsum("tq,stp->sqp", b, k, optimize=True).reshape(inputs, -1), rank_in)
    a = _unwhiten(a, white)
    best = _regress(kernel, a, root)
    met = best if root is None else best @ _meet(a, root, taps)
    b = _leading(met, rank_out)
    return a, (b.T @ best).reshape(rank_out, rank_in, taps), b


def spatial(kernel: Floats, rank: int, root: Floats | None = None) -> tuple[Floats, Floats]:
    """``K[outputs, inputs, rows, columns]`` as rows x 1 and then 1 x columns (Jaderberg et al. 2014).

    Returns ``V[rank, inputs, rows]`` and ``H[outputs, rank, columns]``: the leading singular vectors of K as a matrix
    (inputs x rows) x (outputs x columns). Given a root L of the second moment (inputs x rows x columns), V is computed
    on inputs that are whitened by their second moment summed over columns; H is then optimal for this V.
    """
    outputs, inputs, rows, columns = kernel.shape
    flat = kernel.reshape(outputs, inputs * rows, columns)
    whitened, white = _whiten(flat, root)
    v = _unwhiten(_leading(whitened, rank), white)
    return v.reshape(rank, inputs, rows), _regress(flat, v, root).reshape(outputs, rank, columns)


def _leading(a: Floats, rank: int) -> Floats:
    """Left singular vectors ``[m, rank]`` of the largest singular values of ``a[m, n]``.

    Uses the smaller of ``A A^T`` and ``A^T A``. This loses singular values below 1e-8 of the largest, which is less
    than the rounding of float32.
    """
    m, n = a.shape
    size = min(m, n)
    gram = a @ a.T if m <= n else a.T @ a
    _, vectors = linalg.eigh(gram, subset_by_index=[size - min(rank, size), size - 1], overwrite_a=True)
    leading = vectors[:, ::-1]
    if m > n:
        leading, _ = linalg.qr(a @ leading, mode="economic")
    return np.ascontiguousarray(leading)


def unfold(kernel: Floats, root: Floats | None = None) -> Floats:
    """``K[outputs, inputs, taps]`` as ``[inputs, outputs x taps]``, its inputs whitened (see `tucker`)."""
    return _whiten(kernel, root)[0]


def _whiten(kernel: Floats, root: Floats | None) -> tuple[Floats, Floats | None]:
    """``W^T K``, unfolded, and the Cholesky factor W of the inputs' second moment, summed over taps."""
    _, inputs, taps = kernel.shape
    matrix = kernel.swapaxes(0, 1).reshape(inputs, -1)
    if root is None:
        return matrix, None
    by_tap = root.reshape(inputs, taps, -1)
    shared = sum(by_tap[:, tap] @ by_tap[:, tap].T for tap in range(taps))
    white = linalg.cholesky(shared, lower=True)
    return white.T @ matrix, white


def _unwhiten(a: Floats, white: Floats | None) -> Floats:
    """Rows ``[rank, inputs]`` that project the inputs as the columns of `a` project the whitened inputs."""
    return np.ascontiguousarray(a.T if white is None else linalg.solve_triangular(white, a, trans="T", lower=True).T)


def _meet(a: Floats, root: Floats, taps: int) -> Floats:
    """A at every tap, times L: [rank x taps, inputs x taps]"""
    rank, inputs = a.shape
    return np.asarray((a @ root.reshape(inputs, -1)).reshape(rank * taps, -1))


def _regress(kernel: Floats, a: Floats, root: Floats | None) -> Floats:
    """``[outputs, rank x taps]``: least squares for the outputs from ``A[rank, inputs] x`` at every tap."""
    outputs, _, taps = kernel.shape
    if root is None:  # the rows of A are orthonormal
        return np.asarray(np.einsum("rs,tsp->trp", a, kernel, optimize=True).reshape(outputs, -1))
    q, r = linalg.qr(_meet(a, root, taps).T, mode="economic")
    wanted = kernel.reshape(outputs, -1) @ root
    return np.asarray(linalg.solve_triangular(r, q.T @ wanted.T).T)
