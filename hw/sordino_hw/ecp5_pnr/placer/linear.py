"""Linear algebra of the global placement: Laplacians of graphs, and conjugate gradients."""

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

__all__ = ["conjugate_gradients", "laplacian_of"]


def laplacian_of(a: NDArray[np.int64], b: NDArray[np.int64], weight: NDArray[np.float64], units: int) -> sparse.csr_matrix:
    """(units, units), of the graph with edges from `a` to `b` (edges,) of a `weight`."""
    half = sparse.coo_matrix((weight, (a, b)), (units, units)).tocsr()
    both = half + half.T
    return (sparse.diags(np.asarray(both.sum(axis=1)).ravel()) - both).tocsr()


def conjugate_gradients(
    matrix: sparse.csr_matrix, right: NDArray[np.float64], x: NDArray[np.float64], tolerance: float, rounds: int
) -> NDArray[np.float64]:
    """Solves `matrix` x = `right`, from `x` on, with a diagonal preconditioner; `right` and `x` (n,), or (n, m) for m systems at
    once.

    Ends when every residual is at most `tolerance` of its right-hand side, or after `rounds`.
    """
    several = right.ndim > 1

    def dot(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray((a * b).sum(axis=0) if several else a @ b)

    def norm(a: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.linalg.norm(a, axis=0 if several else None))

    inverse = 1 / np.maximum(matrix.diagonal(), 1e-12)
    inverse = inverse[:, None] if several else inverse
    residual = right - matrix @ x
    direction = inverse * residual
    energy = dot(residual, direction)
    limit = tolerance * norm(right) + 1e-12
    for _ in range(rounds):
        if (norm(residual) <= limit).all():
            break
        image = matrix @ direction
        step = energy / np.maximum(dot(direction, image), 1e-30)
        x = x + step * direction
        residual -= step * image
        scaled = inverse * residual
        before, energy = energy, dot(residual, scaled)
        direction = scaled + (energy / np.maximum(before, 1e-30)) * direction
    return x
