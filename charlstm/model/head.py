"""The softmax head: a matrix of its own, or the embedding, of which then each row serves twice.

Tied (Press & Wolf 2017, arXiv 1608.05859; Inan et al. 2017, arXiv 1611.01462) the logits are
h P embedding^T + bias, with a down-projection P (H, E) only where E is not H.
"""

from __future__ import annotations

from ..backends import Array, Ops
from ..cifg import Parameters


def head_inputs(ops: Ops, rows: Array, parameters: Parameters) -> tuple[Array, Array, Array]:
    """What `Ops.head_loss` reads for rows (N, H) of the top layer: rows, weight and bias."""
    weight, bias = parameters.get("head.weight"), parameters["head.bias"]
    if weight is not None:
        return rows, weight, bias
    projection = parameters.get("head.projection")
    read = rows if projection is None else ops.matmul(rows, projection)
    return read, parameters["embedding.weight"].T, bias


def head_backward(
    ops: Ops,
    rows: Array,
    parameters: Parameters,
    targets: Array,
    gradients: Parameters,
    smoothing: float,
    row_weights: Array | None = None,
) -> tuple[float, Array]:
    """The mean loss of targets (N,), and the gradient by the rows (N, H); smoothing and weights as in `Ops`.

    Writes the gradients of the head; those of a tied embedding are only what comes from here.
    """
    tied = "head.weight" not in parameters
    dweight = gradients["embedding.weight" if tied else "head.weight"]
    read, weight, bias = head_inputs(ops, rows, parameters)
    loss, dread = ops.head_gradients(
        read, weight, bias, targets, dweight, gradients["head.bias"], smoothing, tied, row_weights
    )
    projection = parameters.get("head.projection")
    if projection is None:
        return loss, dread
    ops.matmul(rows.T, dread, out=gradients["head.projection"])
    return loss, ops.matmul(dread, projection.T)


def head_matrix(ops: Ops, parameters: Parameters) -> Array:
    """The head as one matrix (H, V), for sampling: a projection and a tied embedding multiplied out."""
    weight = parameters.get("head.weight")
    if weight is not None:
        return weight
    embedding, projection = parameters["embedding.weight"], parameters.get("head.projection")
    if projection is not None:
        return ops.matmul(projection, embedding.T)
    matrix = ops.empty(embedding.shape[::-1], embedding.dtype)
    matrix[...] = embedding.T
    return matrix
